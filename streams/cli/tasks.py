"""`parallax tasks ls` and `parallax retry`: recent tasks, and failed ones sent again.

In: filters, ids. Out: rows on stdout; retries under new ids whose results carry `metadata.retryOf`. Each reads
`results` once, from the time given to the end, and `tasks` if the original tasks are needed.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.options import NOT_FOUND, USAGE, CommandError, Format, OutputFormat, Prefix, Servers, settings_from
from streams.cli.output import json_line, rows_as, say
from streams.cli.running import run

if TYPE_CHECKING:
    from streams.client.result import TaskResult
    from streams.settings import Settings

app = typer.Typer(help="List recent tasks and send failed ones again.", rich_markup_mode=None)

COLUMNS = ("taskId", "agentId", "status", "code", "confidence", "executionTime", "timestamp")
MAX_LISTED = 10_000
"""Rows gathered for a table or one JSON document; JSON lines have no bound."""
MAX_IDS = 1_000_000
RETRY_PREFIX = "retry-"
MAX_ID = 256
AHEAD_MS = 60_000
"""How far this machine's clock may be behind the clock of the given time."""
LOOK_BACK_MS = 24 * 3600 * 1000
"""How much earlier than its result a task may have been sent: as long as it may wait by default."""


class TaskStatus(StrEnum):
    """A result's status, any but success, or none yet."""

    success = "success"
    failure = "failure"
    timeout = "timeout"
    cancelled = "cancelled"
    failed = "failed"
    waiting = "waiting"


Since = Annotated[str, typer.Option(metavar="DURATION|TIME", help="since when: 15m or 24h ago, or an RFC 3339 time")]
Agent = Annotated[str | None, typer.Option(metavar="ID", help="only tasks of this agent")]


@app.command("ls")
def ls(
    agent: Agent = None,
    status: Annotated[TaskStatus | None, typer.Option(help="failed: any but success; waiting: no result yet")] = None,
    since: Since = "1h",
    maximum: Annotated[int | None, typer.Option("--max", min=1, metavar="N", help="only the newest N")] = None,
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """List tasks that ended, newest last, or with --status waiting those that have no result yet."""
    _check_agent(agent)
    settings = settings_from(bootstrap_servers, topic_prefix)
    begin_ms = since_begin(since)
    form = output or Format.text
    if status is TaskStatus.waiting:
        run(settings, _waiting(settings, agent, begin_ms, maximum, form))
    else:
        run(settings, _ended(settings, agent, status, begin_ms, maximum, form))


def retry(
    task_ids: Annotated[list[str] | None, typer.Argument(metavar="[ID...]")] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="every task that failed and was not retried; cancelled ones are left out")
    ] = False,
    agent: Agent = None,
    since: Since = "1h",
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """Send tasks again under new ids: those named, or all that failed since.

    The new result's metadata.retryOf is the first id. Running it again with --failed sends nothing twice. Exit 4 if a
    task is not found.
    """
    if bool(task_ids) == failed:
        raise CommandError("retry: give ids, or --failed", USAGE)
    _check_agent(agent)
    settings = settings_from(bootstrap_servers, topic_prefix)
    run(settings, _retry(settings, task_ids or [], agent, since_begin(since), output or Format.text))


app.command("retry")(retry)


def since_begin(since: str) -> int:
    """Epoch milliseconds of --since. Raises `CommandError`."""
    from streams.client.errors import InvalidTask
    from streams.client.times import since_ms

    now_ms = round(time.time() * 1000)
    try:
        found = since_ms(since, now_ms)
    except InvalidTask as error:
        raise CommandError(f"--{error}", USAGE) from None
    if found > now_ms + AHEAD_MS:
        raise CommandError(f"--since: {since} is in the future", USAGE)
    return found


def _check_agent(agent: str | None) -> None:
    if agent is not None and not 0 < len(agent) <= MAX_ID:
        raise CommandError(f"--agent: an id has 1 to {MAX_ID} characters, is {agent[:50]!r}", USAGE)


async def _results(settings: Settings, begin_ms: int) -> Any:
    """Results since then, in no order."""
    from contextlib import aclosing

    from schemas.codec import Rejected
    from streams.client.connection import records_since
    from streams.client.result import read_result

    async with aclosing(records_since(settings, "results", begin_ms)) as records:
        async for record in records:
            try:
                yield read_result(record.value, record.headers)
            except Rejected as error:
                say(f"parallax: results {record.partition}/{record.offset}: {error.reason}")


async def sent_tasks(settings: Settings, begin_ms: int) -> Any:
    """Tasks sent since then, with the record of each; in no order. `refused` says which of them are dead letters."""
    from contextlib import aclosing

    from schemas.codec import Rejected, decode_json
    from streams.client.connection import records_since

    async with aclosing(records_since(settings, "tasks", begin_ms)) as records:
        async for record in records:
            try:
                data = decode_json(record.value, record.headers).data
            except Rejected:
                continue  # on the dead letters' topic by now
            if isinstance(data, dict) and isinstance(data.get("id"), str):
                yield data, record


def refused(record: Any) -> str | None:
    """Why workers made a dead letter of this record of `tasks`; None: it is a task."""
    from streams.rules.dispatch.refusal import refusal

    return refusal(record.value, record.headers)


