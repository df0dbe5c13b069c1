"""`parallax stats AGENT`: an agent's confidence, success and pace over the windows on `aggregates`.

Reads the topic once, to its end. Out: one summary in all and one a pattern, or one JSON document. Needs no worker.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.options import (
    FAILED,
    NOT_FOUND,
    CommandError,
    Format,
    OutputFormat,
    Prefix,
    Servers,
    duration_ms,
    settings_from,
)
from streams.cli.output import document, line, sparkline, table
from streams.cli.running import run

if TYPE_CHECKING:
    from schemas.messages import Aggregate
    from streams.settings import Settings

MAX_RECORDS = 2_000_000
"""Revisions of one agent's windows that are held; more than 31 days of minutes make for many patterns."""
SPARKS = 60


class Interval(StrEnum):
    """Which windows are put together."""

    minute = "minute"
    hour = "hour"
    day = "day"


def stats(
    agent: Annotated[str, typer.Argument(metavar="AGENT")],
    interval: Annotated[Interval, typer.Option(help="which windows are put together")] = Interval.minute,
    last: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION", help="only windows that end within the last 15m, 24h, ...", show_default=False
        ),
    ] = None,
    pattern: Annotated[str | None, typer.Option(metavar="NAME", help="only this pattern", show_default=False)] = None,
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """Show confidence and success of an agent.

    Executions, mean confidence, success rate, variance, execution time and trend (positive: improving), in all and by
    pattern, over the windows on the topic aggregates. Exit 4 when the agent has none.
    """
    last_ms = None if last is None else duration_ms(last, "--last")
    settings = settings_from(bootstrap_servers, topic_prefix)
    run(settings, _stats(settings, agent, interval.value, last_ms, pattern, output or Format.text))


async def _stats(
    settings: Settings, agent: str, interval: str, last_ms: int | None, pattern: str | None, form: Format
) -> None:
    import time

    from streams.cli.summary import as_document, newest

    since = 0 if last_ms is None else round(time.time() * 1000) - last_ms
    found = [
        window
        async for window in _windows(settings, agent)
        if window.interval == interval and window.window_end > since and pattern in (None, window.pattern_name)
    ]
    windows = [window for window in newest(found) if window.count]
    if not windows:
        raise CommandError(f"agent {agent}: no {interval} window with an execution found", NOT_FOUND)
    summary = as_document(agent, windows)
    if form is Format.text:
        _show(summary, windows, interval)
    else:
        document(summary, form)


async def _windows(settings: Settings, agent: str) -> AsyncIterator[Aggregate]:
    from schemas.codec import Rejected, decode
    from schemas.messages import Aggregate
    from streams.client import read_all

    held = 0
    async for record in read_all(settings, "aggregates"):
        if record.value is None or (record.key is not None and record.key != agent.encode()):
            continue
        try:
            window = decode(Aggregate, record.value, record.headers)
        except Rejected as error:
            raise CommandError(f"{record.topic} {record.partition}/{record.offset}: {error.reason}", FAILED) from None
        if window.agent_id == agent:
            held += 1
            if held > MAX_RECORDS:
                raise CommandError(f"agent {agent}: more than {MAX_RECORDS} windows", FAILED)
            yield window


def _show(summary: dict[str, Any], windows: list[Aggregate], interval: str) -> None:
    from streams.cli.summary import averages

    rows = [("all", summary), *((part["patternName"] or "(none)", part) for part in summary["patterns"])]
    line(f"agent {summary['agentId']}, {summary['from']} to {summary['to']}, {interval} windows")
    table(
        ("pattern", "executions", "confidence", "success", "variance", "time ms", "trend"),
        [
            (
                name,
                part["totalExecutions"],
                part["avgConfidence"],
                f"{part['successRate']:.1%}",
                f"{part['variance']:.4f}",
                f"{part['avgExecutionTime']:.1f}",
                "-" if part["confidenceTrend"] is None else f"{part['confidenceTrend']:+.3f}",
            )
            for name, part in rows
        ],
    )
    means = averages(windows, SPARKS)
    line(f"confidence by {interval}  {sparkline(means)}  last {means[-1]:.3f}")
