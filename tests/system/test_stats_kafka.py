"""Statistics on real Kafka under SIGKILL: a separate process is killed in the middle of a backlog; every window stays exact."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.codec import decode
from schemas.messages import Anomaly, ConfidenceDataPoint
from schemas.times import format_time, parse_time
from streams.broker.topics_admin import apply
from streams.settings import Settings
from streams.statistics.state import State, spans_of, thresholds_of
from streams.statistics.table import deletion_offset, source_offset
from tests.support.kafka import KafkaCluster
from tests.support.points import compare, fleet, newest, produce, read_all
from tests.support.wait import until
from tests.support.written import whole_lines

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]

PARTITIONS = 4
POINTS = int(os.environ.get("STATS_POINTS", "50000"))
AGENTS = int(os.environ.get("STATS_AGENTS", "30"))
FIRST = 8_000
FREEZE_S, LONG_FREEZE_S = 4.0, 9.0  # the worker's session ends after 6 s
KILLS = int(os.environ.get("STATS_KILLS", "3"))
GARBAGE = [b"not json", b'{"agentId":"agent-0"}', b"{}"]
ROOT = Path(__file__).resolve().parents[2]


class Worker:
    """The statistics processor in a process of its own."""

    def __init__(self, bootstrap: str, prefix: str, log: Path, name: str = "w1") -> None:
        self._out = log.open("ab")
        self._log = log
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.stats_worker", bootstrap, prefix, prefix.rstrip("."), name],
            stdout=self._out,
            stderr=self._out,
            cwd=ROOT,
        )
        self._from = log.stat().st_size

    def points(self) -> int:
        """Points counted by this process, -1 while it is not ready."""
        lines = whole_lines(self._log, self._from)
        counts = [int(line.split()[1]) for line in lines if line.startswith("points ")]
        if self.process.poll() is not None:
            raise AssertionError(f"the worker ended: {lines[-20:]}")
        return counts[-1] if counts else -1

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(10)
        self._out.close()

    def freeze(self) -> None:
        """SIGSTOP: alive, and doing nothing."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self.process.pid, signal.SIGCONT)

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


class Group:
    """What the workers' group has committed, asked often."""

    def __init__(self, bootstrap: str, topic: str, group: str) -> None:
        self._consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False)
        self._tps = [TopicPartition(topic, number) for number in range(PARTITIONS)]

    async def __aenter__(self) -> Group:
        await self._consumer.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._consumer.stop()

    async def committed(self) -> int:
        """All partitions' commit offsets, added."""
        return sum(await asyncio.gather(*(self._one(tp) for tp in self._tps)))

    async def _one(self, tp: TopicPartition) -> int:
        return await self._consumer.committed(tp) or 0

    async def lag(self) -> int:
        """Points that are not committed."""
        return sum((await self._consumer.end_offsets(self._tps)).values()) - await self.committed()

    async def moved_with_more_to_come(self) -> None:
        """Wait, closely, for a commit that leaves points uncommitted: the worker is quicker than the points."""
        async with asyncio.timeout(60):
            now = await self.committed()
            while True:
                now = await self.moved(now)
                if await self.lag() > 0:
                    return

    async def moved(self, beyond: int) -> int:
        """Wait, closely, for the next commit after `beyond`."""
        async with asyncio.timeout(60):
            while True:
                now = await self.committed()
                if now > beyond:
                    return now
                await asyncio.sleep(0.002)


@pytest.mark.parametrize("hours_back", [0, 4], ids=["points of now", "points of hours ago"])
async def test_killed_in_the_middle_every_window_equals_the_recount(
    kafka: KafkaCluster, prefix: str, tmp_path: Path, workers: list[Worker], hours_back: int
) -> None:
    """Three SIGKILLs while points come: aggregates equal a recount, anomalies those of an undisturbed run, letters are kept.

    With points of hours ago each start is slow as well: the worker stands still as it begins, and again, longer than its session,
    in the middle of its work.
    """
    bootstrap = kafka.bootstrap_servers
    topic, group = f"{prefix}data-points", f"{prefix.rstrip('.')}-stats"
    await apply(Settings(bootstrap_servers=bootstrap, topic_prefix=prefix), PARTITIONS)
    # Half an hour at most: every minute is still kept at the end; of hours ago, from `hours_back` on to one hour ago.
    step_ms = min(10.0, 1_800_000 / POINTS) if not hours_back else (hours_back - 1) * 3_600_000 / POINTS
    begin_ms = int(time.time() * 1000 - POINTS * step_ms - (3_600_000 if hours_back else 0))
    points = _disturbed(fleet(11, POINTS, AGENTS, begin_ms, step_ms, drops=("agent-5", "agent-9")))
    # Some lie there before the worker starts, the others come while it is being killed.
    await produce(bootstrap, topic, [*points[:FIRST], *GARBAGE], idempotent=True)
    rest = iter(points[FIRST:])

    kills = sent = 0

    async def trickle() -> None:
        nonlocal sent
        # Each kill has its share of the points; then few come, so that some are left for the others on a slow machine too.
        while batch := list(islice(rest, 250 if sent < POINTS * (kills + 1) / (KILLS + 1) else 10)):
            await produce(bootstrap, topic, batch, idempotent=True)
            sent += len(batch)
            await asyncio.sleep(0 if kills == KILLS else 0.6 if hours_back else 0.15)

    trickling = asyncio.create_task(trickle())
    log = tmp_path / "worker.log"
    async with Group(bootstrap, topic, group) as commits:
        while kills < KILLS:
            worker = Worker(bootstrap, prefix, log)
            workers.append(worker)
            if hours_back:
                await _stand_still(worker, 1.0, FREEZE_S)
            # Right after a commit a commit that went too far is not yet hidden by the points counted after it.
            await commits.moved(await commits.committed())
            await commits.moved_with_more_to_come()
            if hours_back and kills == 1:
                await _stand_still(worker, 0.0, LONG_FREEZE_S)
                await commits.moved(await commits.committed())
            worker.kill()
            assert await commits.lag() > 0, f"kill {kills} was not felt: everything was committed"
            kills += 1
        assert not trickling.done(), "points still came when the last kill fell"
        worker = Worker(bootstrap, prefix, log)
        workers.append(worker)
        if hours_back:
            await _stand_still(worker, 1.0, FREEZE_S)
        await trickling

        async def _drained() -> bool:
            worker.points()
            return await commits.lag() == 0

        await until(_drained, 300)
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
    told = {(a.id, a.state): a for a in anomalies}
    assert len({anomaly.model_dump_json() for anomaly in anomalies}) == len(told), "told twice, but not alike"
    undisturbed = await _undisturbed(bootstrap, topic)
    apart = told.keys() ^ undisturbed.keys()
    assert not apart, [(told | undisturbed)[key] for key in sorted(apart)]
    # How many points of now a check interval holds depends on how fast the machine sends them.
    felt = {"sudden_drop", "low_confidence"} | ({"high_variance"} if hours_back else set())
    assert {a.type for a in told.values()} >= felt
    drops = {a.agent_id: a for a in told.values() if a.type == "sudden_drop" and a.state == "firing"}
    assert drops.keys() >= {"agent-5", "agent-9"}
    assert len(drops) <= 4, "a false alarm in 10,000 points of a stream, on average, is what is promised"