async def _ended(
    settings: Settings, agent: str | None, status: TaskStatus | None, begin_ms: int, maximum: int | None, form: Format
) -> None:
    rows: list[dict[str, Any]] = []
    bound = min(maximum or MAX_LISTED, MAX_LISTED)
    async for result in _results(settings, begin_ms):
        if agent not in (None, result.agent_id) or not _has(result, status):
            continue
        if form is Format.jsonl and maximum is None:
            json_line(_row(result))
            continue
        rows.append(_row(result))
        if len(rows) > 2 * bound:  # the newest are wanted, and the topic's partitions are in no common order
            rows = _newest(rows, bound)
    if form is not Format.jsonl or maximum is not None:
        rows_as(form, _newest(rows, bound), COLUMNS)


async def _waiting(settings: Settings, agent: str | None, begin_ms: int, maximum: int | None, form: Format) -> None:
    from schemas.times import format_time

    sent: dict[str, dict[str, Any]] = {}
    async for task, record in sent_tasks(settings, begin_ms):
        if agent in (None, task.get("target")) and len(sent) < MAX_IDS and task["id"] not in sent:
            if refused(record) is not None:
                continue  # no result will come
            row = {"taskId": task["id"], "agentId": task.get("target"), "status": "waiting"}
            sent[task["id"]] = row | {"timestamp": format_time(record.timestamp)}
    async for result in _results(settings, begin_ms):
        sent.pop(result.task_id, None)
    bound = min(maximum or MAX_LISTED, MAX_LISTED)
    rows_as(form, _newest(list(sent.values()), bound), ("taskId", "agentId", "status", "timestamp"))


def _has(result: TaskResult[Any], status: TaskStatus | None) -> bool:
    return status in (None, result.status) or (status is TaskStatus.failed and result.status != "success")


def _row(result: TaskResult[Any]) -> dict[str, Any]:
    wire = result.wire()
    code = result.error.code if result.error else None
    return {name: code if name == "code" else wire.get(name) for name in COLUMNS}


def _newest(rows: list[dict[str, Any]], bound: int) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: str(row["timestamp"]))[-bound:]


async def _retry(settings: Settings, task_ids: list[str], agent: str | None, begin_ms: int, form: Format) -> None:
    from streams.client.client import Client
    from streams.client.errors import InvalidTask
    from streams.client.history import sent_again

    wanted = dict.fromkeys(task_ids) if task_ids else await _failed(settings, agent, begin_ms)
    found, under_way = await _sent(settings, wanted, begin_ms)
    if not task_ids:
        wanted = {name: None for name in wanted if name not in under_way}
    missing = [name for name in wanted if name not in found]
    if missing and task_ids:
        raise CommandError(
            f"retry: not found on the topic tasks since then: {', '.join(missing)}; a step of a plan is named PLAN#N, see: "
            "parallax tasks ls; a plan is not sent again: submit it under a new id",
            NOT_FOUND,
        )
    rows, late, now_ms = [], 0, round(time.time() * 1000)
    async with Client(settings=settings) as client:
        for name in wanted:
            if name not in found:
                continue
            new_id = uuid.uuid4().hex if task_ids else _new_id(name)
            try:
                again = sent_again(found[name], new_id, now_ms)
            except InvalidTask as error:
                if task_ids:
                    raise CommandError(f"retry: {error}", USAGE) from None
                late += 1
                continue
            await client.send("tasks", again)
            rows.append({"taskId": new_id, "retryOf": name})
    rows_as(form, rows, ("taskId", "retryOf"))
    if late:
        say(f"{late} failed tasks are not sent again: their metadata.deadline has passed")
    if missing:
        say(f"{len(missing)} failed tasks are no longer on the topic tasks, or were steps of plans")
    if not rows:
        say("nothing to retry")


async def _sent(
    settings: Settings, wanted: dict[str, None], begin_ms: int
) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """The tasks of these ids as they were sent, and the ones that --failed sent again, ended or not."""
    found: dict[str, dict[str, Any]] = {}
    retries, under_way = {_new_id(name): name for name in wanted}, set[str]()
    if wanted:
        async for task, record in sent_tasks(settings, max(0, begin_ms - LOOK_BACK_MS)):
            if task["id"] in wanted and (task["id"] not in found or refused(record) is None):
                found[task["id"]] = task
            elif task["id"] in retries:
                under_way.add(retries[task["id"]])
    return found, under_way


async def _failed(settings: Settings, agent: str | None, begin_ms: int) -> dict[str, None]:
    """Ids of tasks that failed and were not sent again."""
    failed: dict[str, None] = {}
    retried: set[str] = set()
    ended: set[str] = set()
    async for result in _results(settings, begin_ms):
        if result.task_id.startswith(RETRY_PREFIX):
            ended.add(result.task_id)
        first = result.metadata.get("retryOf")
        if isinstance(first, str):
            retried.add(first)
        if result.status in ("failure", "timeout") and result.plan_id is None and agent in (None, result.agent_id):
            failed[result.task_id] = None
    return {name: None for name in failed if name not in retried and _new_id(name) not in ended}


def _new_id(task_id: str) -> str:
    """The same new id for the same task: a second retry is a duplicate, and answered once."""
    return f"{RETRY_PREFIX}{hashlib.sha256(task_id.encode()).hexdigest()[:32]}"
