"""Commands that read topics of the embedded broker: `tail`, `stats`, `task`, `anomalies`; and `feedback`, which reads first."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaProducer

from schemas.messages import Aggregate
from schemas.partitioning import partition_for
from schemas.times import format_time
from schemas.topics import full_name
from streams import Client
from streams.broker.client import sending
from streams.broker.topic_feed import read_all
from streams.settings import Settings
from tests.support.cli import START_MS, Cli, task
from tests.support.cli import cli as cli
from tests.support.cli import ready as ready


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


async def _produce_elsewhere(settings: Settings, value: bytes) -> None:
    """A producer whose partitioner is not Java's."""
    topic = full_name("data-points", settings.topic_prefix)
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap_servers)
    await producer.start()
    try:
        count = len(await producer.partitions_for(topic))
        await producer.send_and_wait(topic, value, b"a1", partition=(partition_for(b"a1", count) + 1) % count)
    finally:
        await producer.stop()


async def test_feedback_sends_the_point_again_with_what_came_of_it(ready: Cli) -> None:
    """Key, partition and content as they were, but for success and the mark; a task nobody answered exits 4."""
    point = {
        "agentId": "a1", "patternName": "p", "taskType": "agent", "confidence": 0.9, "success": True,
        "timestamp": format_time(START_MS), "executionTime": 12.5, "taskId": "judged-1",
    }  # fmt: skip
    await _produce_elsewhere(ready.settings, orjson.dumps(point))
    ended = await ready("feedback", "judged-1", "failure", "-o", "json")
    assert ended.code == 0, ended.err
    async with Client(settings=ready.settings) as client:
        await client.feedback("judged-1", success=True)
    records = [record async for record in read_all(ready.settings, "data-points")]
    assert len(records) == 3
    assert len({(record.partition, record.key) for record in records}) == 1, "its series is counted there"
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
