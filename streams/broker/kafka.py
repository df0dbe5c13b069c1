"""Connecting to the brokers, and what they support.

In: settings. Out: keyword arguments for aiokafka's clients, and answers to "is a broker reachable?" and "does it
support transactions?", each within a bounded time. Never produces or consumes, never creates a topic, never logs a
password.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka import errors as kafka_errors
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.conn import AIOKafkaConnection, collect_hosts, create_conn
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.transaction import InitProducerIdRequest

from schemas.access import role_group
from streams.broker.bootstrap_closing import close_cut_bootstraps
from streams.broker.closed_connections import fail_on_closed
from streams.broker.oauth import TOKEN_MECHANISMS, TokenRefused, TokenUnavailable, hear_refusals, tokens
from streams.broker.tls_closing import cut_slow_ends
from streams.schema_registry import use_registry
from streams.settings import Settings, SettingsError

CLIENT_ID = "parallax"
RETRY_PAUSE_S = 0.1
_FENCING_REQUESTS = {28: 3, 9: 7}
"""TxnOffsetCommit and OffsetFetch, with the versions needed."""
CONNECT_TIMEOUT_S = 5.0
PROBE_TIMEOUT_S = 30.0
"""A fresh Kafka broker first creates its transaction log: seconds, a minute on a bad day."""
TRANSACTION_MS = 60_000
"""How long a worker's transactions may take; requested in the probe too, since brokers may allow less."""
UNKNOWN_ERROR_TRIES = 3

# Answers of a coordinator that exists but is not ready yet.
NOT_YET = (
    kafka_errors.CoordinatorLoadInProgressError,
    kafka_errors.CoordinatorNotAvailableError,
    kafka_errors.NotCoordinatorError,
    kafka_errors.RequestTimedOutError,
    kafka_errors.NodeNotReadyError,
    kafka_errors.KafkaConnectionError,
)
_DENIED = (
    kafka_errors.TransactionalIdAuthorizationFailed,
    kafka_errors.ClusterAuthorizationFailedError,
)


class BrokerUnreachable(Exception):
    """No broker answered in time. The message is one line: the address and the reason."""


class TransactionsDenied(Exception):
    """The broker has transactions, but not for this user. The message is one line that names what to grant."""


def client_options(settings: Settings) -> dict[str, Any]:
    """Keyword arguments that aiokafka's consumer, producer and admin client share. Raises `SettingsError`.

    >>> client_options(Settings(bootstrap_servers="b:9092"))["bootstrap_servers"]
    'b:9092'
    """
    _addresses(settings)
    close_cut_bootstraps()
    fail_on_closed()
    kafka = settings.kafka
    try:
        use_registry(kafka)
    except ValueError as error:
        raise SettingsError(f"kafka.schema_registry_url {kafka.schema_registry_url}: {error}") from None
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers,
        "security_protocol": kafka.security_protocol,
        "request_timeout_ms": kafka.request_timeout,
    }
    if kafka.security_protocol.startswith("SASL") and kafka.sasl_mechanism in TOKEN_MECHANISMS:
        try:
            provider = tokens(kafka)
        except ValueError as error:
            raise SettingsError(f"kafka.sasl_mechanism {kafka.sasl_mechanism} {error}") from None
        hear_refusals()
        options |= {"sasl_mechanism": "OAUTHBEARER", "sasl_oauth_token_provider": provider}
    elif kafka.security_protocol.startswith("SASL"):
        if kafka.sasl_username is None or kafka.sasl_password is None:
            raise SettingsError(
                f"kafka.security_protocol {kafka.security_protocol} needs kafka.sasl_username and kafka.sasl_password"
            )
        options |= {
            "sasl_mechanism": kafka.sasl_mechanism,
            "sasl_plain_username": kafka.sasl_username,
            "sasl_plain_password": kafka.sasl_password.get_secret_value(),
        }
    if kafka.security_protocol.endswith("SSL"):
        options["ssl_context"] = _ssl_context(settings)
        cut_slow_ends()
    return options


def _addresses(settings: Settings) -> list[tuple[str, int]]:
    """Host and port of each bootstrap server, in random order."""
    try:
        found = [(host, port) for host, port, _ in collect_hosts(settings.bootstrap_servers)]
    except ValueError:
        found = []
    if not found or not all(host and len(host) < 254 and 0 < port < 65_536 for host, port in found):
        raise SettingsError(
            f"bootstrap_servers {settings.bootstrap_servers!r}: want host:port, several with commas between"
        )
    return found


