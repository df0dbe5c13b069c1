"""`parallax submit` against the embedded broker: what it sends, what it refuses, and which results it waits for."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson

from schemas.messages import Result, Task
from streams.broker.client import sending
from streams.broker.topic_feed import TopicFeed
from streams.settings import Settings
from tests.support.cli import START_MS, Cli, as_lines, task
from tests.support.cli import cli as cli
from tests.support.cli import ready as ready


@asynccontextmanager
async def answering(settings: Settings, silent: tuple[str, ...] = ()) -> AsyncIterator[None]:
    """A stand-in for the pipeline: each task gets a result, a failure when its id begins with `bad`, none when silent.

    A task whose id begins with `dup` is told to be a duplicate.
    """

    async def answer() -> None:
        async with sending(settings) as sender:
            async for record in reader.follow():
                assert record.value is not None
                found = Task.model_validate(orjson.loads(record.value))
                if found.id.startswith("dup"):
                    event = {"id": "e", "type": "task:duplicate", "timestamp": START_MS, "data": {"taskId": found.id}}
                    await sender.send("events", found.id.encode(), orjson.dumps(event))
                elif found.id not in silent:
                    result = Result(
                        task_id=found.id,
                        status="failure" if found.id.startswith("bad") else "success",
                        execution_time=1.5,
                        retries=0,
                        cached=False,
                        timestamp=START_MS,
                        metadata={},
                        confidence=0.9,
                    )
                    await sender.send("results", found.id.encode(), orjson.dumps(result.wire()))

    async with TopicFeed(settings, "tasks") as reader:
        answers = asyncio.create_task(answer())
        try:
            yield
        finally:
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)


async def test_submit_waits_for_every_result(ready: Cli) -> None:
    """Each result is one JSON line of stdout; a failed task makes the exit code 1."""
    file = ready.directory / "tasks.jsonl"
    file.write_bytes(as_lines(*(task(f"t{n}") for n in range(20))))
    async with answering(ready.settings):
        ended = await ready("submit", str(file), "--wait", "--timeout", "30s")
        assert ended.code == 0, ended.err
        assert {line["taskId"] for line in ended.lines()} == {f"t{n}" for n in range(20)}
        bad = await ready("submit", "-", "--wait", stdin=as_lines(task("u1"), task("bad1")))
    assert bad.code == 1
    assert {line["taskId"]: line["status"] for line in bad.lines()} == {"u1": "success", "bad1": "failure"}
    assert "1 of 2 did not succeed" in bad.err


async def test_submit_names_the_option_for_a_message_of_the_other_kind(ready: Cli) -> None:
    """A plan among tasks, a task among plans; a line that is neither has no hint."""
    plan = {"id": "p1", "kind": "sequential", "tasks": [task("a")]}
    ended = await ready("submit", stdin=as_lines(plan))
    assert ended.code == 2
    assert "looks like a plan: add --plan" in ended.err
    ended = await ready("submit", "--plan", stdin=as_lines(task("t1")))
    assert ended.code == 2
    assert "looks like a task: leave out --plan" in ended.err
    for line in (b"{\n", b"[]\n", as_lines({"id": "t1"})):
        assert "looks like" not in (await ready("submit", stdin=line)).err


async def test_submit_prints_the_result_that_an_id_had_before(ready: Cli) -> None:
    """The command was interrupted and is run again: the result is on the topic already."""
    async with sending(ready.settings) as sender:
        for name, status in (("dup1", "success"), ("dup2", "failure"), ("other", "failure")):
            await sender.send("results", name.encode(), orjson.dumps({"taskId": name, "status": status}))
    async with answering(ready.settings):
        lines = as_lines(task("t1"), task("dup1"), task("dup2"))
        ended = await ready("submit", "--wait", "--timeout", "30s", stdin=lines)
    assert ended.code == 1
    assert {line["taskId"]: line["status"] for line in ended.lines()} == {
        "t1": "success",
        "dup1": "success",
        "dup2": "failure",
    }
    assert "2 of 2 ids sent before were answered before" in ended.err
    assert "1 of 3 did not succeed" in ended.err


async def test_submit_waits_for_an_id_that_was_sent_before_and_is_not_answered_yet(ready: Cli) -> None:
    """The task of the first record goes on: its result is that of the second too."""

    async def answer_later() -> None:
        async with TopicFeed(ready.settings, "events") as reader, sending(ready.settings) as sender:
            reading_events.set()
            async for _ in reader.follow():
                await asyncio.sleep(2)
                result = {"taskId": "dup1", "status": "success"}
                await sender.send("results", b"dup1", orjson.dumps(result))
                await sender.flush()
                return

    reading_events = asyncio.Event()
    later = asyncio.create_task(answer_later())
    await reading_events.wait()
    async with answering(ready.settings):
        ended = await ready("submit", "--wait", "--timeout", "30s", stdin=as_lines(task("dup1")))
    await later
    assert ended.code == 0, ended.err
    assert [line["taskId"] for line in ended.lines()] == ["dup1"]


async def test_submit_gives_up_after_its_timeout(ready: Cli) -> None:
    """Results that came are printed, the number of missing ones is told, exit 124."""
    async with answering(ready.settings, silent=("t2",)):
        ended = await ready("submit", "--wait", "--timeout", "3s", stdin=as_lines(task("t1"), task("t2")))
    assert ended.code == 124
    assert [line["taskId"] for line in ended.lines()] == ["t1"]
    assert "1 of 2 have no result after 3 s; why: parallax explain t2" in ended.err


async def test_submit_warns_of_fields_that_are_nearly_right(ready: Cli) -> None:
    """Each once, in a file and on stdin; the tasks are sent as they are."""
    near = task("t1") | {"metadata": {"ordering_key": "k", "tenant": "t"}}
    file = ready.directory / "near.jsonl"
    file.write_bytes(as_lines(near, near | {"id": "t3"}, task("t2") | {"capabilites": ["x"]}))
    for said in (await ready("submit", str(file)), await ready("submit", stdin=file.read_bytes())):
        assert said.code == 0
        warnings = [line for line in said.err.splitlines() if "did you mean" in line]
        assert len(warnings) == 2
        assert "line 1: unknown field metadata.ordering_key; did you mean metadata.orderingKey?" in warnings[0]
        assert "line 3: unknown field capabilites; did you mean capabilities?" in warnings[1]


async def test_submit_checks_a_file_before_it_sends(ready: Cli) -> None:
    """A bad last line is named, and no task of the file is on the topic."""
    file = ready.directory / "tasks.jsonl"
    file.write_bytes(as_lines(task("t1"), {"id": "t2", "type": "agent", "payload": 1}))
    refused = await ready("submit", str(file))
    assert refused.code == 2
    assert "line 2: target: a task of type 'agent' needs target or capabilities" in refused.err
    assert (await ready("tail", "tasks", "--from-beginning", "--no-follow")).out == ""
    stdin = await ready("submit", stdin=as_lines(task("t1")) + b"{nonsense\n")
    assert stdin.code == 2
    assert "stdin: line 2: value: is not JSON" in stdin.err
    assert (await ready("submit", "nofile.jsonl")).code == 2


async def test_submit_from_an_open_stdin_obeys_ctrl_c(ready: Cli) -> None:
    """A terminal that says nothing does not hold up the end."""
    process = await ready.start("submit")
    assert process.stdin is not None
    async with asyncio.timeout(60):
        process.stdin.write(as_lines(task("t1")))
        await process.stdin.drain()
        async with TopicFeed(ready.settings, "tasks", since_ms=0) as reader:
            async for record in reader.follow():
                assert record.key == b"a1"
                break
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
