"""`parallax task ID`: the history of one task.

In: a task id. Out: its events and its result, in the order of time. Reads `events` and `results` once, to their ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.listings import matching, matching_values
from streams.cli.options import NOT_FOUND, CommandError, Format, OutputFormat, Prefix, Servers, settings_from
from streams.cli.output import document, json_line, table
from streams.cli.running import run

if TYPE_CHECKING:
    from streams.settings import Settings


def task(
    task_id: Annotated[str, typer.Argument(metavar="ID")],
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """Show the history of a task.

    Its events and its result, found by reading both topics from the beginning; if it was not called yet, its record.
    """
    settings = settings_from(bootstrap_servers, topic_prefix)
    run(settings, _task(settings, task_id, output or Format.text))


async def _task(settings: Settings, task_id: str, form: Format) -> None:
    results = await matching_values(settings, "results", task_id, lambda value: value.get("taskId") == task_id)
    events = await matching_values(settings, "events", task_id, lambda value: _event_task(value) == task_id)
    if not results:
        events += await _waiting(settings, task_id, events)
    if not results and not events:
        raise CommandError(f"task {task_id}: no record, no event and no result found", NOT_FOUND)
    events.sort(key=lambda value: str(value.get("timestamp", "")))
    if form is Format.text:
        _show(events, results)
    elif form is Format.json:
        document({"taskId": task_id, "result": results[0] if results else None, "events": events}, form)
    else:
        for value in [*events, *results]:
            json_line(value)


async def _waiting(settings: Settings, task_id: str, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The record on `tasks` of a task without a call and without a result, as a row beside the events."""
    if any(event.get("type") == "task:started" for event in events):
        return []
    from schemas.times import format_time
    from streams.rules.dispatch.refusal import refusal

    rows = []
    async for found, record in matching(settings, "tasks", task_id, lambda value: value.get("id") == task_id):
        reason = refusal(record.value, record.headers)
        data = {"agentId": found.get("target"), "capabilities": found.get("capabilities"), "reason": reason}
        kind = "waiting" if reason is None else "task:dead-lettered"
        kept = {name: value for name, value in data.items() if value is not None}
        rows.append({"type": kind, "timestamp": format_time(record.timestamp), "data": kept})
    return rows


def _event_task(value: dict[str, Any]) -> Any:
    data = value.get("data")
    return data.get("taskId") if isinstance(data, dict) else None


def _show(events: list[dict[str, Any]], results: list[dict[str, Any]]) -> None:
    from schemas.exact_json import dumps

    rows = []
    for event in events:
        data = {key: value for key, value in event.get("data", {}).items() if key not in ("taskId", "result")}
        rows.append((event.get("timestamp"), event.get("type"), dumps(data).decode()))
    table(("time", "event", "data"), rows)
    for result in results:
        table(("field", "value"), [(key, _short(value)) for key, value in result.items()], title="result")


def _short(value: Any) -> str:
    from schemas.exact_json import dumps

    return value if isinstance(value, str) else dumps(value).decode()[:500]
