"""`parallax stats AGENT`: an agent's confidence, success and times over the windows on `aggregates`.

Reads the topic once, to its end. Out: one summary in all and one a pattern (several agents: one row each), or JSON.
Needs no worker; a worker gives the same over HTTP from its exact state.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.options import (
    FAILED,
    NOT_FOUND,
    USAGE,
    CommandError,
    Format,
    OutputFormat,
    Prefix,
    Servers,
    duration_ms,
    settings_from,
)
from streams.cli.output import document, line, rows_as, sparkline, table
from streams.cli.running import run

if TYPE_CHECKING:
    from schemas.messages import Aggregate
    from streams.settings import Settings

MAX_RECORDS = 2_000_000
"""Revisions of one agent's windows held in memory; 31 days of minutes of many patterns have more."""
SPARKS = 60


class Interval(StrEnum):
    """Length of the windows to combine."""

    minute = "minute"
    hour = "hour"
    day = "day"


def stats(
    agents: Annotated[list[str], typer.Argument(metavar="AGENT...", help="one, or several to compare")],
    interval: Annotated[Interval, typer.Option(help="which windows to combine")] = Interval.minute,
    last: Annotated[
        str | None, typer.Option(metavar="DURATION", help="only windows that end within the last 15m, 24h, ...")
    ] = None,
    begin: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="only windows that end after this")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TIME", help="only windows that begin before this")] = None,
    pattern: Annotated[str | None, typer.Option(metavar="NAME", help="only this pattern")] = None,
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """Show confidence and success of an agent, or of several side by side.

    Executions, mean confidence, success rate, Brier score (how good the confidence is, 0 at best), variance, execution
    time and trend (confidence per hour with its standard error; positive: improving), in all and by pattern, over the
    windows on the topic aggregates; if answers report them, also mean wait, tokens and cost. Times are RFC 3339. Exit 4
    if there is no such window.
    """
    last_ms = None if last is None else duration_ms(last, "--last")
    span = (_time(begin, "--from", 0), _time(end, "--to", 1 << 62))
    settings = settings_from(bootstrap_servers, topic_prefix)
    names = tuple(dict.fromkeys(agents))
    run(settings, _stats(settings, names, interval.value, last_ms, span, pattern, output or Format.text))


def _time(text: str | None, option: str, default: int) -> int:
    from schemas.times import parse_time

    if text is None:
        return default
    try:
        return parse_time(text)
    except ValueError as error:
        raise CommandError(f"{option}: {error}", USAGE) from None


async def _stats(
    settings: Settings,
    agents: tuple[str, ...],
    interval: str,
    last_ms: int | None,
    span: tuple[int, int],
    pattern: str | None,
    form: Format,
) -> None:
    import time

    from streams.cli.summary import as_document, newest

    since = span[0] if last_ms is None else max(span[0], round(time.time() * 1000) - last_ms)
    found: dict[str, list[Aggregate]] = {agent: [] for agent in agents}
    async for window in _windows(settings, agents):
        inside = window.window_end > since and window.window_start < span[1]
        if window.interval == interval and inside and pattern in (None, window.pattern_name):
            found[window.agent_id].append(window)
    windows = {agent: [window for window in newest(held) if window.count] for agent, held in found.items()}
    missing = [agent for agent, held in windows.items() if not held]
    if missing:
        raise CommandError(f"agent {missing[0]}: no {interval} window with an execution found", NOT_FOUND)
    summaries = {agent: as_document(agent, held) for agent, held in windows.items()}
    if form is not Format.text:
        rows_as(form, list(summaries.values()), ()) if len(agents) > 1 else document(summaries[agents[0]], form)
    elif len(agents) > 1:
        _compare(summaries, windows, interval)
    else:
        show(summaries[agents[0]], windows[agents[0]], interval)


async def _windows(settings: Settings, agents: tuple[str, ...]) -> AsyncIterator[Aggregate]:
    from schemas.codec import Rejected, decode
    from schemas.messages import Aggregate
    from streams.broker.topic_feed import read_all

    held, keys = 0, {agent.encode() for agent in agents}
    async for record in read_all(settings, "aggregates"):
        if record.value is None or (record.key is not None and record.key not in keys):
            continue
        try:
            window = decode(Aggregate, record.value, record.headers)
        except Rejected as error:
            raise CommandError(f"{record.topic} {record.partition}/{record.offset}: {error.reason}", FAILED) from None
        if window.agent_id in agents:
            held += 1
            if held > MAX_RECORDS:
                raise CommandError(f"{', '.join(agents)}: more than {MAX_RECORDS} windows", FAILED)
            yield window


COLUMNS = ("executions", "confidence", "success", "brier", "variance", "time ms", "trend per hour")
MEASURES = (("waitTime", "mean", "wait ms"), ("totalTokens", "sum", "tokens"), ("cost", "sum", "cost"))
"""Columns shown if any execution has a value: member of the summary, its figure, heading."""


def _known(summaries: Iterable[dict[str, Any]]) -> list[tuple[str, str, str]]:
    held = list(summaries)
    return [measure for measure in MEASURES if any(measure[0] in summary for summary in held)]


def _measured(part: dict[str, Any], known: Iterable[tuple[str, str, str]]) -> tuple[str, ...]:
    return tuple(f"{part[name][figure]:,.6g}" if name in part else "-" for name, figure, _ in known)


def _cells(part: dict[str, Any]) -> tuple[Any, ...]:
    slope, error = part["confidenceTrend"], part["confidenceTrendError"]
    return (
        part["totalExecutions"],
        part["avgConfidence"],
        f"{part['successRate']:.1%}",
        f"{part['brier']:.4f}",
        f"{part['variance']:.4f}",
        f"{part['avgExecutionTime']:.1f}",
        "-" if slope is None else f"{slope:+.3f} +-{error:.3f}",
    )


def show(summary: dict[str, Any], windows: list[Aggregate], interval: str) -> None:
    from streams.cli.summary import averages

    rows = [("all", summary), *((part["patternName"] or "(none)", part) for part in summary["patterns"])]
    known = _known([summary])
    line(f"agent {summary['agentId']}, {summary['from']} to {summary['to']}, {interval} windows")
    heads = ("pattern", *COLUMNS, *(head for _, _, head in known))
    table(heads, [(name, *_cells(part), *_measured(part, known)) for name, part in rows])
    means = averages(windows, SPARKS)
    line(f"confidence by {interval}  {sparkline(means)}  last {means[-1]:.3f}")


def _compare(summaries: dict[str, dict[str, Any]], windows: dict[str, list[Aggregate]], interval: str) -> None:
    from streams.cli.summary import averages

    known = _known(summaries.values())
    rows = [
        (agent, *_cells(summary), *_measured(summary, known), sparkline(averages(windows[agent], SPARKS // 2)))
        for agent, summary in summaries.items()
    ]
    heads = (*COLUMNS, *(head for _, _, head in known))
    table(("agent", *heads, f"confidence by {interval}"), rows)
