"""How old the oldest unfinished record is, and what that costs to find out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.structs import ConsumerRecord, TopicPartition
from structlog.testing import capture_logs

from streams.engine.engine import Engine
from streams.engine.partition_processor import Head, PartitionProcessor
from streams.engine.retention_watch import RETENTION_S, RetentionWatch
from streams.rules.engine.record_ages import RecordAges
from tests.support.partition_fakes import FakeCommitter, FakeHandler, intake, partitions

pytestmark = pytest.mark.virtual_time

TASKS = TopicPartition("t.tasks", 0)
HOUR_MS = 3_600_000


class Rig:
    """A partition whose log of `tasks` ends at `end`; each record was written at `times[offset]`."""

    def __init__(self) -> None:
        self.partition = PartitionProcessor(
            0, FakeCommitter(), partitions(),
            on_room=lambda _: None, on_lost=lambda *_: None,
        )  # fmt: skip
        self.partition.open({source: Head(0, "", True) for source in partitions()}, FakeHandler())
        self.now_ms = 100 * HOUR_MS
        self.end = 0
        self.times: dict[int, int] = {}
        self.reads: list[int] = []
        self.retentions: Mapping[str, int] = {"tasks": HOUR_MS}
        self.asked = 0
        self.broken: Exception | None = None
        self._subscription = SubscriptionState()
        self._subscription.assign_from_user(list(partitions().values()))
        for tp in partitions().values():
            self.state(tp).seek(0)
        self.engine = SimpleNamespace(
            config=SimpleNamespace(prefix="t."), processors={0: self.partition}, consumer=self,
            ages=RecordAges[TopicPartition](), wall_ms=lambda: self.now_ms,
        )  # fmt: skip
        self.watch = RetentionWatch(cast("Engine", self.engine), self._read, self._settings)

    def state(self, tp: TopicPartition = TASKS) -> Any:
        """aiokafka's, of a partition."""
        return self._subscription.subscription.assignment.state_value(tp)

    async def end_offsets(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Where the logs end."""
        if self.broken is not None:
            raise self.broken
        return {tp: self.end if tp == TASKS else 0 for tp in tps}

    async def _read(self, source: str, number: int, offsets: Sequence[int]) -> dict[int, ConsumerRecord]:
        self.reads += offsets
        return {n: intake(n, timestamp_ms=self.times[n]) for n in offsets if n in self.times}

    async def _settings(self) -> Mapping[str, int]:
        self.asked += 1
        if self.broken is not None:
            raise self.broken
        return self.retentions

    def write(self, *ages_ms: int) -> None:
        """Records of these ages."""
        for age_ms in ages_ms:
            self.times[self.end] = self.now_ms - age_ms
            self.end += 1

    def take(self, *offsets: int) -> None:
        """They are in flight."""
        for offset in offsets:
            assert self.partition.ledgers["tasks"].track(offset)

    async def age_ms(self, passed_ms: int = 10_000) -> int:
        """At the next look."""
        self.now_ms += passed_ms
        await self.watch.look()
        return int(self.engine.ages.age_ms(TASKS, self.now_ms))


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    """One, closed at the end."""
    one = Rig()
    yield one
    await one.partition.close()


async def test_the_oldest_is_read_once_while_it_stays(rig: Rig) -> None:
    """Its age grows with the clock; when it is finished, that of the next is read."""
    rig.write(3 * HOUR_MS, 2 * HOUR_MS, 0)
    rig.take(0, 1, 2)
    assert await rig.age_ms() == 3 * HOUR_MS + 10_000
    assert await rig.age_ms() == 3 * HOUR_MS + 20_000
    assert rig.reads == [0]
    rig.partition.ledgers["tasks"].done(0)
    assert await rig.age_ms() == 2 * HOUR_MS + 30_000
    assert rig.reads == [0, 1]


async def test_work_that_keeps_up_reads_nothing_again(rig: Rig) -> None:
    """A record that came since the last look cannot be older than that. If it stays, it is read after all."""
    await rig.age_ms()
    for _ in range(5):
        rig.write(500)
        rig.take(rig.end - 1)
        assert await rig.age_ms() == 10_000
        rig.partition.ledgers["tasks"].done(rig.end - 1)
    assert rig.reads == []
    rig.write(HOUR_MS)
    rig.take(rig.end - 1)
    assert await rig.age_ms() == 10_000
    assert await rig.age_ms() == HOUR_MS + 20_000, "its producer wrote an old timestamp, which counts for retention"
    assert rig.reads == [rig.end - 1]


async def test_nothing_unfinished_is_no_age(rig: Rig) -> None:
    """Also if transaction markers lie at the end, and though records of the log are old."""
    rig.write(9 * HOUR_MS)
    rig.take(0)
    rig.partition.ledgers["tasks"].done(0)
    rig.end += 2
    rig.state().seek(3)
    assert await rig.age_ms() == 0
    assert rig.reads == []


async def test_records_that_there_is_no_room_for_are_unfinished(rig: Rig) -> None:
    """In the inbox, or not even fetched."""
    rig.write(2 * HOUR_MS, HOUR_MS)
    assert await rig.age_ms() == 2 * HOUR_MS + 10_000
    rig.state().seek(2)
    rig.partition.arrived("tasks", [intake(0), intake(1)])
    assert await rig.age_ms() == 2 * HOUR_MS + 20_000


async def test_a_record_that_cannot_be_read_is_as_old_as_it_is_known(rig: Rig) -> None:
    """It is not asked for again and again."""
    rig.end = 1
    rig.take(0)
    assert await rig.age_ms() == 0
    assert await rig.age_ms() == 10_000
    assert await rig.age_ms() == 20_000
    assert rig.reads == [0]


async def test_retention_is_read_every_few_minutes(rig: Rig) -> None:
    """Under the topic's full name; if it cannot be read, what was known stays."""
    await rig.watch.look()
    await rig.watch.look()
    assert (rig.engine.ages.retention_ms, rig.asked) == ({"t.tasks": HOUR_MS}, 1)
    await asyncio.sleep(RETENTION_S)
    rig.broken = OSError("away")
    with capture_logs() as logs:
        await rig.watch.look()
    assert "retention" in logs[0]["event"]
    assert rig.engine.ages.retention_ms == {"t.tasks": HOUR_MS}
    await asyncio.sleep(RETENTION_S)
    rig.broken, rig.retentions = None, {}
    await rig.watch.look()
    assert rig.engine.ages.retention_ms == {}, "it keeps its records forever now"
