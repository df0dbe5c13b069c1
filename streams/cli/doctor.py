"""`parallax doctor`: checks Kafka (reachable at its advertised addresses, set up, with transactions), the workers'
ports and their settings.

In: settings. Out: one row a check. Exit 3 if no broker answers, 1 if a check failed; a warning is no failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from streams.cli.options import FAILED, UNREACHABLE, Format, OutputFormat, Prefix, Servers, settings_from
from streams.cli.output import rows_as

if TYPE_CHECKING:
    from streams.settings import Settings

CONNECT_TIMEOUT_S = 3.0
REACH_TIMEOUT_S = 6.0
TRANSACTIONS_TIMEOUT_S = 30.0
COLUMNS = ("check", "state", "detail")


def doctor(bootstrap_servers: Servers = None, topic_prefix: Prefix = None, output: OutputFormat = None) -> None:
    """Check the broker, the topics and the settings.

    The broker answers; its advertised addresses are reachable from here; this user has the rights of a worker; the
    topics match the table, and keep tasks as long as tasks may wait; this machine's clock agrees with the brokers'; the
    broker has transactions (without them results are at-least-once); no other workers use the same group, or the same
    topics under another app id; the Schema Registry answers, if one is set. The files of grpc_tls are usable, if set;
    no address that other machines can reach is open to everyone; tokens of web_auth are readable.
    """
    settings = settings_from(bootstrap_servers, topic_prefix)
    rows, code = asyncio.run(_examine(settings))
    rows_as(output or Format.text, rows, COLUMNS)
    if code:
        raise typer.Exit(code)


async def _examine(settings: Settings) -> tuple[list[dict[str, Any]], int]:
    from streams.broker.kafka import BrokerUnreachable, reach
    from streams.broker.noise import quiet_logs

    quiet_logs()
    try:
        await reach(settings, REACH_TIMEOUT_S)
    except BrokerUnreachable as error:
        return [_row("broker", "failed", str(error))], UNREACHABLE
    rows = [_row("broker", "ok", f"{settings.bootstrap_servers} answers ({settings.kafka.security_protocol})")]
    rows += await _listeners(settings)
    rights = await _rights(settings)
    rows += rights
    topics = await _topics(settings)
    if topics["state"] == "ok" or all(row["state"] == "ok" for row in rights):
        rows.append(topics)  # otherwise hidden topics look missing
    if topics["state"] == "ok":
        rows += await _clock(settings)
        rows += await _retention(settings)
    rows.append(await _guarantee(settings))
    rows += await _neighbours(settings)
    rows += await check_schema_registry()
    rows += check_port_of_agents(settings) + check_open_addresses(settings)
    return rows, FAILED if any(row["state"] == "failed" for row in rows) else 0


def _row(check: str, state: str, detail: str) -> dict[str, Any]:
    return {"check": check, "state": state, "detail": detail}


def check_port_of_agents(settings: Settings) -> list[dict[str, Any]]:
    """The agents' port. No row while it is plain text on this machine only."""
    from agents_io.errors import Unsupported
    from streams.grpc_tls import TlsUnusable, judge, mistrust

    given = settings.grpc_tls
    if given.cert_file is None:
        if settings.grpc_host in ("127.0.0.1", "::1", "localhost"):
            return []
        return [_row("grpc", "warning", f"plain text on {settings.grpc_host}; grpc_tls.cert_file gives TLS")]
    try:
        judge(given)
        doubt = mistrust(given)
    except (TlsUnusable, Unsupported, OSError) as error:
        return [_row("grpc", "failed", str(error))]
    if doubt is not None:
        return [_row("grpc", "warning", f"workers with these settings cannot call each other: {doubt}")]
    return [_row("grpc", "ok", "TLS" if given.client_ca_file is None else "TLS, for those who show a certificate")]


def check_open_addresses(settings: Settings) -> list[dict[str, Any]]:
    """Addresses with which a worker would refuse to start, or would serve everyone. No row if all are guarded."""
    from streams.exposure import open_addresses
    from streams.tokens import TokenUnusable, check_tokens

    state = "warning" if settings.insecure else "failed"
    rows = [_row("access", state, sentence) for sentence in open_addresses(settings)]
    try:
        check_tokens(settings)
    except TokenUnusable as error:
        rows.append(_row("access", "failed", str(error)))
    return rows


async def _listeners(settings: Settings) -> list[dict[str, Any]]:
    """Every broker must be reachable at the address it advertises: the classic trap of containers and tunnels."""
    from aiokafka.admin import AIOKafkaAdminClient

    from streams.broker.kafka import client_options, start

    admin = AIOKafkaAdminClient(**client_options(settings))
    await start(admin)
    try:
        brokers = (await admin.describe_cluster())["brokers"]
    finally:
        await admin.close()
    return [await _listener(broker["node_id"], broker["host"], broker["port"]) for broker in brokers]


