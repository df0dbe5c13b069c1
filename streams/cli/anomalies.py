"""`parallax anomalies [--follow]`: what the detectors found, the newest state of each episode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.options import Format, OutputFormat, Prefix, Servers, settings_from
from streams.cli.output import cell, json_line, line, rows_as, say
from streams.cli.running import run

if TYPE_CHECKING:
    from streams.settings import Settings

MAX_EPISODES = 100_000
COLUMNS = (
    "detectedAt",
    "state",
    "severity",
    "type",
    "agentId",
    "patternName",
    "current",
    "average",
    "detector",
    "score",
    "parameters",
)


def anomalies(
    follow: Annotated[bool, typer.Option("--follow", help="continue with new ones, until Ctrl-C")] = False,
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """List the anomalies that were found.

    The newest state of each, oldest first; --follow continues with new ones as they come.
    """
    settings = settings_from(bootstrap_servers, topic_prefix)
    run(settings, _anomalies(settings, follow, output or Format.text))


async def _anomalies(settings: Settings, follow: bool, form: Format) -> None:
    from streams.broker.topic_feed import TopicFeed

    async with TopicFeed(settings, "anomalies", since_ms=0) as feed:
        newest: dict[str, dict[str, Any]] = {}
        async for record in feed.to_end():
            for found in _anomaly(record.value):
                newest.pop(found["id"], None)
                newest[found["id"]] = found
                if len(newest) > MAX_EPISODES:
                    del newest[next(iter(newest))]
        episodes = sorted(newest.values(), key=lambda found: str(found.get("detectedAt", "")))
        _list(episodes, form, follow)
        if follow:
            async for record in feed.follow():
                for found in _anomaly(record.value):
                    _one(found, form)


def _anomaly(value: bytes | None) -> list[dict[str, Any]]:
    from streams.cli.tail import as_json

    found = as_json(value)
    return [found] if isinstance(found, dict) and "id" in found else []


def _list(episodes: list[dict[str, Any]], form: Format, follow: bool) -> None:
    if form is Format.text:
        rows_as(form, [row_of(found) for found in episodes], COLUMNS)
        if not episodes:
            say("no anomaly yet")
    elif follow:
        # A document that never ends is no document: while following, JSON is a line each.
        rows_as(Format.jsonl, episodes, ())
    else:
        rows_as(form, episodes, ())


def _one(found: dict[str, Any], form: Format) -> None:
    if form is Format.text:
        row = row_of(found)
        line("  ".join(cell(row[name]) for name in COLUMNS))
    else:
        json_line(found)


def row_of(found: dict[str, Any]) -> dict[str, Any]:
    details = found.get("details") or {}
    row = {name: found.get(name) for name in COLUMNS[:6]}
    return row | {
        "current": details.get("currentConfidence"),
        "average": details.get("historicalAverage"),
        "detector": details.get("detector"),
        "score": details.get("score"),
        "parameters": _parameters(details.get("parameters")),
    }


def _parameters(found: object) -> str | None:
    """Parameters as `delta=0.01 name=mine`; empty for a detector without any."""
    return " ".join(f"{key}={value}" for key, value in found.items()) if isinstance(found, dict) and found else None
