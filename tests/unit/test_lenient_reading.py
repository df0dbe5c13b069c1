"""Readers of topics that users write, at a record whose header key is no UTF-8: none ends of it, or passes over a record."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from aiokafka.consumer import fetcher
from aiokafka.structs import ConsumerRecord, TopicPartition

from schemas.topics import full_name
from streams.broker.topic_feed import TopicFeed, read_all
from streams.engine.state_reader import PartitionReader
from streams.schedules.reader import ScheduleReader
from streams.settings import Settings
from tests.support.fake_consumer import FakeConsumer
from tests.support.partition_fakes import intake

pytestmark = pytest.mark.virtual_time

FIRST, SECOND = TopicPartition("t.schedules", 0), TopicPartition("t.schedules", 1)


class UnreadableConsumer(FakeConsumer):
    """As aiokafka: a poll that comes to the unreadable record fails, and the position of a partition before it has moved."""

    def __init__(self, ends: dict[TopicPartition, int], unreadable: tuple[TopicPartition, int]) -> None:
        super().__init__(ends)
        self.unreadable = unreadable
        self.positions = dict.fromkeys(ends, 0)
        self.usual = fetcher.MemoryRecords
        self.failed = 0

    def highwater(self, tp: TopicPartition) -> int:
        """Where the log ends."""
        return self.ends.get(tp, 0)

    async def end_offsets(self, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Topics without a log are empty."""
        return {tp: self.highwater(tp) for tp in tps}

    async def getmany(
        self, *tps: TopicPartition, timeout_ms: int, max_records: int | None = None
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        """Two records of each partition at most."""
        await asyncio.sleep(0.01)
        found = {}
        for tp in tps or tuple(self.positions):
            at = self.positions[tp]
            offsets = range(at, min(at + 2, self.ends.get(tp, 0)))
            if fetcher.MemoryRecords is self.usual and tp == self.unreadable[0] and self.unreadable[1] in offsets:
                self.failed += 1
                raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
            if offsets:
                found[tp] = [intake(offset, b"{}", source="schedules", number=tp.partition) for offset in offsets]
                self.positions[tp] = offsets[-1] + 1
        return found


async def test_the_owner_of_a_partition_reads_every_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it opens."""
    consumer = UnreadableConsumer({FIRST: 5}, (FIRST, 3))
    monkeypatch.setattr("streams.schedules.reader.committed_reader", lambda *_, **__: consumer)

    class NoState:
        async def read(self, number: int) -> list[bytes]:
            """It remembers nothing."""
            return []

    reader = ScheduleReader({}, "t.", cast("PartitionReader", NoState()))
    assert full_name("schedules", "t.") == FIRST.topic
    await reader.read(0)
    assert [record.offset for record in reader.take(0).schedules] == list(range(5))
    assert consumer.failed == 1


@pytest.mark.parametrize("partition", [FIRST, SECOND])
async def test_commands_and_clients_read_every_record(
    partition: TopicPartition, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of the other partition, whose records came with the failed poll."""
    ends = {FIRST: 5, SECOND: 4}
    consumer = UnreadableConsumer(ends, (partition, 2))
    monkeypatch.setattr("streams.broker.topic_feed.committed_reader", lambda *_, **__: consumer)
    found = [(r.partition, r.offset) async for r in read_all(Settings(topic_prefix="t."), "schedules")]
    assert sorted(found) == [(tp.partition, offset) for tp, end in ends.items() for offset in range(end)]
    assert consumer.failed == 1


async def test_a_feed_finds_the_end_behind_an_unreadable_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the last one."""
    consumer: Any = UnreadableConsumer({FIRST: 5}, (FIRST, 4))
    monkeypatch.setattr("streams.broker.topic_feed.committed_reader", lambda *_, **__: consumer)
    feed = TopicFeed(Settings(topic_prefix="t."), "schedules")
    await feed.open()
    assert (await consumer.position(FIRST), consumer.failed) == (5, 1)
    consumer.ends[FIRST] = 6
    assert [record.offset for record in await feed.poll()] == [5]
