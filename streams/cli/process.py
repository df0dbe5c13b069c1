"""`parallax worker` and `parallax dev`: processes that run until they are stopped.

In: flags. Out: one line on stdout with the addresses once the worker is ready. SIGTERM and SIGINT drain; a second SIGINT
ends at once.
"""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.options import FAILED, INTERRUPTED, OK, Format, OutputFormat, Prefix, Servers, settings_from
from streams.cli.output import json_line, line, say

if TYPE_CHECKING:
    from streams.settings import Settings

AFTER_DRAIN_S = 25.0
"""The commits after a drain and the stop of statistics end well within this time, or never."""

Roles = Annotated[
    str | None,
    typer.Option(metavar="ROLE,...", help="what this worker does: dispatch, plans, schedules, stats; all by default"),
]
WebHost = Annotated[str | None, typer.Option(metavar="HOST", help="where health, metrics and the query API listen")]
WebPort = Annotated[str | None, typer.Option(metavar="PORT", help="default 8080; 0 takes a free one")]


def worker(
    roles: Roles = None,
    app_id: Annotated[
        str | None, typer.Option(metavar="NAME", help="names the consumer groups and transactional ids")
    ] = None,
    instance_id: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="a worker restarted under this name takes its partitions back at once"),
    ] = None,
    session_timeout: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION", help="a worker without a heartbeat for this long loses its partitions; default 10s"
        ),
    ] = None,
    web_host: WebHost = None,
    web_port: WebPort = None,
    grpc_host: Annotated[
        str | None, typer.Option(metavar="HOST", help="where the registry and the agent gateway listen")
    ] = None,
    grpc_port: Annotated[str | None, typer.Option(metavar="PORT", help="default 50051; 0 takes a free one")] = None,
    insecure: Annotated[
        bool | None,
        typer.Option("--insecure", help="serve addresses that other machines reach to everyone, without tokens"),
    ] = None,
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """Run a worker until SIGTERM or Ctrl-C.

    It prints one line with its addresses when it is ready. A second Ctrl-C quits without finishing what is under way.
    """
    from streams.fast_loop import in_fast_loop
    from streams.logs import configure_logs

    settings = settings_from(
        bootstrap_servers,
        topic_prefix,
        roles=roles,
        app_id=app_id,
        instance_id=instance_id,
        session_timeout=session_timeout,
        web_host=web_host,
        web_port=web_port,
        grpc_host=grpc_host,
        grpc_port=grpc_port,
        insecure=insecure,
    )
    configure_logs(settings)
    code = in_fast_loop(run_worker(settings, output or Format.text))
    if code != OK:
        raise typer.Exit(code)


async def run_worker(settings: Settings, form: Format) -> int:
    """Run it until a signal, see `stop_on_signals`; returns the exit code."""
    from streams import worker as engine

    stop = asyncio.Event()
    signals = stop_on_signals(stop, settings.dispatch.stop_timeout / 1000 + AFTER_DRAIN_S)
    await engine.run(settings, on_ready=lambda addresses: _ready(addresses, form), stop=stop)
    return INTERRUPTED if signal.SIGINT in signals else OK


def stop_on_signals(stop: asyncio.Event, limit_s: float) -> list[signal.Signals]:
    """Set `stop` on SIGTERM or SIGINT; the returned list names the signals received. A second SIGINT interrupts at
    once.

    Processes that have not ended after `limit_s` are killed.
    """
    loop = asyncio.get_running_loop()
    came: list[signal.Signals] = []

    def stopping(which: signal.Signals) -> None:
        came.append(which)
        if not stop.is_set():
            say(
                "parallax: stopping, finishing what is under way"
                + ("; Ctrl-C again to quit" if which == signal.SIGINT else "")
            )
            # The brokers may be gone, so waiting for them might never end.
            loop.call_later(limit_s, _end_at_once, "parallax: stopping took too long; ended", FAILED)
        elif which == signal.SIGINT:
            _end_at_once("parallax: ended at once; calls under way are left to the next worker", INTERRUPTED)
        stop.set()

    for which in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(which, stopping, which)
    return came


def _end_at_once(why: str, code: int) -> None:
    """End the process without waiting: cancelling may hang where stopping does."""
    say(why)
    os._exit(code)


def _ready(addresses: Any, form: Format) -> None:
    given = {name: value for name, value in asdict(addresses).items() if value is not None}
    if form is Format.text:
        line("parallax worker ready  " + "  ".join(f"{name}={_word(value)}" for name, value in given.items()))
    else:
        json_line(given)


def _word(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def dev(
    web_host: WebHost = None,
    web_port: WebPort = None,
    bootstrap_servers: Annotated[
        str | None, typer.Option(metavar="HOST:PORT,...", help="use this running Kafka instead of starting a broker")
    ] = None,
    topic_prefix: Prefix = None,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Use the embedded broker, even if Apache Kafka is installed.")
    ] = False,
    output: OutputFormat = None,
) -> None:
    """Try everything on this machine, until Ctrl-C.

    Starts a broker, a worker, demo agents and sample traffic, and prints where to look. The broker is an Apache Kafka
    of its own, with transactions, if Kafka and Java are installed (KAFKA_HOME, or kafka-server-start.sh on the path);
    else the embedded broker. --bootstrap-servers uses your running Kafka instead (the environment is ignored).
    """
    from streams.demo.dev import run_dev

    flags = {
        "bootstrap_servers": bootstrap_servers,
        "topic_prefix": topic_prefix,
        "web_host": web_host,
        "web_port": web_port,
    }
    code = run_dev({name: value for name, value in flags.items() if value is not None}, embedded)
    if code != OK:
        raise typer.Exit(code)
