"""Transactions on Kafka: outputs of several partitions and their offsets, under one transactional id.

In: commits of partitions. Out: one committed transaction, or `CommitFailed`. After any error only a new start is safe:
the broker's state may be unknown, and a refused batch stays counted in the producer's sequence, so everything after it
would be out of order. The new start aborts the transaction.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Collection, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError, ProducerFenced
from aiokafka.structs import TopicPartition

from schemas.topics import full_name
from streams.engine.batcher import BATCH_BYTES, MAX_RECORD_BYTES, Batcher
from streams.engine.commit import Commit, CommitFailed, Offsets, stop_producer
from streams.engine.config import EngineConfig
from streams.engine.faults import describe_error, is_transient
from streams.engine.member_offsets import NotAMember
from streams.engine.membership import Membership
from streams.engine.open_transactions import TRANSACTION_TIMEOUT_MS, end_left_open
from streams.engine.shared_transactions import SharedTransactions
from streams.engine.strict_producer import StrictProducer

START_TIMEOUT_S = 60.0


def kafka_transactions(
    config: EngineConfig, state: str, batcher: Batcher, interval_max_s: float, is_current: Callable[[], bool]
) -> SharedTransactions:
    """The transactions of one role of a worker. `state`: the topic (short name) that every commit writes to."""
    transactor = KafkaTransactor(
        config.options,
        # A restarted instance has the same id, and so ends the transaction it left open.
        transactional_id=f"{config.group}-{config.instance_id or uuid.uuid4().hex}",
        group=config.group,
        prefix=config.prefix,
        state=state,
        batcher=batcher,
    )
    return SharedTransactions(transactor, interval_max_s, is_current)


class KafkaTransactor:
    """One transactional id, hence one writer: the one that started last."""

    def __init__(
        self,
        options: dict[str, Any],
        *,
        transactional_id: str,
        group: str,
        prefix: str,
        state: str,
        batcher: Batcher,
    ) -> None:
        self._options = options
        self._id = transactional_id
        self._group = group
        self._state, self._state_topic = state, full_name(state, prefix)
        self._batcher = batcher
        self._producer: StrictProducer | None = None
        self._stopping: set[asyncio.Task[None]] = set()

    @property
    def end_asked(self) -> bool:
        """Whether the end of the last transaction was requested."""
        return self._producer is not None and self._producer.end_asked

    async def start(self) -> None:
        """Begin a new producer epoch. Raises `KafkaError`, `TimeoutError`."""
        self._give_up()
        # A transaction right after a commit gets CONCURRENT_TRANSACTIONS and waits the backoff: keep it short.
        producer = StrictProducer(
            **self._options,
            transactional_id=self._id,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            retry_backoff_ms=5,
            max_request_size=MAX_RECORD_BYTES,
            max_batch_size=BATCH_BYTES,
        )
        self._producer = producer
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await producer.start()
        except BaseException:
            self._give_up()
            raise

    async def run(self, commits: Sequence[Commit], member: Membership) -> None:
        """One transaction. Raises `CommitFailed`."""
        producer = self._producer
        if producer is None:
            raise CommitFailed(f"{self._id}: not started", again=True)
        # Those of the state topic first: its partitions are enrolled with the first request, and a successor looks for them.
        outputs = sorted(
            (output for commit in commits for output in commit.outputs), key=lambda output: output.topic != self._state
        )
        offsets: Offsets = {tp: place for commit in commits for tp, place in commit.offsets.items()}
        try:
            await producer.begin_transaction()
            await producer.finish_transaction(self._batcher.send(producer, outputs), offsets, self._group, member)
        except NotAMember as error:
            raise CommitFailed(f"{self._id}: {error}", transient=True) from error
        except MessageSizeTooLargeError as error:
            self._batcher.lower_limits()
            raise CommitFailed(f"{self._id}: {error!r}", again=not producer.end_asked) from error
        except Exception as error:  # aiokafka also raises AssertionError and IllegalOperation, which are no KafkaError
            cause = _ended_by(producer) or error
            # Fenced before the end was requested: the fencing worker owns the partitions by now, and the group's
            # coordinator refuses this when it is run again; or it was mistaken, and running again is right.
            fenced = isinstance(cause, ProducerFenced)
            raise CommitFailed(
                f"{self._id}: {describe_error(cause)}",
                fenced or is_transient(cause),
                again=not producer.end_asked,
                unknown=fenced and producer.end_asked,
            ) from error

    async def end_left_open(self, numbers: Collection[int], consumer: AIOKafkaConsumer) -> bool:
        """Abort transactions that earlier owners left open in these partitions. False: not every broker answered."""
        partitions = {TopicPartition(self._state_topic, number) for number in numbers}
        return await end_left_open(consumer, partitions, self._group, self._id)

    async def close(self) -> None:
        """Release connections; an open transaction is left to be aborted."""
        self._give_up()
        if self._stopping:
            await asyncio.wait(self._stopping)

    def _give_up(self) -> None:
        """Stop the old producer, without waiting: the brokers may be gone."""
        producer, self._producer = self._producer, None
        if producer is not None:
            task = asyncio.create_task(stop_producer(producer))
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)


def _ended_by(producer: AIOKafkaProducer) -> BaseException | None:
    """The error that ended the transaction. A later send only reports that there is no transaction."""
    ending = producer._txn_manager._transaction_waiter
    return ending.exception() if ending is not None and ending.done() and not ending.cancelled() else None
