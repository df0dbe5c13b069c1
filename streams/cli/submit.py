"""`parallax submit`: sends tasks or plans from JSON lines, and with --wait prints their results.

In: JSON lines. Out: with --wait one result a line as it comes. A file is checked as a whole before anything is sent;
stdin is sent line by line and ends at the first invalid line. The reader of results is in place before the first task
is sent.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.options import (
    FAILED,
    TIMED_OUT,
    USAGE,
    CommandError,
    Format,
    OutputFormat,
    Prefix,
    Servers,
    duration_ms,
    settings_from,
)
from streams.cli.output import json_line, line, say
from streams.cli.running import run

if TYPE_CHECKING:
    from streams.broker.client import Sender
    from streams.broker.topic_feed import TopicFeed
    from streams.settings import Settings

STDIN = Path("-")
EARLIER_EVERY_S = 0.5
"""How often the results of ids that were sent before are searched, for all known by then at once."""
WARNED_LINES = 1000
"""Lines whose fields are checked for near misses."""
READ_AHEAD = 100
"""Lines of stdin that may wait to be sent."""


@dataclass(frozen=True, slots=True)
class Item:
    """One line that is a message: its id, and the record to send."""

    id: str
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Lines:
    """The source of the lines, and whether they are plans. `not_before`: RFC 3339 text for tasks without one."""

    file: Path
    plan: bool = False
    not_before: str | None = None


@dataclass(slots=True)
class AwaitedResults:
    """The ids without a result, and how the others ended."""

    ids: dict[str, None] = field(default_factory=dict)
    """In the order in which they were sent."""
    again: set[str] = field(default_factory=set)
    """Ids sent more than once here: one of the records will be answered, although another is reported as a
    duplicate.
    """
    earlier: set[str] = field(default_factory=set)
    """Ids that another command sent before: their result is on the topic already, or comes later."""
    answered: int = 0
    failed: int = 0
    steps: int = 0
    """Steps of plans that have ended."""
    all_sent: bool = False

    def sent(self, name: str) -> None:
        """Add an id that is sent."""
        if name in self.ids:
            self.again.add(name)
        self.ids[name] = None

    def over(self) -> bool:
        """Whether nothing is left to wait for."""
        return self.all_sent and not self.ids


def submit(
    file: Annotated[
        Path, typer.Argument(metavar="[FILE|-]", help="JSON lines; - reads stdin", show_default=False)
    ] = STDIN,
    plan: Annotated[bool, typer.Option("--plan", help="the lines are plans, not tasks")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="print each result as a JSON line; exit 1 if any failed")
    ] = False,
    timeout: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="how long --wait waits after the last line was sent, then exit 124. Default: until there is no progress for 2m",
        ),
    ] = None,
    not_before: Annotated[
        str | None,
        typer.Option(
            metavar="TIME|DURATION",
            help="call no agent before this RFC 3339 time, or before so long from now; for lines without notBefore",
        ),
    ] = None,
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """Send tasks or plans given as JSON lines.

    A file is checked as a whole before anything is sent; stdin is sent line by line and ends at the first bad line. An id
    is answered once: sent again within a day it ends as the event task:duplicate, and --wait prints its one result.
    """
    timeout_s = None if timeout is None else duration_ms(timeout, "--timeout") / 1000
    settings = settings_from(bootstrap_servers, topic_prefix)
    if not_before is not None and plan:
        raise CommandError("--not-before is for tasks; give it to a plan's steps as metadata.notBefore", USAGE)
    lines = Lines(file, plan, None if not_before is None else _time(not_before))
    if file != STDIN:
        count = sum(1 for _ in items(lines, tell=True))
        if count == 0:
            raise CommandError(f"{file}: nothing to send in it", USAGE)
    if wait:
        run(settings, _send_and_wait(settings, lines, timeout_s, output or Format.jsonl))
    else:
        run(settings, _send(settings, lines))


def _time(text: str) -> str:
    """A time, or a duration from now, as RFC 3339 text. Raises `CommandError`."""
    from schemas.times import format_time, parse_duration, parse_time

    try:
        return format_time(round(time.time() * 1000) + parse_duration(text))
    except ValueError:
        try:
            return format_time(parse_time(text))
        except ValueError as error:
            raise CommandError(f"--not-before: {error}", USAGE) from None


def items(lines: Lines, tell: bool = False) -> Iterator[Item]:
    """The messages of a file, one a line. Raises `CommandError` naming line, field and reason. `tell`: called with
    warnings about near misses.
    """
    from schemas.codec import Rejected, decode, parse_json
    from schemas.messages import Plan, Task
    from schemas.near_misses import near_misses_of_task
    from streams.broker.client import plan_key, task_key
    from streams.cli.lines import numbered_lines
    from streams.rules.plans.blueprint import InvalidPlan
    from streams.rules.plans.task_plans import origin_of, refuse_step
    from streams.rules.plans.templates import read_plan

    name = "stdin" if lines.file == STDIN else str(lines.file)
    warned: set[str] = set()
    for number, text in numbered_lines(lines.file):
        try:
            if lines.plan:
                a_plan = decode(Plan, text)
                read_plan(parse_json(text))
                origin_of(parse_json(text))
                yield Item(a_plan.id, plan_key(a_plan), text)
            else:
                a_task = decode(Task, text)
                refuse_step(a_task)
                if tell and number <= WARNED_LINES:
                    for given, meant in near_misses_of_task(parse_json(text)):
                        if given not in warned:
                            warned.add(given)
                            say(f"{name}: line {number}: unknown field {given}; did you mean {meant}?")
                if lines.not_before is not None and a_task.metadata.not_before is None:
                    text = _with_not_before(text, lines.not_before)
                yield Item(a_task.id, task_key(a_task), text)
        except (Rejected, InvalidPlan) as error:
            raise CommandError(f"{name}: line {number}: {error}{_hint(text, lines.plan)}", USAGE) from None


def _hint(text: bytes, plan: bool) -> str:
    """Advice for a line that is the other kind of message."""
    from schemas.codec import Rejected, parse_json

    try:
        data = parse_json(text)
    except Rejected:
        return ""
    if isinstance(data, dict) and ("tasks" in data) is not plan and ("payload" in data) is plan:
        return "; it looks like a task: leave out --plan" if plan else "; it looks like a plan: add --plan"
    return ""


def _with_not_before(text: bytes, not_before: str) -> bytes:
    from schemas.codec import dumps, parse_json

    task = parse_json(text)
    task["metadata"] = (task.get("metadata") or {}) | {"notBefore": not_before}
    return dumps(task)


async def _each(lines: Lines) -> AsyncIterator[Item]:
    """The items. Stdin is read by its own thread: it may stay silent for long, and Ctrl-C must not wait for it."""
    if lines.file != STDIN:
        for item in items(lines):
            yield item
        return
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Item | BaseException | None] = asyncio.Queue(READ_AHEAD)

    def pump() -> None:
        last: BaseException | None = None
        try:
            for item in items(lines, tell=True):
                asyncio.run_coroutine_threadsafe(queue.put(item), loop).result()
        except BaseException as error:
            last = error
        asyncio.run_coroutine_threadsafe(queue.put(last), loop).result()

    threading.Thread(target=pump, daemon=True, name="stdin").start()
    while (found := await queue.get()) is not None:
        if isinstance(found, BaseException):
            raise found
        yield found


async def _send(settings: Settings, lines: Lines) -> None:
    from streams.broker.client import require_topics, sending

    topic = "plans" if lines.plan else "tasks"
    await require_topics(settings, topic)
    async with sending(settings) as sender:
        await _send_all(sender, topic, lines, None)


async def _send_all(sender: Sender, topic: str, lines: Lines, waiting: AwaitedResults | None) -> None:
    try:
        async for item in _each(lines):
            if waiting is not None:
                waiting.sent(item.id)
            await sender.send(topic, item.key, item.value)
    finally:
        await sender.flush()
        say(f"sent {sender.sent} {topic if sender.sent != 1 else topic[:-1]}")
        if waiting is not None:
            waiting.all_sent = True


async def _send_and_wait(settings: Settings, lines: Lines, timeout_s: float | None, form: Format) -> None:
    from streams.broker.client import require_topics, sending
    from streams.broker.topic_feed import TopicFeed
    from streams.cli.patience import PATIENCE_S, until_done

    topic, answers, id_name = ("plans", "plan-results", "planId") if lines.plan else ("tasks", "results", "taskId")
    await require_topics(settings, topic, answers, "events")
    waiting = AwaitedResults()
    async with (
        TopicFeed(settings, answers) as results,
        TopicFeed(settings, "events") as events,
        sending(settings) as sender,
    ):
        printing = asyncio.create_task(_print_answers(results, waiting, id_name, form))
        watching = asyncio.create_task(_tell_events(events, waiting, id_name))
        searching = asyncio.create_task(_print_earlier(settings, answers, waiting, id_name, form))
        try:
            await _send_all(sender, topic, lines, waiting)
            await until_done(
                printing, settings, lambda: waiting.answered + waiting.steps, lambda: waiting.ids, timeout_s
            )
        except TimeoutError:
            why = "" if lines.plan or not waiting.ids else f"; why: parallax explain {next(iter(waiting.ids))}"
            after = f"{PATIENCE_S:g} s without progress" if timeout_s is None else f"{timeout_s:g} s"
            raise CommandError(
                f"{len(waiting.ids)} of {sender.sent} have no result after {after}{why}",
                TIMED_OUT,
            ) from None
        finally:
            printing.cancel()
            watching.cancel()
            searching.cancel()
    if waiting.failed:
        raise CommandError(f"{waiting.failed} of {waiting.answered} did not succeed", FAILED)


async def _print_answers(results: TopicFeed, waiting: AwaitedResults, id_name: str, form: Format) -> None:
    from streams.cli.tail import as_json

    while not waiting.over():
        for record in await results.read():
            _take(as_json(record.value), waiting, waiting.ids.keys(), id_name, form)


async def _print_earlier(settings: Settings, answers: str, waiting: AwaitedResults, id_name: str, form: Format) -> None:
    """Print the results of ids that were answered before this command. An id without one is still in progress: its
    result will come.
    """
    from contextlib import aclosing

    from aiokafka.errors import KafkaError

    from streams.broker.topic_feed import ReadStalled, read_all
    from streams.cli.tail import as_json

    searched: set[str] = set()
    took = 0.0
    while True:
        await asyncio.sleep(
            max(EARLIER_EVERY_S, 4 * took)
        )  # a read of all results is not begun for each line of a slow stdin
        wanted = (waiting.earlier & waiting.ids.keys()) - searched
        if not wanted:
            continue
        searched |= wanted
        found = 0
        began = time.monotonic()
        since_ms = round(time.time() * 1000) - 2 * settings.dispatch.idempotency_window
        try:
            async with aclosing(read_all(settings, answers, max(0, since_ms))) as records:
                async for record in records:
                    found += _take(as_json(record.value), waiting, wanted & waiting.ids.keys(), id_name, form)
        except (KafkaError, ReadStalled) as error:
            say(f"earlier results could not be read: {error or type(error).__name__}")
        took = time.monotonic() - began
        if found:
            say(f"{found} of {len(wanted)} ids sent before were answered before: the results are those of then")


def _take(answer: Any, waiting: AwaitedResults, wanted: AbstractSet[str], id_name: str, form: Format) -> bool:
    """Count and print the result of an id that is waited for; returns whether it was one."""
    if not isinstance(answer, dict) or answer.get(id_name) not in wanted:
        return False
    waiting.ids.pop(answer[id_name], None)
    waiting.answered += 1
    waiting.failed += answer.get("status") != "success"
    _print(answer, id_name, form)
    return True


async def _tell_events(events: TopicFeed, waiting: AwaitedResults, id_name: str) -> None:
    """Report progress of plans, and which ids were sent before."""
    from streams.cli.tail import as_json

    duplicate = "task:duplicate" if id_name == "taskId" else "plan:duplicate"
    async for record in events.follow():
        value = record.value or b""
        telling = b'"plan:progress"' in value or f'"{duplicate}"'.encode() in value
        event = as_json(value) if telling else None
        data = event["data"] if isinstance(event, dict) and isinstance(event.get("data"), dict) else {}
        name = data.get(id_name)
        if event is None or name not in waiting.ids:
            continue
        if event.get("type") == "plan:progress":
            waiting.steps += 1
            failed = f", {data.get('failed')} failed" if data.get("failed") else ""
            say(f"{name}: {data.get('done')} of {data.get('total')} steps ended{failed}")
        elif name not in waiting.again:
            waiting.earlier.add(name)


def _print(answer: dict[str, Any], id_name: str, form: Format) -> None:
    if form is not Format.text:
        json_line(answer)
        return
    why = (
        answer["error"].get("message", "")
        if isinstance(answer.get("error"), dict)
        else f"confidence {answer.get('confidence')}"
    )
    line(f"{answer[id_name]}  {answer.get('status')}  {answer.get('executionTime')} ms  {why}")
