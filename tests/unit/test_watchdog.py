"""The watchdog with a consumer in memory: what has it replaced, and what leaves it alone."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.errors import GroupAuthorizationFailedError, KafkaError, NodeNotReadyError
from aiokafka.structs import TopicPartition

from streams.engine.engine import Engine
from streams.engine.watchdog import Watchdog
from tests.support.consuming import FakeConsumer
from tests.support.wait import until

pytestmark = pytest.mark.virtual_time

P0, P1 = TopicPartition("t.tasks", 0), TopicPartition("t.tasks", 1)
AFTER_S = 0.12


async def _runs(error: Exception | None = None) -> None:
    if error is not None:
        raise error
    await asyncio.Event().wait()


class Consumer(FakeConsumer):
    """With the tasks that aiokafka's has."""

    def __init__(self) -> None:
        super().__init__()
        self.fetching = asyncio.create_task(_runs())
        self._fetcher = SimpleNamespace(_fetch_task=self.fetching, _pending_tasks=set())
        self._coordination_task = asyncio.create_task(_runs())

    def break_heartbeat(self, error: Exception) -> None:
        """Its task ends with this."""
        self._heartbeat_task = asyncio.create_task(_runs(error))

    def end_metadata(self) -> None:
        """Its task ends."""
        self._client = SimpleNamespace(_sync_task=asyncio.create_task(asyncio.sleep(0)))


class Watched:
    """An engine's face: a consumer with tasks of its own, and the feed's account."""

    def __init__(self) -> None:
        self.consumer: Any = Consumer()
        self.consumer.assigned = {P0, P1}
        self.consumer.positions = {P0: 0, P1: 0}
        self.feed = SimpleNamespace(failing_s=0.0, is_refused=False, polled=[P0, P1], open=[P0, P1])
        self.ends: dict[TopicPartition, int] = {}
        self.renewed = 0
        self.fetching = self.consumer.fetching
        self.end = asyncio.Event()

    def broken(self, error: Exception) -> None:
        """The heartbeat ends with this."""
        self.consumer.break_heartbeat(error)

    async def renew(self) -> None:
        """As a new consumer would: it reads on."""
        self.renewed += 1
        self.consumer.positions = {tp: self.consumer.end(tp) for tp in (P0, P1)}

    def dog(self) -> Watchdog:
        """The one under test."""
        return Watchdog(cast("Engine", self), AFTER_S)


async def test_a_partition_that_stands_still_has_the_consumer_replaced_once() -> None:
    """The other one moves; that does not hide it. Afterwards nothing more happens."""
    watched = Watched()
    watched.consumer.write(P0, 3)
    watched.consumer.write(P1, 9)
    dog = watched.dog()
    running = asyncio.create_task(dog.run())
    await until(lambda: watched.renewed == 1)
    await asyncio.sleep(2 * AFTER_S)
    assert watched.renewed == 1
    running.cancel()


async def test_a_consumer_that_reads_or_has_nothing_to_read_is_left_alone() -> None:
    """Also one whose brokers do not say where the logs end."""
    watched = Watched()
    watched.consumer.write(P0, 1000)
    dog = watched.dog()
    for position in range(30):
        watched.consumer.positions[P0] = position
        assert await dog.look() is None
        await asyncio.sleep(AFTER_S / 15)

    async def silent(tps: object) -> dict[TopicPartition, int]:
        raise NodeNotReadyError

    watched.consumer.end_offsets = silent
    for _ in range(10):
        assert await dog.look() is None
        await asyncio.sleep(AFTER_S / 6)


async def test_polls_that_the_brokers_refuse_are_left_to_end_the_worker() -> None:
    """Replacing the consumer would begin the time anew after which the feed gives up: for ever, by the default settings."""
    watched = Watched()
    watched.feed.failing_s, watched.feed.is_refused = AFTER_S * 2, True
    assert await watched.dog().look() is None


async def test_one_partition_without_a_leader_does_not_hide_another() -> None:
    """Asked together nobody answers; asked alone one does."""
    watched = Watched()
    watched.consumer.write(P0, 3)
    true_ends = watched.consumer.end_offsets

    async def partly(tps: list[TopicPartition]) -> Any:
        if P1 in tps:
            raise NodeNotReadyError
        return await true_ends(tps)

    watched.consumer.end_offsets = partly
    dog = watched.dog()
    assert await dog.look() is None
    await asyncio.sleep(AFTER_S)
    assert "1 partitions stood still" in (await dog.look() or "")


async def test_what_is_not_polled_for_is_left_alone() -> None:
    """Back-pressure, or set aside; where its log ends is known all the same."""
    watched = Watched()
    watched.consumer.write(P0, 3)
    watched.feed.polled = [P1]
    dog = watched.dog()
    await dog.look()
    await asyncio.sleep(AFTER_S)
    assert await dog.look() is None
    assert watched.ends == {P0: 3, P1: 0}


async def test_a_dead_task_of_aiokafka_is_noticed_at_the_next_look() -> None:
    """Ended, cancelled or broken."""
    watched = Watched()
    dog = watched.dog()
    assert await dog.look() is None
    watched.fetching.cancel()
    await asyncio.wait([watched.fetching])
    assert "fetch" in (await dog.look() or "")
    other = Watched()
    other.broken(KafkaError("unexpected"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert "heartbeat" in (await other.dog().look() or "")


async def test_a_task_that_ended_of_an_error_nobody_expects_is_noticed() -> None:
    """A new consumer has not got it; only what the brokers refuse would be refused again."""
    watched = Watched()
    watched.broken(RuntimeError("the handler is closed"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert "heartbeat" in (await watched.dog().look() or "")


async def test_a_client_that_no_longer_asks_for_metadata_is_noticed() -> None:
    """Its partitions would stay with leaders that moved."""
    watched = Watched()
    watched.consumer.end_metadata()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert "metadata" in (await watched.dog().look() or "")


async def test_what_was_refused_is_left_to_the_polls() -> None:
    """A new consumer would be refused as well; the feed ends the worker with the reason."""
    watched = Watched()
    watched.broken(GroupAuthorizationFailedError("g"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await watched.dog().look() is None


@pytest.mark.parametrize(("failing_s", "told"), [(AFTER_S / 2, False), (AFTER_S * 2, True)])
async def test_polls_that_fail_for_long(failing_s: float, told: bool) -> None:
    """A consumer that only ever fails is replaced too."""
    watched = Watched()
    watched.feed.failing_s = failing_s
    assert (await watched.dog().look() is not None) is told