def _ssl_context(settings: Settings) -> ssl.SSLContext:
    """The default context (certificates and host names are checked) with the user's files."""
    kafka = settings.kafka
    try:
        context = ssl.create_default_context(cafile=kafka.ssl_cafile)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"kafka.ssl_cafile {kafka.ssl_cafile}: {error}") from None
    if kafka.ssl_certfile is not None:
        try:
            context.load_cert_chain(kafka.ssl_certfile, kafka.ssl_keyfile)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(f"kafka.ssl_certfile {kafka.ssl_certfile}: {error}") from None
    return context


def committed_reader(options: Mapping[str, Any], **more: Any) -> AIOKafkaConsumer:
    """A consumer without a group that reads committed records only; not started. `options`: `client_options`."""
    return AIOKafkaConsumer(
        **options,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        **more,
    )


async def start(client: Any) -> None:
    """Start an aiokafka client. If it cannot be started it is closed, since it would log a warning when collected."""
    try:
        await client.start()
    except BaseException:
        with suppress(kafka_errors.KafkaError, OSError, TimeoutError):
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await (client.stop() if hasattr(client, "stop") else client.close())
        raise


async def reach(settings: Settings, timeout_s: float) -> None:
    """Return once a broker has answered and an address it advertises is reachable; `timeout_s` bounds the whole.

    Raises `BrokerUnreachable` and `SettingsError`. Refused passwords and certificates fail at once: waiting does not
    help.
    """
    options = client_options(settings)
    deadline = time.monotonic() + timeout_s
    reason, last = f"no answer within {timeout_s:g} s", ""
    while True:
        addresses = _addresses(settings)
        for at, (host, port) in enumerate(addresses):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            try:
                # A frozen broker accepts connections and never answers: leave time for the others.
                await _answers(options, host, port, min(left_s / (len(addresses) - at), CONNECT_TIMEOUT_S))
            except (kafka_errors.KafkaError, OSError, UnicodeError) as error:  # UnicodeError: a name too long for DNS
                # The last try may have had too little time: an earlier error is more useful.
                reason = last = reason if last and isinstance(error, TimeoutError) else _reason(error, settings)
                if _hopeless(error):
                    deadline = 0.0
            else:
                return
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise BrokerUnreachable(f"Kafka is not reachable at {settings.bootstrap_servers}: {reason}")
        await asyncio.sleep(min(RETRY_PAUSE_S, left_s))


async def _answers(options: dict[str, Any], host: str, port: int, timeout_s: float) -> None:
    """Check one broker: connect, authenticate, ask for the brokers, connect to one of them."""
    async with asyncio.timeout(timeout_s):
        async with _connection(options, host, port) as connection:
            metadata = await connection.send(MetadataRequest([]))
        brokers = [(broker[1], broker[2]) for broker in metadata.brokers]
        if not brokers:
            raise kafka_errors.KafkaConnectionError("the broker that answered reports that no broker is ready")
        if (host, port) in brokers:
            return
        for at, (other_host, other_port) in enumerate(brokers):
            try:
                async with asyncio.timeout(timeout_s / 2), _connection(options, other_host, other_port):
                    return
            except OSError:
                if at == len(brokers) - 1:
                    raise AdvertisedUnreachable(f"{other_host}:{other_port}") from None


class AdvertisedUnreachable(OSError):
    """The bootstrap address answers, the address it advertises does not (the usual trap with containers)."""

    def __init__(self, address: str) -> None:
        super().__init__(f"it answers, but advertises {address}, which is unreachable from here")


@asynccontextmanager
async def _connection(options: dict[str, Any], host: str, port: int) -> AsyncIterator[AIOKafkaConnection]:
    rest = {name: value for name, value in options.items() if name != "bootstrap_servers"}
    connection = await create_conn(host, port, client_id=CLIENT_ID, **rest)
    try:
        yield connection
    finally:
        # Closing returns a future of the reader's end; waiting for it leaves no task behind.
        await connection.close()


def _reason(error: BaseException, settings: Settings) -> str:
    """The reason as one plain line."""
    if isinstance(error, AdvertisedUnreachable):
        return str(error)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, socket.gaierror | UnicodeError):
        return "unknown host"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}); set kafka.ssl_cafile to the CA to trust"
    if isinstance(error, ConnectionRefusedError) or (
        isinstance(error, OSError) and "Connect call failed" in str(error)
    ):
        return "connection refused"
    if isinstance(error, kafka_errors.UnsupportedSaslMechanismError):
        return f"the broker does not offer {settings.kafka.sasl_mechanism} (kafka.sasl_mechanism)"
    if isinstance(error, TokenUnavailable | TokenRefused):
        return str(error.args[0])
    if isinstance(error, kafka_errors.AuthenticationFailedError | kafka_errors.SaslAuthenticationFailed):
        if settings.kafka.sasl_mechanism == "AWS_MSK_IAM":
            return "the token was refused: check kafka.sasl_aws_region, and that this identity may connect"
        if settings.kafka.sasl_mechanism == "OAUTHBEARER":
            return "the token was refused: it may have expired, or have an issuer or an audience that the broker does not accept"
        return "user name or password refused (kafka.sasl_username, kafka.sasl_password)"
    if isinstance(error, kafka_errors.KafkaConnectionError | ConnectionResetError | ssl.SSLError):
        # Brokers do not answer clients with another protocol than the port's.
        return (
            f"{_first_line(error)}; is kafka.security_protocol {settings.kafka.security_protocol} right for this port?"
        )
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:300]


