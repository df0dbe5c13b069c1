"""Statistics on real Kafka under SIGKILL: a separate process is killed in the middle of a backlog; every window stays exact."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.messages import Anomaly
from streams.settings import Settings
from streams.topics_admin import apply
from tests.support.kafka import KafkaCluster
from tests.support.points import compare, fleet, newest, produce, read_all, until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(400)]

PARTITIONS = 4
POINTS = 24_000
GARBAGE = [b"not json", b'{"agentId":"agent-0"}', b"{}"]
ROOT = Path(__file__).resolve().parents[2]


class Worker:
    """The statistics processor in a process of its own."""

    def __init__(self, bootstrap: str, prefix: str, log: Path) -> None:
        self._out = log.open("ab")
        self._log = log
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.stats_worker", bootstrap, prefix, prefix.rstrip("."), "w1"],
            stdout=self._out,
            stderr=self._out,
            cwd=ROOT,
        )
        self._from = log.stat().st_size

    def points(self) -> int:
        """Points folded by this process, -1 while it is not ready."""
        lines = self._log.read_bytes()[self._from :].decode().splitlines()
        counts = [int(line.split()[1]) for line in lines if line.startswith("points ")]
        if self.process.poll() is not None:
            raise AssertionError(f"the worker ended: {lines[-20:]}")
        return counts[-1] if counts else -1

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(10)
        self._out.close()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        finally:
            self._out.close()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[list[Worker]]:
    """Workers to be cleaned up whatever happens."""
    started: list[Worker] = []
    yield started
    for worker in started:
        if worker.process.poll() is None:
            os.kill(worker.process.pid, signal.SIGKILL)
            worker.process.wait(10)


async def _lag(bootstrap: str, topic: str, group: str) -> int:
    """Points that the group has not committed."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        tps = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        ends = await consumer.end_offsets(tps)
        return sum([ends[tp] - (await consumer.committed(tp) or 0) for tp in tps])
    finally:
        await consumer.stop()


async def test_killed_in_the_middle_every_window_equals_the_recount(
    kafka: KafkaCluster, prefix: str, tmp_path: Path, workers: list[Worker]
) -> None:
    """Two SIGKILLs while a backlog drains: aggregates equal a plain recount, each anomaly transition is one, letters are kept."""
    bootstrap = kafka.bootstrap_servers
    topic, group = f"{prefix}data-points", f"{prefix.rstrip('.')}-stats"
    await apply(Settings(bootstrap_servers=bootstrap, topic_prefix=prefix), PARTITIONS)
    points = fleet(11, POINTS, 30, int(time.time() * 1000) - POINTS * 20, step_ms=20, drops=("agent-5", "agent-9"))
    # One half lies there before the worker starts, the other comes while it is being killed.
    await produce(bootstrap, topic, [*points[: POINTS // 2], *GARBAGE])
    rest = iter(points[POINTS // 2 :])

    async def trickle() -> None:
        for _ in range(POINTS // 2 // 500):
            await produce(bootstrap, topic, [next(rest) for _ in range(500)])
            await asyncio.sleep(0.2)

    trickling = asyncio.create_task(trickle())
    log = tmp_path / "worker.log"
    for kill in range(2):
        worker = Worker(bootstrap, prefix, log)
        workers.append(worker)

        await until(lambda worker=worker: worker.points() > 500, 90)
        worker.kill()
        assert await _lag(bootstrap, topic, group) > 0, f"kill {kill} was not felt: everything was committed"
    await trickling

    worker = Worker(bootstrap, prefix, log)
    workers.append(worker)

    async def _drained() -> bool:
        worker.points()
        return await _lag(bootstrap, topic, group) == 0

    await until(_drained, 120)
    assert worker.stop() == 0
    assert "lost between" not in log.read_text()

    aggregates = [orjson.loads(record.value) for record in await read_all(bootstrap, f"{prefix}aggregates")]
    assert compare(aggregates, points) == []
    by_revision: dict[Any, Any] = {}
    for record in aggregates:
        key = (
            *(record[name] for name in ("agentId", "patternName", "taskType", "interval", "windowStart")),
            record["revision"],
        )
        assert by_revision.setdefault(key, record) == record, (
            "a revision that was published twice was not the same record"
        )
    assert any(record["final"] for record in newest(aggregates).values())

    letters = await read_all(bootstrap, f"dlq.{topic}")
    assert {letter.value for letter in letters} == set(GARBAGE)

    anomalies = [
        Anomaly.model_validate_json(record.value) for record in await read_all(bootstrap, f"{prefix}anomalies")
    ]
    dropped = {(a.agent_id, a.pattern_name): a.id for a in anomalies if a.type == "sudden_drop" and a.state == "firing"}
    assert dropped.keys() == {(agent, pattern) for agent in ("agent-5", "agent-9") for pattern in (None, "triage")}
    for anomaly in anomalies:
        if anomaly.type == "sudden_drop":
            assert anomaly.id == dropped[anomaly.agent_id, anomaly.pattern_name], "a replay must give the same episode"
