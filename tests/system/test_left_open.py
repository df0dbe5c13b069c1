"""An owner that ended in the middle of a transaction, or is no member any more, on real Kafka: its successor neither waits for
the transaction's timeout nor is written over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from streams.engine.batcher import Batcher
from streams.engine.commit import Commit, CommitFailed
from streams.engine.group_offsets import committed_offsets
from streams.engine.left_open import LeftOpen
from streams.engine.membership import Membership, membership
from streams.engine.state_reader import StateReader
from streams.engine.strict_producer import StrictProducer
from streams.engine.transactor import KafkaTransactor
from streams.rules.records import Output
from tests.support.kafka import KafkaCluster
from tests.support.memory import held
from tests.support.rig import apply_topics

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

AT_ONCE_S = 20.0
"""Far below the timeout of a transaction."""


class EndOfWorker(Exception):
    """It ends here."""


class Worker:
    """A member of the group and its producer."""

    def __init__(self, kafka: KafkaCluster, prefix: str, name: str) -> None:
        self.group, self.tasks = f"{prefix}group", TopicPartition(f"{prefix}tasks", 0)
        self.options = {"bootstrap_servers": kafka.bootstrap_servers}
        self.state = f"{prefix}state"
        self.transactor = KafkaTransactor(
            self.options,
            transactional_id=f"{self.group}-{name}",
            group=self.group,
            prefix=prefix,
            state="state",
            batcher=Batcher(prefix),
        )
        self.consumer: AIOKafkaConsumer

    async def join(self) -> Membership:
        """Be the group's newest member."""
        self.consumer = AIOKafkaConsumer(
            self.tasks.topic, **self.options, group_id=self.group, enable_auto_commit=False, session_timeout_ms=6000
        )
        await self.consumer.start()
        await self.transactor.start()
        while not self.consumer.assignment():
            await self.consumer.getmany(timeout_ms=100)
        return membership(self.consumer)

    async def leave(self) -> None:
        """Without a word about transactions."""
        await self.transactor.close()
        await self.consumer.stop()

    def commit(self, offset: int) -> Commit:
        """One row of state and an offset."""
        row = Output("state", b"k", b"%d" % offset, partition=0)
        return Commit(0, [row], {self.tasks: OffsetAndMetadata(offset, "")})

    async def offset(self) -> int | None:
        """What the group has committed."""
        found = (await committed_offsets(self.consumer, [self.tasks])).get(self.tasks)
        return None if found is None else found.offset


@pytest.fixture
async def workers(kafka: KafkaCluster, prefix: str) -> AsyncIterator[tuple[Worker, Worker]]:
    """Two workers; the first has committed offset 1."""
    await asyncio.to_thread(apply_topics, kafka.bootstrap_servers, prefix)
    old, new = Worker(kafka, prefix, "old"), Worker(kafka, prefix, "new")
    await old.transactor.run([old.commit(1)], await old.join())
    yield old, new
    for worker in (old, new):
        await worker.leave()


async def test_a_successor_ends_what_a_dead_worker_left_open(workers: tuple[Worker, Worker]) -> None:
    """Else offsets and state cannot be read for a minute. Transactions of others, and its own, are not touched."""
    old, new = workers
    foreign = AIOKafkaProducer(**new.options, transactional_id=f"other-{new.group}")
    await foreign.start()
    try:
        await _half_a_commit(old, 2)
        await old.consumer.stop()
        member = await new.join()
        other = f"{new.state.removesuffix('state')}events"
        await foreign.begin_transaction()
        await foreign.send_and_wait(other, b"x", partition=0)
        waiting = asyncio.create_task(new.offset())
        await asyncio.wait([waiting], timeout=1)
        assert not waiting.done(), "the dead worker's transaction was not felt"
        await new.transactor.end_left_open([1], new.consumer)
        await asyncio.wait([waiting], timeout=1)
        assert not waiting.done(), "a transaction on another partition was taken for one on this"
        await new.transactor.end_left_open([0], new.consumer)
        async with asyncio.timeout(AT_ONCE_S):
            assert await waiting == 1
            assert await StateReader(new.options, new.state).read(0) == [b"1"]
        await new.transactor.run([new.commit(3)], member)
        await new.transactor.end_left_open([0], new.consumer)
        await new.transactor.run([new.commit(4)], member)
        assert await new.offset() == 4
        await foreign.commit_transaction()
    finally:
        await foreign.stop()


async def test_readers_of_other_topics_do_not_wait_for_a_dead_worker(workers: tuple[Worker, Worker]) -> None:
    """It had written results and had sent no offsets: its partition opens elsewhere at once, and only readers would wait."""
    old, new = workers
    results = f"{new.state.removesuffix('state')}results"
    await _half_a_commit(old, None, Output("results", b"k", b"never", partition=0))
    await old.consumer.stop()
    await new.join()
    left_open = LeftOpen(new.transactor.end_left_open, lambda: True)
    reader = AIOKafkaConsumer(**new.options, isolation_level="read_committed", auto_offset_reset="earliest")
    await reader.start()
    try:
        reader.assign([TopicPartition(results, 0)])
        async with asyncio.timeout(AT_ONCE_S):
            assert await new.offset() == 1
        async with AIOKafkaProducer(**new.options) as producer:
            await producer.send_and_wait(results, b"later", partition=0)
        assert not await reader.getmany(timeout_ms=1000), "the dead worker's transaction was not felt"
        with left_open.opening(0, new.consumer):
            pass
        async with asyncio.timeout(AT_ONCE_S):
            assert (await reader.getone()).value == b"later"
    finally:
        await left_open.close()
        await reader.stop()


async def test_who_is_no_member_any_more_commits_nothing(workers: tuple[Worker, Worker]) -> None:
    """A worker that was frozen while the group gave its partitions away."""
    old, new = workers
    stale = membership(old.consumer)
    await old.consumer.stop()
    member = await new.join()
    await new.transactor.run([new.commit(2)], member)
    for stranger in (stale, member._replace(generation=member.generation - 1), member._replace(member_id="nobody")):
        await old.transactor.start()
        with pytest.raises(CommitFailed, match="a generation that is over") as caught:
            await old.transactor.run([old.commit(9)], stranger)
        assert caught.value.transient
        assert not caught.value.again
    await old.transactor.start()
    assert await new.offset() == 2
    assert await StateReader(new.options, new.state).read(0) == [b"2"]


async def _half_a_commit(worker: Worker, offset: int | None, *outputs: Output) -> None:
    """All of a transaction but its end; then the worker is gone. `offset`: None for a transaction that has not sent it yet."""
    [producer] = held(worker.transactor, StrictProducer)
    commit = worker.commit(offset or 0)
    await producer.begin_transaction()

    async def nothing() -> None:
        raise EndOfWorker

    producer._sender.end_transaction = nothing
    with pytest.raises(EndOfWorker):
        await producer.finish_transaction(
            Batcher(worker.state.removesuffix("state")).send(producer, [*commit.outputs, *outputs]),
            {} if offset is None else commit.offsets,
            worker.group,
            membership(worker.consumer),
        )