async def _listener(node: int, host: str, port: int) -> dict[str, Any]:
    name = f"broker {node}"
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError) as error:
        why = "no answer in time" if isinstance(error, TimeoutError) else (error.strerror or str(error))
        return _row(name, "failed", f"advertises {host}:{port}, which cannot be reached from here: {why}")
    writer.close()
    return _row(name, "ok", f"advertises {host}:{port}, reachable")


async def _rights(settings: Settings) -> list[dict[str, Any]]:
    """Rights that a worker with these settings would lack. Empty if the brokers know no users."""
    from streams.broker.access import AccessDenied, require, user, worker_needs
    from streams.broker.kafka import BrokerUnreachable

    if settings.kafka.security_protocol == "PLAINTEXT":
        return []
    try:
        await require(settings, worker_needs(settings))
    except (AccessDenied, BrokerUnreachable) as error:
        return [_row("rights", "failed", str(error))]
    return [_row("rights", "ok", f"{user(settings)} may do what a worker of {', '.join(settings.roles)} does")]


async def _neighbours(settings: Settings) -> list[dict[str, Any]]:
    """Running workers that conflict with one with these settings. No row if there are none."""
    from aiokafka.errors import KafkaError

    from streams.broker.neighbours import neighbours

    try:
        found = await neighbours(settings)
    except (KafkaError, TimeoutError, OSError, NotImplementedError):
        return []  # the embedded broker does not support the request
    return [_row("other workers", "failed", sentence) for sentence in found]


async def check_schema_registry() -> list[dict[str, Any]]:
    """The Schema Registry. No row if none is set."""
    from streams.schema_registry import SchemaUnavailable, registry

    schemas = registry()
    if schemas is None:
        return []
    try:
        await schemas.check()
    except SchemaUnavailable as error:
        return [_row("schemas", "failed", str(error))]
    return [_row("schemas", "ok", f"{schemas.url} answers")]


async def _clock(settings: Settings) -> list[dict[str, Any]]:
    """This machine's clock against the brokers'. No row while they agree, or if the difference is unknown."""
    from aiokafka.errors import KafkaError

    from streams.broker.kafka import client_options
    from streams.engine.broker_clock import REPORTED_MS, describe_skew
    from streams.engine.event_sink import EventSink

    sink = EventSink(
        options=client_options(settings), prefix=settings.topic_prefix, idempotent=False, clock_topic="state"
    )
    try:
        await sink.start()
        skew_ms = sink.clock.skew_ms
    except (KafkaError, TimeoutError, OSError):
        return []  # other checks report what is wrong with the brokers
    finally:
        await sink.stop()
    return [] if abs(skew_ms) < REPORTED_MS else [_row("clock", "warning", describe_skew(skew_ms))]


async def _topics(settings: Settings) -> dict[str, Any]:
    from streams.broker.topics_admin import MissingTopics, TopicsError, check

    try:
        partitions = await check(settings, equal=True)
    except (MissingTopics, TopicsError) as error:
        return _row("topics", "failed", str(error))
    return _row("topics", "ok", f"all there, {partitions} partitions of tasks")


async def _retention(settings: Settings) -> list[dict[str, Any]]:
    """Topics that keep tasks for less time than tasks may wait. No row if there are none."""
    from aiokafka.errors import KafkaError

    from schemas.topics import INTAKE, full_name
    from streams.broker.retention import retention_ms
    from streams.broker.topics_admin import TopicsError

    try:
        found = await retention_ms(settings, INTAKE)
    except (KafkaError, TopicsError, TimeoutError, OSError):
        return []  # other checks report what is wrong with the brokers
    named = {full_name(name, settings.topic_prefix): ms for name, ms in found.items()}
    sentences = short_retentions(named, settings.dispatch.max_wait)
    return [_row("retention", "warning", sentence) for sentence in sentences]


def short_retentions(retention_ms: Mapping[str, int], max_wait_ms: int) -> list[str]:
    """One sentence for each topic from which Kafka may remove tasks that still wait. `max_wait_ms`: 0 is without limit.

    >>> short_retentions({"p.tasks": 3_600_000, "p.parked": 90_000_000}, 86_400_000)
    ['p.tasks keeps records for 1 h, but tasks may wait 24 h (dispatch.max_wait): raise its retention.ms']
    """
    wait = f"{max_wait_ms / 3_600_000:.3g} h" if max_wait_ms else "without limit"
    return [
        f"{topic} keeps records for {ms / 3_600_000:.3g} h, but tasks may wait {wait} (dispatch.max_wait): "
        "raise its retention.ms"
        for topic, ms in retention_ms.items()
        if not max_wait_ms or ms < max_wait_ms
    ]


async def _guarantee(settings: Settings) -> dict[str, Any]:
    from streams.broker.kafka import BrokerUnreachable, TransactionsDenied, supports_transactions

    try:
        able = await supports_transactions(settings, TRANSACTIONS_TIMEOUT_S)
    except (BrokerUnreachable, TransactionsDenied) as error:
        return _row("transactions", "failed", str(error))
    if able:
        return _row("transactions", "ok", "exactly one result for each task")
    return _row("transactions", "warning", "this broker has none: results are at-least-once")
