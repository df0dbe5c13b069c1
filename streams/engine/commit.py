"""Makes a partition's outputs and offsets durable together. One committer serves one partition number.

Transactional: `streams.engine.shared_transactions`. Plain, for brokers without transactions, is here: outputs first,
acknowledged, then the state, then the offsets: at least once.

In: outputs and {topic partition: (offset, map)}. Raises `CommitFailed` if the commit failed, or may have failed: the
partition must be opened again from what the broker holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import inf
from typing import NamedTuple, Protocol

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from streams.engine.batcher import Batcher, delivered
from streams.engine.event_wait import wait_at_most
from streams.engine.faults import describe_error, is_transient
from streams.rules.engine.pacing import mean, wait_s
from streams.rules.records import Output

Offsets = dict[TopicPartition, OffsetAndMetadata]
log = structlog.get_logger(__name__)

COMMIT_TIMEOUT_S = 60.0
"""The broker itself aborts a transaction of this age; a commit that takes longer hangs."""
CLOSE_TIMEOUT_S = 5.0
FIRST_COMMIT_S = 0.01
"""Assumed duration of a commit before one was measured."""


class CommitFailed(Exception):
    """This owner may write no more: the partition must be opened again from what is committed, or given up.

    `transient`: a retry may succeed, after any number of failures. `again`: nothing took effect, and the same may be
    committed once the producer has been restarted. `unknown`: whether it took effect shows once the producer has been
    restarted.
    """

    def __init__(self, message: str, transient: bool = False, *, again: bool = False, unknown: bool = False) -> None:
        super().__init__(message)
        self.transient = transient
        self.again = again
        self.unknown = unknown


class Commit(NamedTuple):
    """What one partition commits.

    `size`: approximate bytes of its outputs; `records`: how many it finishes; `moved`: whether its offsets or maps
    changed.
    """

    number: int
    outputs: Sequence[Output]
    offsets: Offsets
    size: int = 0
    records: int = 0
    moved: bool = False


Collect = Callable[[], Commit | None]
"""Called once, when the commit begins: it includes what is ready by then. None: there is nothing to commit."""


class Committer(Protocol):
    """Makes outputs and offsets of one partition durable together."""

    async def start(self) -> None:
        """After it, no earlier commit of the partition by this worker can take effect. Raises `KafkaError`,
        `TimeoutError`.
        """
        ...

    def opening(self) -> AbstractContextManager[None]:
        """Surrounds the opening of the partition. Transactions that earlier owners left open are ended: offsets and
        state are unreadable before.
        """
        ...

    async def commit(self, collect: Collect) -> None:
        """Wait for the turn, collect, commit: all or nothing. Raises `CommitFailed`, and errors of `collect`."""
        ...

    def hurry(self) -> None:
        """Start the next commit without waiting."""
        ...

    async def close(self) -> None:
        """Take part in no further commit."""
        ...


class CommitPace:
    """When the next commit starts, see `streams.rules.engine.pacing`. Times are the event loop's."""

    def __init__(self, interval_max_s: float) -> None:
        self._interval_max_s = interval_max_s
        self._hurry = asyncio.Event()
        self._commit_s = FIRST_COMMIT_S
        self._records = 1.0
        self._ended = -inf

    def hurry(self) -> None:
        """Start without waiting."""
        self._hurry.set()

    async def turn(self) -> None:
        """Wait until the next commit may start."""
        idle_s = asyncio.get_running_loop().time() - self._ended
        gather_s = wait_s(idle_s, self._commit_s, self._records, self._interval_max_s)
        if gather_s and not self._hurry.is_set():
            await wait_at_most(self._hurry, gather_s)
        else:
            await asyncio.sleep(0)  # records that finish in this turn of the loop are included
        self._hurry.clear()

    def ended(self, began: float, records: int) -> None:
        """A commit that began then has succeeded; it finished so many records."""
        self._ended = asyncio.get_running_loop().time()
        self._commit_s = mean(self._commit_s, self._ended - began)
        self._records = mean(self._records, records)


class PlainCommitter:
    """Sends outputs first, state and offsets after their acknowledgement; shares one producer among all partitions.

    `state`: the topic (short name) of a partition's state, which must not be there before the outputs it refers to.
    """

    def __init__(
        self,
        producer: AIOKafkaProducer,
        consumer: AIOKafkaConsumer,
        batcher: Batcher,
        *,
        interval_max_s: float,
        state: str = "state",
    ) -> None:
        self._state = state
        self._producer = producer
        self._consumer = consumer
        self._batcher = batcher
        self._pace = CommitPace(interval_max_s)
        self.hurry = self._pace.hurry

    async def start(self) -> None:
        return

    def opening(self) -> AbstractContextManager[None]:
        return nullcontext()

    async def commit(self, collect: Collect) -> None:
        await self._pace.turn()
        commit = collect()
        if commit is None:
            return
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(COMMIT_TIMEOUT_S):
                await self._write(commit)
        except MessageSizeTooLargeError as error:
            self._batcher.lower_limits()
            raise CommitFailed(f"outputs refused: {error!r}") from error
        except Exception as error:
            raise CommitFailed(f"outputs or offsets refused: {describe_error(error)}", is_transient(error)) from error
        self._pace.ended(began, commit.records)

    async def _write(self, commit: Commit) -> None:
        for now in (
            [output for output in commit.outputs if output.topic != self._state],
            [output for output in commit.outputs if output.topic == self._state],
        ):
            await delivered(await self._batcher.send(self._producer, now))
        if commit.offsets:
            await self._consumer.commit(commit.offsets)

    async def close(self) -> None:
        return


async def stop_producer(producer: AIOKafkaProducer) -> None:
    """Stop within bounded time, also if the brokers are gone."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await producer.stop()
    except (KafkaError, TimeoutError) as error:
        log.debug("producer did not stop cleanly", error=repr(error))
        await drop(producer.client)


async def drop(client: AIOKafkaClient) -> None:
    """Close the connections of a client that did not stop by itself, within bounded time.

    In a task: aiokafka waits for tasks that were cancelled before, and would pass that cancellation on to us.
    """
    closing = asyncio.ensure_future(client.close())
    await asyncio.wait([closing], timeout=CLOSE_TIMEOUT_S)
    if not closing.done():
        closing.cancel()
    elif not closing.cancelled() and (error := closing.exception()) is not None:
        log.debug("connections did not close cleanly", error=repr(error))
