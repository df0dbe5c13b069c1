"""The console script against the embedded broker: what it prints where, and how it exits."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from schemas.messages import Aggregate, Result, Task
from schemas.times import format_time
from streams.broker.client import reading, sending
from streams.broker.embedded import EmbeddedBroker
from streams.broker.topics_admin import apply
from streams.settings import Settings
from tests.support.rig import clean_environment

START_MS = 1_795_354_620_000


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def lines(self) -> list[Any]:
        """stdout as JSON lines."""
        return [orjson.loads(text) for text in self.out.splitlines()]


@dataclass(slots=True)
class Cli:
    """The console script in a directory of its own, pointed at one broker and prefix."""

    settings: Settings
    directory: Path

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """Start it and leave it running."""
        return await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("parallax")),
            *arguments,
            "--bootstrap-servers",
            self.settings.bootstrap_servers,
            "--topic-prefix",
            self.settings.topic_prefix,
            cwd=self.directory,
            env=clean_environment(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def __call__(self, *arguments: str, stdin: bytes = b"") -> Ended:
        """Run it to its end."""
        process = await self.start(*arguments)
        try:
            async with asyncio.timeout(60):
                out, err = await process.communicate(stdin)
        finally:
            if process.returncode is None:
                process.kill()
        assert process.returncode is not None
        assert b"Traceback" not in err, err.decode()
        return Ended(process.returncode, out.decode(), err.decode())


@pytest.fixture
def cli(embedded: EmbeddedBroker, settings_for: Any, tmp_path: Path) -> Cli:
    """The command line, with no topics yet."""
    return Cli(settings_for(embedded), tmp_path)


@pytest.fixture
async def ready(cli: Cli) -> Cli:
    """The command line, with all topics."""
    await apply(cli.settings, partitions=2)
    return cli


def task(task_id: str, **more: Any) -> dict[str, Any]:
    """A valid agent task."""
    return {"id": task_id, "type": "agent", "target": "a1", "payload": {"task": "hello"}} | more


def as_lines(*messages: Any) -> bytes:
    """JSON lines."""
    return b"".join(orjson.dumps(message) + b"\n" for message in messages)


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

    async with reading(settings, "tasks", from_beginning=False) as reader:
        answers = asyncio.create_task(answer())
        try:
            yield
        finally:
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)


async def test_topics_are_created_once_and_listed(cli: Cli) -> None:
    """ls fails before apply and names every topic; apply creates, a second apply changes nothing, ls is content."""
    before = await cli("topics", "ls", "-o", "json")
    assert before.code == 1
    assert {row["state"] for row in orjson.loads(before.out)} == {"missing"}
    first = await cli("topics", "apply", "--partitions", "3", "-o", "jsonl")
    assert (first.code, {row["action"] for row in first.lines()}) == (0, {"created"})
    second = await cli("topics", "apply", "-o", "jsonl")
    assert (second.code, {row["action"] for row in second.lines()}) == (0, {"unchanged"})
    after = await cli("topics", "ls")
    assert after.code == 0, after.err
    assert f"{cli.settings.topic_prefix}tasks" in after.out


@pytest.mark.parametrize(
    ("command", "topic"),
    [
        ("tail results --from-beginning --max 1", "results"),
        ("tasks ls", "results"),
        ("tasks ls --status waiting", "tasks"),
        ("explain t1", "events"),
        ("retry t1", "tasks"),
        ("retry --failed", "results"),
    ],
)
async def test_a_command_before_the_topics_exist_says_what_to_do(cli: Cli, command: str, topic: str) -> None:
    """One line naming the topic and the remedy, exit 1, and no topic is created by asking."""
    ended = await cli(*command.split())
    assert ended.code == 1
    assert f"{topic} does not exist" in ended.err
    assert "parallax topics apply" in ended.err
    assert ended.out == ""
    assert len(ended.err.strip().splitlines()) == 1


async def test_agents_come_and_go(ready: Cli) -> None:
    """add prints what it wrote, ls finds it, rm removes it, a second rm exits 4."""
    added = await ready(
        "agents", "add", "a1", "http://127.0.0.1:9/x", "--capability", "text", "--capability", "math",
        "--max-requests", "7", "--window", "30s", "--max-concurrency", "2", "-o", "json",
    )  # fmt: skip
    assert added.code == 0, added.err
    wanted = {
        "id": "a1",
        "endpoint": "http://127.0.0.1:9/x",
        "capabilities": ["text", "math"],
        "limits": {"maxRequests": 7, "windowMs": 30_000, "maxConcurrency": 2},
    }
    assert orjson.loads(added.out) == [wanted]
    assert (await ready("agents", "ls", "-o", "jsonl")).lines() == [wanted]
    assert "30s" in (await ready("agents", "ls")).out
    assert (await ready("agents", "circuit", "a1", "shut")).code == 2
    assert (await ready("agents", "circuit", "nobody", "open")).code == 4
    assert (await ready("agents", "circuit", "a1", "open", "-o", "jsonl")).lines() == [{"id": "a1", "mode": "open"}]
    assert (await ready("agents", "ls", "-o", "jsonl")).lines() == [wanted | {"breaker": {"mode": "open"}}]
    assert (await ready("agents", "rm", "a1")).code == 0
    assert (await ready("agents", "ls", "-o", "json")).out.strip() == "[]"
    gone = await ready("agents", "rm", "a1")
    assert (gone.code, gone.out) == (4, "")


async def test_agents_from_a_file_are_all_or_none(ready: Cli) -> None:
    """A bad line names its number, field and reason, and nothing is registered."""
    good = {"id": "a1", "endpoint": "http://h:1"}
    file = ready.directory / "agents.jsonl"
    file.write_bytes(as_lines(good, {"id": "a2", "endpoint": "nowhere"}))
    refused = await ready("agents", "add", "--file", str(file))
    assert refused.code == 2
    assert "line 2: endpoint" in refused.err
    assert (await ready("agents", "ls", "-o", "json")).out.strip() == "[]"
    file.write_bytes(as_lines(good, {"id": "a2", "endpoint": "grpc://h:2"}))
    assert (await ready("agents", "add", "--file", str(file))).code == 0
    assert [row["id"] for row in (await ready("agents", "ls", "-o", "jsonl")).lines()] == ["a1", "a2"]


async def test_an_agent_whose_lease_ended_is_not_listed_and_can_be_removed(ready: Cli) -> None:
    """Its registration is only remembered, in case it comes back."""
    lease = {"id": "x.gone", "ttl": 1000, "expires": 1_700_000_000_000, "ended": 1_700_000_002_001}
    file = ready.directory / "agents.jsonl"
    gone = {"id": "gone", "endpoint": "grpc://h:1", "metadata": {"lease": lease}}
    file.write_bytes(as_lines(gone, {"id": "here", "endpoint": "grpc://h:2"}))
    assert (await ready("agents", "add", "--file", str(file))).code == 0
    assert [row["id"] for row in (await ready("agents", "ls", "-o", "jsonl")).lines()] == ["here"]
    assert (await ready("agents", "rm", "gone")).code == 0


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
        async with reading(ready.settings, "events", from_beginning=False) as reader, sending(ready.settings) as sender:
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


async def test_tail_prints_json_lines_and_stops_at_max(ready: Cli) -> None:
    """Values as they lie on the topic; deleted ones as null; --no-follow ends at the end; text is one line each."""
    values = [task(f"t{n}") for n in range(5)]
    async with sending(ready.settings) as sender:
        for value in values:
            await sender.send("tasks", b"a1", orjson.dumps(value))
        await sender.send("dlq.tasks", b"k", b"\xffnot json")
        await sender.send("dlq.tasks", b"k", None)
    three = await ready("tail", "tasks", "--from-beginning", "--max", "3")
    assert (three.code, three.lines()) == (0, values[:3])
    whole = await ready("tail", f"{ready.settings.topic_prefix}tasks", "--from-beginning", "--no-follow")
    assert whole.lines() == values
    dead = await ready("tail", "dlq.tasks", "--from-beginning", "--no-follow")
    assert dead.lines() == ["\ufffdnot json", None]
    text = await ready("tail", "tasks", "--from-beginning", "--max", "1", "-o", "text")
    assert text.out.split()[1] == "a1"


async def test_tail_follows_until_interrupted(ready: Cli) -> None:
    """Without --max it waits for what comes; Ctrl-C ends it with 130 and no trace."""
    process = await ready.start("tail", "events")
    assert process.stdout is not None
    async with asyncio.timeout(60), sending(ready.settings) as sender:
        line = b""
        while not line:  # until the reader stands at the end of the topic
            await sender.send("events", b"k", b'{"n":1}')
            await sender.flush()
            try:
                async with asyncio.timeout(0.5):
                    line = await process.stdout.readline()
            except TimeoutError:
                assert process.returncode is None
        assert line == b'{"n":1}\n'
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert process.returncode == 130
    assert b"Traceback" not in err


async def test_submit_from_an_open_stdin_obeys_ctrl_c(ready: Cli) -> None:
    """A terminal that says nothing does not hold up the end."""
    process = await ready.start("submit")
    assert process.stdin is not None
    async with asyncio.timeout(60):
        process.stdin.write(as_lines(task("t1")))
        await process.stdin.drain()
        async with reading(ready.settings, "tasks", from_beginning=True) as reader:
            async for record in reader.follow():
                assert record.key == b"a1"
                break
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130


def window(minute: int, count: int, mean: float, **more: Any) -> Aggregate:
    """A minute window of agent a1 whose points all have the confidence `mean`."""
    start = START_MS + minute * 60_000
    fields: dict[str, Any] = {
        "agent_id": "a1", "pattern_name": "p", "task_type": "agent", "interval": "minute", "window_start": start,
        "window_end": start + 60_000, "final": True, "count": count, "success_count": count, "avg_confidence": mean,
        "min_confidence": mean, "max_confidence": mean, "variance": 0.0, "success_rate": 1.0, "avg_execution_time": 10.0,
        "p50_execution_time": 10.0, "p95_execution_time": 10.0, "p99_execution_time": 10.0, "p10_confidence": mean,
        "p50_confidence": mean, "brier": 0.1, "ece": 0.1,
    }  # fmt: skip
    return Aggregate(**fields | more)


async def test_stats_put_the_last_revision_of_each_window_together(ready: Cli) -> None:
    """Counts add up, means are weighted, superseded revisions do not count, the trend has its sign; unknown agents exit 4."""
    sent = [
        window(0, 1, 0.2, final=False, revision=1),
        window(0, 10, 0.8, revision=2),
        window(1, 30, 0.6, success_count=15),
        window(2, 10, 0.4),
        window(1, 999, 0.1, interval="hour"),
        window(1, 5, 0.9, agent_id="a2"),
    ]
    async with sending(ready.settings) as sender:
        for aggregate in sent:
            await sender.send("aggregates", aggregate.agent_id.encode(), orjson.dumps(aggregate.wire()))
    ended = await ready("stats", "a1", "-o", "json")
    assert ended.code == 0, ended.err
    summary = orjson.loads(ended.out)
    assert summary["agentId"] == "a1"
    assert summary["totalExecutions"] == 50
    assert summary["avgConfidence"] == pytest.approx(0.6)
    assert summary["successRate"] == pytest.approx(35 / 50)
    assert summary["variance"] == pytest.approx(0.016)
    assert summary["confidenceTrend"] == pytest.approx(-12)  # 0.2 a minute
    assert summary["confidenceTrendError"] == pytest.approx(0, abs=1e-6)
    assert len(summary["windows"]) == 3
    text = await ready("stats", "a1")
    assert "0.600" in text.out
    assert "▇▅▄" in text.out
    both = await ready("stats", "a1", "a2", "-o", "json")
    assert [(row["agentId"], row["totalExecutions"]) for row in orjson.loads(both.out)] == [("a1", 50), ("a2", 5)]
    beside = await ready("stats", "a2", "a1")
    assert [text.split()[0] for text in beside.out.splitlines()] == ["AGENT", "a2", "a1"]
    assert (await ready("stats", "a1", "a3")).code == 4
    both = await ready("stats", "a1", "--to", format_time(START_MS + 60_000), "-o", "json")
    assert orjson.loads(both.out)["totalExecutions"] == 10
    assert (await ready("stats", "a1", "--from", "noon")).code == 2
    assert (await ready("stats", "nobody")).code == 4


async def test_feedback_sends_the_point_again_with_what_came_of_it(ready: Cli) -> None:
    """Key and content as they were, but for success and the mark; a task nobody answered exits 4."""
    point = {
        "agentId": "a1", "patternName": "p", "taskType": "agent", "confidence": 0.9, "success": True,
        "timestamp": format_time(START_MS), "executionTime": 12.5, "taskId": "judged-1",
    }  # fmt: skip
    async with sending(ready.settings) as sender:
        await sender.send("data-points", b"a1", orjson.dumps(point))
    ended = await ready("feedback", "judged-1", "failure", "-o", "json")
    assert ended.code == 0, ended.err
    tail = await ready("tail", "data-points", "--from-beginning", "--max", "2", "-o", "jsonl")
    values = [orjson.loads(text) for text in tail.out.splitlines()]
    points = [value.get("value", value) for value in values]
    assert point | {"success": False, "feedback": True} in points
    assert (await ready("feedback", "nobody", "success")).code == 4


async def test_a_task_is_found_with_its_events_and_result(ready: Cli) -> None:
    """Events in the order of time and the result; an unknown id exits 4."""
    started = {"id": "e1", "type": "task:started", "timestamp": format_time(START_MS), "data": {"taskId": "t1"}}
    other = {"id": "e2", "type": "task:started", "timestamp": format_time(START_MS), "data": {"taskId": "t12"}}
    result = {"taskId": "t1", "status": "success"}
    async with sending(ready.settings) as sender:
        await sender.send("events", b"t1", orjson.dumps(started))
        await sender.send("events", b"t12", orjson.dumps(other))
        await sender.send("results", b"t1", orjson.dumps(result))
    ended = await ready("task", "t1", "-o", "json")
    assert orjson.loads(ended.out) == {"taskId": "t1", "result": result, "events": [started]}
    assert (await ready("task", "t1")).code == 0
    assert (await ready("task", "t2")).code == 4


async def test_anomalies_show_the_newest_state_of_each(ready: Cli) -> None:
    """One row an episode."""
    base = {"id": "x", "type": "sudden_drop", "agentId": "a1", "severity": "high", "detectedAt": format_time(START_MS)}
    details = {"details": {"detector": "step", "currentConfidence": 0.3}}
    async with sending(ready.settings) as sender:
        for state in ("firing", "resolved"):
            await sender.send("anomalies", b"a1", orjson.dumps(base | details | {"state": state}))
    ended = await ready("anomalies", "-o", "jsonl")
    assert [row["state"] for row in ended.lines()] == ["resolved"]
    assert "sudden_drop" in (await ready("anomalies")).out


async def test_the_doctor_tells_what_is_missing(cli: Cli) -> None:
    """No topics: exit 1 with the remedy. With topics: ok, and a warning that this broker has no transactions."""
    ill = await cli("doctor", "-o", "json")
    assert ill.code == 1
    assert {row["check"]: row["state"] for row in orjson.loads(ill.out)}["topics"] == "failed"
    await apply(cli.settings)
    well = await cli("doctor", "-o", "json")
    assert well.code == 0
    states = {row["check"]: row["state"] for row in orjson.loads(well.out)}
    assert (states["broker"], states["topics"], states["transactions"]) == ("ok", "ok", "warning")
    assert "retention" not in states
    (cli.directory / "parallax.toml").write_text('[dispatch]\nmax_wait = "30d"\n')
    patient = await cli("doctor", "-o", "json")
    sentences = [row["detail"] for row in orjson.loads(patient.out) if row["check"] == "retention"]
    assert len(sentences) == 3
    assert all("720 h" in sentence for sentence in sentences)


async def test_a_worker_says_where_it_is_and_drains_on_sigterm(ready: Cli) -> None:
    """One line on stdout, SIGTERM ends it with 0; a second worker on its port is told so in one line and exits 1."""
    process = await ready.start("worker", "--roles", "dispatch", "--web-port", "0", "--grpc-port", "0", "-o", "json")
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            where = orjson.loads(await process.stdout.readline())
            port = where["web"].rpartition(":")[2].strip("/")
            second = await ready("worker", "--roles", "dispatch", "--web-port", port, "--grpc-port", "0")
            assert second.code == 1
            assert port in second.err.splitlines()[-1]
            assert second.out == ""
            process.send_signal(signal.SIGTERM)
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert (process.returncode, out) == (0, b"")
    assert b"Traceback" not in err


async def test_no_broker_is_one_line_and_exit_3(settings_for: Any, tmp_path: Path) -> None:
    """Whatever the command, within a bounded time."""
    cli = Cli(settings_for("127.0.0.1:1"), tmp_path)
    before = time.monotonic()
    commands = [("topics", "ls"), ("agents", "ls"), ("tail", "results"), ("stats", "a1"), ("doctor",), ("worker",)]
    for ended in await asyncio.gather(*(cli(*command) for command in commands)):
        assert ended.code == 3, ended
        assert len((ended.err or ended.out).strip().splitlines()) <= 2
        assert "127.0.0.1:1" in ended.err + ended.out
    assert time.monotonic() - before < 60
