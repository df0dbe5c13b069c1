"""`parallax explain ID`: why a task waits, or why it ended as it did.

In: a task id. Out: reason, since and until when, what lets it go on, what to do. Reads the task's partitions of `events` and
`results`, its record on `tasks` while it has no result, and asks the workers which of them holds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.asking import Web, ask_each, checked_urls
from streams.cli.options import NOT_FOUND, CommandError, Format, OutputFormat, Prefix, Servers, settings_from
from streams.cli.output import document, line
from streams.cli.running import run
from streams.cli.tasks import Since, since_begin
from streams.cli.workers import found_workers

if TYPE_CHECKING:
    from streams.rules.live.explanation import Explanation
    from streams.settings import Settings

NAMES = (
    ("reason", "reason"),
    ("since", "since"),
    ("until", "until"),
    ("deadline", "deadline"),
    ("last failure", "failure"),
    ("goes on", "goes_on"),
    ("what to do", "remedy"),
)


def explain(
    task_id: Annotated[str, typer.Argument(metavar="ID")],
    since: Since = "24h",
    web: Web = None,
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """Explain why a task waits, or why it ended as it did.

    Since when, until when, what lets it continue, and what to do. Workers report what they hold; without a worker, only
    the topics are read. Exit 4 if the task is unknown.
    """
    urls, begin = checked_urls(web), since_begin(since)
    settings = settings_from(bootstrap_servers, topic_prefix)
    run(settings, _explain(settings, task_id, begin, urls, output or Format.text))


async def _explain(settings: Settings, task_id: str, begin: int, given: list[str], form: Format) -> None:
    from streams.client.errors import TaskFailed
    from streams.rules.live import explanation

    meanings = {code: (kind.__doc__ or "").strip() for code, kind in TaskFailed.by_code.items()}
    found = explanation.explain(await _evidence(settings, task_id, begin, given), meanings)
    if found is None:
        from schemas.times import format_time

        raise CommandError(
            f"task {task_id}: no record of it since {format_time(begin)}; search further back with --since, "
            f"or if it is a plan: parallax plan {task_id}",
            NOT_FOUND,
        )
    if form is Format.text:
        _show(found)
    else:
        document(found.document(), form)


async def _evidence(settings: Settings, task_id: str, begin: int, given: list[str]) -> Any:
    from urllib.parse import quote

    from streams.client.connection import partitions_of
    from streams.live.task_search import TaskSearch
    from streams.rules.live.explanation import Evidence

    await partitions_of(settings, ["events", "results", "tasks"])  # raises with the name of the missing topic
    known = await TaskSearch(settings).find(task_id, begin) or {}
    events = tuple(known.get("events", ()))
    if known.get("result") is not None:
        return Evidence(task_id=task_id, result=known["result"], events=events)
    sent = await _sent(settings, task_id, begin)
    found = await found_workers(settings, given)  # each names those it knows: one address is enough
    answers = await ask_each(settings, found.urls, f"/api/v1/tasks/{quote(task_id, safe='')}/waiting")
    agent, target = None, (sent or {}).get("target")
    answered = [url for url, body, reason in answers if body is not None or reason.startswith("404")]
    if target and answered:
        [(_, agent, _)] = await ask_each(settings, answered[:1], f"/api/v1/agents/{quote(target, safe='')}")
    return Evidence(
        task_id=task_id,
        events=events,
        sent=sent,
        waiting=next((body for _, body, _ in answers if body is not None), None),
        agent=agent,
        workers=len(answered),
    )


async def _sent(settings: Settings, task_id: str, begin: int) -> dict[str, Any] | None:
    """The newest record of this id on `tasks`: its time, type and target; `refused`: why it became a dead letter."""
    from streams.cli.tasks import refused, sent_tasks

    found = None
    async for task, record in sent_tasks(settings, begin):
        if task["id"] != task_id:
            continue
        reason = refused(record)
        if reason is None or found is None or found["refused"]:
            found = {"at_ms": record.timestamp, "refused": reason}
            found |= {name: task.get(name) for name in ("type", "target", "capabilities")}
    return found


def _show(found: Explanation) -> None:
    line(f"task {found.task_id}: {found.status}" + (f" ({found.code})" if found.code else ""))
    for name, field in NAMES:
        if (value := getattr(found, field)) is not None:
            line(f"{name + ':':<14}{value}")
