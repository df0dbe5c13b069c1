"""The two ways to make outputs and offsets durable together. One committer serves one partition number.

Transactional: one Kafka transaction holds the outputs and the offsets; starting it fences every earlier owner.
Plain, for brokers without transactions: outputs first, acknowledged, then what is remembered of them, then the offsets: at
least once.
In: outputs and {topic partition: (offset, map)}. Raises `CommitFailed` when the commit did not come about, or may not have: the
partition must be opened again from what the broker holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from streams.engine.batcher import BATCH_BYTES, MAX_RECORD_BYTES, Batcher, delivered
from streams.engine.faults import describe_error, is_transient
from streams.engine.strict_producer import StrictProducer
from streams.rules.records import Output

Offsets = dict[TopicPartition, OffsetAndMetadata]
log = structlog.get_logger(__name__)

START_TIMEOUT_S = 60.0
CLOSE_TIMEOUT_S = 5.0


class CommitFailed(Exception):
    """This owner may write no more: the partition must be started again from what is committed, or given up.

    `transient`: a wait may mend it; no number of such ends says that it is hopeless.
    """

    def __init__(self, message: str, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class Committer(Protocol):
    """Makes outputs and offsets durable together."""

    async def start(self) -> None:
        """After this no earlier owner can commit. Raises `KafkaError`, `TimeoutError`."""
        ...

    async def commit(self, outputs: Sequence[Output], offsets: Offsets) -> None:
        """All or nothing. Raises `CommitFailed`."""
        ...

    async def close(self) -> None:
        """Release connections; an open transaction is left to be aborted."""
        ...


class TransactionalCommitter:
    """One transactional id, hence one writer: the newest to start."""

    def __init__(self, options: dict[str, Any], transactional_id: str, group: str, batcher: Batcher) -> None:
        self._options = options
        self._id = transactional_id
        self._group = group
        self._batcher = batcher
        self._producer: StrictProducer | None = None

    async def start(self) -> None:
        # A transaction begun right after a commit is told CONCURRENT_TRANSACTIONS and waits the backoff: keep it short.
        self._producer = StrictProducer(
            **self._options,
            transactional_id=self._id,
            transaction_timeout_ms=60_000,
            retry_backoff_ms=5,
            max_request_size=MAX_RECORD_BYTES,
            max_batch_size=BATCH_BYTES,
        )
        async with asyncio.timeout(START_TIMEOUT_S):
            await self._producer.start()

    async def commit(self, outputs: Sequence[Output], offsets: Offsets) -> None:
        producer = self._producer
        if producer is None:
            raise CommitFailed(f"{self._id}: not started")
        # After any error only a new start is safe: what the broker did may be unknown, and a batch it refused stays counted
        # in the producer's sequence, so that whatever follows would be out of order. The new start aborts the transaction.
        try:
            await producer.begin_transaction()
            await producer.finish_transaction(self._batcher.send(producer, outputs), offsets, self._group)
        except MessageSizeTooLargeError as error:
            self._batcher.lower_limits()
            raise CommitFailed(f"{self._id}: {error!r}") from error
        except Exception as error:  # aiokafka also raises AssertionError and IllegalOperation, which are no KafkaError
            cause = _ended_by(producer) or error
            raise CommitFailed(f"{self._id}: {describe_error(cause)}", is_transient(cause)) from error

    async def close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await stop_producer(producer)


class PlainCommitter:
    """Outputs acknowledged first, state and offsets after; shares one producer among all partitions.

    `state`: the topic (short name) of what a partition remembers. It must not be there before what it says was done.
    """

    def __init__(
        self, producer: AIOKafkaProducer, consumer: AIOKafkaConsumer, batcher: Batcher, state: str = "state"
    ) -> None:
        self._state = state
        self._producer = producer
        self._consumer = consumer
        self._batcher = batcher

    async def start(self) -> None:
        return

    async def commit(self, outputs: Sequence[Output], offsets: Offsets) -> None:
        try:
            for now in (
                [output for output in outputs if output.topic != self._state],
                [output for output in outputs if output.topic == self._state],
            ):
                await delivered(await self._batcher.send(self._producer, now))
            if offsets:
                await self._consumer.commit(offsets)
        except MessageSizeTooLargeError as error:
            self._batcher.lower_limits()
            raise CommitFailed(f"outputs refused: {error!r}") from error
        except Exception as error:
            raise CommitFailed(f"outputs or offsets refused: {describe_error(error)}", is_transient(error)) from error

    async def close(self) -> None:
        return


def _ended_by(producer: AIOKafkaProducer) -> BaseException | None:
    """What put an end to the transaction. Whoever sends after that is told only that there is none."""
    ending = producer._txn_manager._transaction_waiter
    return ending.exception() if ending is not None and ending.done() and not ending.cancelled() else None


async def stop_producer(producer: AIOKafkaProducer) -> None:
    """Stop within a bound, also when the brokers are gone."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await producer.stop()
    except (KafkaError, TimeoutError) as error:
        log.debug("producer did not stop cleanly", error=repr(error))
        await drop(producer.client)


async def drop(client: AIOKafkaClient) -> None:
    """Close the connections of a client whose own end did not come about, within a bound.

    In a task: aiokafka waits for ends it has been cancelled in before, and would hand that cancel to us.
    """
    closing = asyncio.ensure_future(client.close())
    await asyncio.wait([closing], timeout=CLOSE_TIMEOUT_S)
    if not closing.done():
        closing.cancel()
    elif not closing.cancelled() and (error := closing.exception()) is not None:
        log.debug("connections did not close cleanly", error=repr(error))