async def test_a_worker_that_slept_writes_nothing_over_what_its_successor_knows(
    kafka: KafkaCluster, prefix: str, tmp_path: Path, workers: list[Worker]
) -> None:
    """One of two is frozen in the middle of its work, longer than its session, thrice: in the changelog no row of a key lies on
    an older one's place, deletions included, and every window equals the recount."""
    bootstrap = kafka.bootstrap_servers
    topic, group = f"{prefix}data-points", f"{prefix.rstrip('.')}-stats"
    await apply(Settings(bootstrap_servers=bootstrap, topic_prefix=prefix), PARTITIONS)
    points = fleet(12, 30_000, 20, int(time.time() * 1000) - 300_000)
    rest, done = iter(points), asyncio.Event()

    async def trickle() -> None:
        while batch := list(islice(rest, 200)):
            await produce(bootstrap, topic, batch, idempotent=True)
            await asyncio.sleep(0 if done.is_set() else 0.25)

    first, second = (Worker(bootstrap, prefix, tmp_path / f"{name}.log", name) for name in ("w1", "w2"))
    workers += [first, second]
    await until(lambda: first.points() >= 0 and second.points() >= 0, 60)
    trickling = asyncio.create_task(trickle())
    async with Group(bootstrap, topic, group) as commits:
        for sleeper in (first, second, first):
            await commits.moved(await commits.committed())
            await _stand_still(sleeper, 0.2, LONG_FREEZE_S)
        done.set()
        await trickling

        async def _drained() -> bool:
            return await commits.lag() == 0

        await until(_drained, 300)
    assert [worker.stop() for worker in (first, second)] == [0, 0]
    aggregates = [orjson.loads(record.value) for record in await read_all(bootstrap, f"{prefix}aggregates")]
    assert compare(aggregates, points) == []
    newest_offset: dict[bytes, int] = {}
    for record in await read_all(bootstrap, f"{prefix}stats-changelog"):
        offset = deletion_offset(record) if record.value is None else source_offset(record.value)
        assert offset is not None
        assert offset >= newest_offset.get(record.key, -1), f"{record.key!r} was overwritten by an older row"
        newest_offset[record.key] = offset


async def _stand_still(worker: Worker, after_s: float, seconds: float) -> None:
    """A process that gets no time for a while."""
    await asyncio.sleep(after_s)
    worker.freeze()
    await asyncio.sleep(seconds)
    worker.thaw()


def _disturbed(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One in twenty comes two minutes late, one in fifty twice."""
    rng = random.Random(3)
    found = []
    for place, point in enumerate(points):
        late = rng.random() < 0.05
        at = place + rng.randrange(50)
        time_ms = parse_time(point["timestamp"]) - (120_000 if late else 0)
        row = (at, point | {"timestamp": format_time(time_ms)})
        found += [row, row] if rng.random() < 0.02 else [row]
    return [point for _, point in sorted(found, key=lambda row: row[0])]


async def _undisturbed(bootstrap: str, topic: str) -> dict[tuple[str, str], Anomaly]:
    """What one process that nobody kills makes of the topic, without the clock."""
    found: dict[tuple[str, str], Anomaly] = {}
    settings = Settings()
    state = State(table=cast("Any", SimpleNamespace(data={})), spans=spans_of(settings), limits=thresholds_of(settings))
    for record in sorted(await read_all(bootstrap, topic), key=lambda record: (record.partition, record.offset)):
        if record.value in GARBAGE:
            continue
        live = state.apply(decode(ConfidenceDataPoint, record.value, ()), record.partition, record.offset)
        found |= {(anomaly.id, anomaly.state): anomaly for anomaly in live.series.anomalies}
        live.series.anomalies.clear()
    return found
