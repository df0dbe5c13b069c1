"""Topics read without a group: no record is lost or read twice, whatever happens to the consumer or to the topic."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaError, TopicAuthorizationFailedError
from aiokafka.structs import ConsumerRecord, TopicPartition

from streams.broker import topic_feed
from streams.broker.client import TopicMissing
from streams.broker.topic_feed import STALL_S, ReadStalled, TopicFeed, read_all
from streams.client.connection import records_since
from streams.client.errors import KafkaUnreachable, TopicsMissing
from streams.schema_registry import SchemaUnavailable
from streams.settings import Settings
from tests.support.fake_consumer import FakeConsumer

pytestmark = pytest.mark.virtual_time

SETTINGS = Settings(topic_prefix="t.")
FIRST, SECOND = TopicPartition("t.tasks", 0), TopicPartition("t.tasks", 1)
Found = list[tuple[int, int]]


class Broker:
    """Logs by their lengths, and the consumers that were made. A poll brings one record of each partition."""

    def __init__(self) -> None:
        self.logs = {FIRST: 3}
        self.faults: deque[Exception | None] = deque()
        """What the next polls raise; None: they succeed."""
        self.silent = False
        """Fetches bring nothing, as from a leader that moved."""
        self.consumers: list[Consumer] = []

    def connect(self, *_: Any, **__: Any) -> Consumer:
        """As `committed_reader`."""
        self.consumers.append(Consumer(self))
        return self.consumers[-1]


class Consumer(FakeConsumer):
    """A consumer of the broker."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(broker.logs)
        self.broker = broker
        self.fetching = asyncio.get_running_loop().create_future()
        self._fetcher = SimpleNamespace(_fetch_task=self.fetching)

    async def offsets_for_times(self, times: dict[TopicPartition, int]) -> dict[TopicPartition, Any]:
        """A record's timestamp is its offset."""
        return {tp: SimpleNamespace(offset=at) if at < self.broker.logs[tp] else None for tp, at in times.items()}

    async def getmany(
        self, *tps: TopicPartition, timeout_ms: int, max_records: int | None = None
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        """One record of each partition; waits if there is none."""
        assert not self.stopped
        if self.broker.faults and (fault := self.broker.faults.popleft()) is not None:
            self.positions = {tp: at + 1 for tp, at in self.positions.items()}  # as aiokafka: what it read is lost
            raise fault
        found = {}
        for tp in () if self.broker.silent else tps:
            if self.positions[tp] < self.broker.logs[tp]:
                found[tp] = [stamped(tp, self.positions[tp])]
                self.positions[tp] += 1
        await asyncio.sleep(0 if found else timeout_ms / 1000)
        return found


def stamped(tp: TopicPartition, offset: int) -> ConsumerRecord:
    return ConsumerRecord(tp.topic, tp.partition, offset, offset, 0, b"k", b"{}", None, 1, 2, ())


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    made = Broker()
    monkeypatch.setattr(topic_feed, "committed_reader", made.connect)
    yield made
    assert all(consumer.stopped for consumer in made.consumers)


async def taken(feed: TopicFeed, count: int) -> Found:
    """So many records of a feed that is followed."""
    found: Found = []
    async with asyncio.timeout(600):
        async for record in feed.follow():
            found.append((record.partition, record.offset))
            if len(found) == count:
                break
    return found


@pytest.mark.parametrize("fault", [KafkaError("lost"), KafkaConnectionError("gone"), OSError("reset"), TimeoutError()])
async def test_a_consumer_that_breaks_in_the_middle_is_replaced_where_it_was(broker: Broker, fault: Exception) -> None:
    broker.faults.extend([None, fault, None, fault])
    found = [record.offset async for record in read_all(SETTINGS, "tasks")]
    assert (found, len(broker.consumers)) == ([0, 1, 2], 3)


async def test_following_goes_on_with_another_consumer(broker: Broker) -> None:
    async with TopicFeed(SETTINGS, "tasks") as feed:
        broker.faults.extend([KafkaError("lost")] * 3)
        assert await feed.poll() == []
        broker.logs[FIRST] = 5
        assert await taken(feed, 2) == [(0, 3), (0, 4)]
        assert len(broker.consumers) == 4


async def test_partitions_that_are_added_are_read_from_their_beginning_and_cost_no_record(broker: Broker) -> None:
    async with TopicFeed(SETTINGS, "tasks", since_ms=0) as feed:
        found = await taken(feed, 1)
        broker.logs[SECOND] = 2
        found += await taken(feed, 4)
        assert sorted(found) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


async def test_a_feed_of_some_partitions_reads_no_others(broker: Broker) -> None:
    broker.logs[SECOND] = 2
    async with TopicFeed(SETTINGS, "tasks", since_ms=0, only=[1]) as feed:
        broker.logs[TopicPartition("t.tasks", 2)] = 9
        assert await taken(feed, 2) == [(1, 0), (1, 1)]
        assert await feed.poll() == []
    assert len(broker.consumers) == 1


@pytest.mark.parametrize("dead", [True, False])
async def test_a_consumer_that_fetches_no_more_is_replaced(broker: Broker, dead: bool) -> None:
    async with TopicFeed(SETTINGS, "tasks") as feed:
        if dead:
            broker.consumers[0].fetching.set_result(None)
        else:
            broker.logs[FIRST], broker.silent = 4, True
        while len(broker.consumers) == 1:
            assert await feed.poll() == []
        broker.logs[FIRST], broker.silent = 4, False
        assert await taken(feed, 1) == [(0, 3)]


async def test_silence_without_unread_records_is_no_fault(broker: Broker) -> None:
    async with TopicFeed(SETTINGS, "tasks") as feed:
        for _ in range(300):
            assert await feed.poll() == []
        assert len(broker.consumers) == 1


async def test_a_bounded_read_gives_up_when_nothing_comes(broker: Broker) -> None:
    broker.silent = True
    begun = asyncio.get_running_loop().time()
    with pytest.raises(ReadStalled, match=r"no record for 20 s before the end of t\.tasks"):
        await anext(read_all(SETTINGS, "tasks"))
    assert STALL_S < asyncio.get_running_loop().time() - begun < 2 * STALL_S
    with pytest.raises(KafkaUnreachable, match="no record for 20 s"):
        await anext(records_since(SETTINGS, "tasks", 0))


async def test_a_caller_that_is_slow_does_not_stall_its_read(broker: Broker) -> None:
    """The time between two records is the caller's."""
    found = []
    async for record in read_all(SETTINGS, "tasks"):
        found.append(record.offset)
        broker.faults.append(KafkaError("lost"))
        await asyncio.sleep(3 * STALL_S)
    assert found == [0, 1, 2]


async def test_what_another_consumer_would_meet_again_ends_the_read(broker: Broker) -> None:
    """A poll goes on all the same: the right may be given back."""
    refused = TopicAuthorizationFailedError({"t.tasks"})
    broker.faults.extend([None, refused])
    with pytest.raises(TopicAuthorizationFailedError):
        _ = [record async for record in read_all(SETTINGS, "tasks")]
    broker.faults.extend([refused])
    with pytest.raises(KafkaUnreachable, match="TopicAuthorizationFailedError"):
        await anext(records_since(SETTINGS, "tasks", 0))
    async with TopicFeed(SETTINGS, "tasks", since_ms=0) as feed:
        broker.faults.extend([refused])
        assert [record.offset for _ in range(4) for record in await feed.poll()] == [0, 1, 2]
        assert await feed.read() == []


async def test_a_read_begins_at_a_time_and_leaves_out_what_is_older(broker: Broker) -> None:
    assert [record.offset async for record in read_all(SETTINGS, "tasks", 1)] == [1, 2]
    assert [record.offset async for record in read_all(SETTINGS, "tasks", 3)] == []


async def test_several_topics_are_one_feed(broker: Broker) -> None:
    broker.logs[TopicPartition("t.events", 0)] = 1
    async with TopicFeed(SETTINGS, "tasks", "events", since_ms=0) as feed:
        found = [(record.topic, record.offset) async for record in feed.to_end()]
    assert sorted(found) == [("t.events", 0), ("t.tasks", 0), ("t.tasks", 1), ("t.tasks", 2)]


async def test_a_missing_topic_is_named(broker: Broker) -> None:
    with pytest.raises(TopicMissing, match=r"t\.nowhere does not exist"):
        await TopicFeed(SETTINGS, "tasks", "nowhere").open()
    with pytest.raises(TopicsMissing, match=r"t\.nowhere does not exist"):
        await anext(records_since(SETTINGS, "nowhere", 0))


async def test_commands_show_what_needs_no_schema_while_the_registry_is_away(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And ask it once: each try may take seconds. A client raises."""
    asked: list[int] = []

    async def away(records: list[Any]) -> None:
        asked.append(len(records))
        raise SchemaUnavailable("it does not answer")

    monkeypatch.setattr(topic_feed, "learn_schemas", away)
    async with TopicFeed(SETTINGS, "tasks", since_ms=0) as feed:
        assert [record.offset async for record in feed.to_end()] == [0, 1, 2]
        assert (asked, feed.schema_problem) == ([1], "it does not answer")
    with pytest.raises(KafkaUnreachable, match="it does not answer"):
        await anext(records_since(SETTINGS, "tasks", 0))