def _hopeless(error: BaseException) -> bool:
    return isinstance(
        error,
        kafka_errors.UnsupportedSaslMechanismError
        | kafka_errors.AuthenticationFailedError
        | kafka_errors.SaslAuthenticationFailed
        | ssl.SSLCertVerificationError,
    )


async def supports_transactions(settings: Settings, timeout_s: float = PROBE_TIMEOUT_S) -> bool:
    """Whether the broker supports transactions, tried with the id `<group>-probe` of each role.

    The API versions it advertises are no evidence: the embedded broker advertises InitProducerId and fails each call.
    Waits for a coordinator that is still loading. Raises `BrokerUnreachable` (also if none is ready within `timeout_s`)
    and `TransactionsDenied`.
    """
    deadline = time.monotonic() + timeout_s
    await reach(settings, timeout_s)
    client = AIOKafkaClient(client_id=CLIENT_ID, **client_options(settings))
    denied = ""
    try:
        async with asyncio.timeout_at(asyncio.get_running_loop().time() + max(0.0, deadline - time.monotonic())):
            await client.bootstrap()
            for role in settings.roles:
                denied = role_group(settings.app_id, role, settings.topic_prefix)
                if not await _probe(client, f"{denied}-probe"):
                    return False
            return True
    except TimeoutError:
        raise BrokerUnreachable(
            f"Kafka at {settings.bootstrap_servers} answers, but its transaction coordinator was not ready "
            f"within {timeout_s:g} s"
        ) from None
    except _DENIED:
        raise TransactionsDenied(
            f"Kafka at {settings.bootstrap_servers} refuses transactions: grant Write on transactional ids that begin with "
            f"{denied}- (see: parallax docs acls), or set dispatch.delivery to at-least-once"
        ) from None
    except kafka_errors.InvalidTransactionTimeout:
        raise TransactionsDenied(
            f"Kafka at {settings.bootstrap_servers} does not allow transactions of {TRANSACTION_MS // 1000} s: set "
            f"transaction.max.timeout.ms of its brokers to {TRANSACTION_MS} or more, or dispatch.delivery to at-least-once"
        ) from None
    except kafka_errors.KafkaError as error:
        raise BrokerUnreachable(
            f"Kafka at {settings.bootstrap_servers} does not report whether it supports transactions: {_first_line(error)}"
        ) from None
    finally:
        await client.close()


def offsets_name_members(versions: Mapping[int, tuple[int, int]]) -> bool:
    """Whether a broker can fence former owners of a partition: it supports TxnOffsetCommit v3 and OffsetFetch v7 (Kafka
    2.5).

    `versions`: by API key, the first and the last version that the broker supports.

    >>> offsets_name_members({28: (0, 4), 9: (1, 9)}), offsets_name_members({28: (0, 2), 9: (1, 9)}), offsets_name_members({})
    (True, False, False)
    """
    return all(versions.get(request, (0, 0))[1] >= needed for request, needed in _FENCING_REQUESTS.items())


async def _probe(client: AIOKafkaClient, transactional_id: str) -> bool:
    """Ask until the answer is final; the caller bounds the time."""
    unknown = 0
    while True:
        try:
            node = await client.coordinator_lookup(CoordinationType.TRANSACTION, transactional_id)
            answer = await client.send(
                node, InitProducerIdRequest(transactional_id, TRANSACTION_MS), group=ConnectionGroup.COORDINATION
            )
            error = kafka_errors.for_code(answer.error_code)
            if error is kafka_errors.NoError or error is kafka_errors.ConcurrentTransactions:
                # "concurrent": another probe runs now, so there is a coordinator
                return offsets_name_members(client._conns[node, ConnectionGroup.COORDINATION]._versions)
            raise error()
        except kafka_errors.IncompatibleBrokerVersion:
            return False
        except (kafka_errors.UnsupportedVersionError, kafka_errors.UnknownError):
            # An UnknownError can be a transient fault of a real coordinator; repeated, it means "no".
            unknown += 1
            if unknown >= UNKNOWN_ERROR_TRIES:
                return False
        except NOT_YET:
            await client.force_metadata_update()
        await asyncio.sleep(RETRY_PAUSE_S)
