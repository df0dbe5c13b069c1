"""Sends progress events: at once, outside transactions, best effort, from all parts of a worker through one producer.

In: `Output`s. Out: batches on the broker a few milliseconds later. If a commit about the same subject comes first, it
can include the waiting events (`withdraw`): a task that ends at once then needs no separate produce request for its
start.

Bounded: when the broker is away longer than the buffer lasts, the oldest events are dropped and counted. Terminal
records never come this way. A producer that failed is replaced: aiokafka's never recovers from a gap in its sequence,
nor from the end of its own task.
"""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import chain
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from schemas.topics import full_name
from streams.engine.batcher import BATCH_BYTES, MAX_RECORD_BYTES, Batcher
from streams.engine.broker_clock import BrokerClock
from streams.engine.commit import stop_producer
from streams.engine.event_wait import wait_at_most
from streams.engine.faults import describe_error
from streams.rules.records import Output

log = structlog.get_logger(__name__)

BUFFER = 20_000
LINGER_S = 0.01
FLUSH_TIMEOUT_S = 5.0
CHECK_S = 5.0
RENEW_PAUSE_S = 1.0
RENEW_TIMEOUT_S = 30.0


class EventSink:
    """One plain producer for everything that is not part of a transaction."""

    def __init__(
        self, *, options: dict[str, Any], prefix: str, idempotent: bool, clock_topic: str | None = None
    ) -> None:
        """`clock_topic`: the topic (short name) by which the brokers' clock is measured; None: not measured."""
        self.clock = BrokerClock(self._stamped)
        self.batcher = Batcher(prefix, now_ms=self.clock.now_ms)
        self._clock_topic = None if clock_topic is None else full_name(clock_topic, prefix)
        self._measuring: asyncio.Task[None] | None = None
        self.dropped = 0
        self._options = options
        self._idempotent = idempotent
        self._buffer: dict[bytes | None, deque[Output]] = {}
        """By key; keys in the order of their oldest output."""
        self._waiting = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._producer: AIOKafkaProducer | None = None
        self._stopping = self._worn = False

    @property
    def producer(self) -> AIOKafkaProducer:
        """The shared plain producer, once started."""
        if self._producer is None:
            raise RuntimeError("the sink is not started")
        return self._producer

    async def start(self) -> None:
        """Connect. Raises `KafkaError`."""
        self._producer = await self._connected()
        self._task = asyncio.create_task(self._run(), name="event-sink")
        if self._clock_topic is not None:
            await self.clock.measure()
            self._measuring = asyncio.create_task(self.clock.run(), name="broker-clock")

    async def _connected(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **self._options,
            acks="all",
            enable_idempotence=self._idempotent,
            max_request_size=MAX_RECORD_BYTES,
            max_batch_size=BATCH_BYTES,
        )
        try:
            async with asyncio.timeout(RENEW_TIMEOUT_S):
                await producer.start()
        except BaseException:
            await stop_producer(producer)
            raise
        return producer

    def emit(self, output: Output) -> None:
        """Send this record soon."""
        if self._waiting >= BUFFER:
            self._drop_oldest()
        self._buffer.setdefault(output.key, deque()).append(output)
        self._waiting += 1
        self._wake.set()

    def withdraw(self, key: bytes) -> list[Output]:
        """Take back the events that wait under this key, oldest first: the caller writes them."""
        outputs = self._buffer.pop(key, ())
        self._waiting -= len(outputs)
        return list(outputs)

    def _drop_oldest(self) -> None:
        key, outputs = next(iter(self._buffer.items()))
        outputs.popleft()
        if not outputs:
            del self._buffer[key]
        self._waiting -= 1
        self.dropped += 1

    async def _stamped(self, key: bytes) -> Any:
        return await self.producer.send_and_wait(self._clock_topic, key=key, value=None, partition=0)

    async def stop(self) -> None:
        """Send what is left, within bounded time, and disconnect."""
        self._stopping = True
        if self._measuring is not None:
            self._measuring.cancel()
        self._wake.set()
        if self._task is not None:
            _, pending = await asyncio.wait([self._task], timeout=FLUSH_TIMEOUT_S)
            for task in pending:
                task.cancel()
        if self._producer is not None:
            await stop_producer(self._producer)

    async def _run(self) -> None:
        while True:
            await wait_at_most(self._wake, CHECK_S)
            if not self._stopping:
                await asyncio.sleep(LINGER_S)
            if not await self._fresh():
                continue
            self._wake.clear()
            outputs = list(chain.from_iterable(self._buffer.values()))
            self._buffer.clear()
            self._waiting = 0
            if outputs:
                await self._send(outputs)
            if self._stopping and not self._buffer:
                return

    async def _fresh(self) -> bool:
        """Ensure a working producer, a new one if needed; False, after a pause, if none could be started."""
        if not self._worn and not _ended(self.producer):
            return True
        try:
            fresh = await self._connected()
        except (KafkaError, OSError, TimeoutError) as error:
            log.warning("progress events wait for the brokers", waiting=self._waiting, error=repr(error))
            await asyncio.sleep(RENEW_PAUSE_S)
            return False
        worn, self._producer, self._worn = self.producer, fresh, False
        await stop_producer(worn)
        return True

    async def _send(self, outputs: list[Output]) -> None:
        try:
            for outcome in await asyncio.gather(
                *await self.batcher.send(self.producer, outputs), return_exceptions=True
            ):
                if isinstance(outcome, BaseException):
                    raise outcome
        except Exception as error:  # best effort: after any error, later events must still be sent
            self.dropped += len(outputs)
            self._worn = True
            log.warning("progress events lost", count=len(outputs), error=describe_error(error))


def _ended(producer: AIOKafkaProducer) -> bool:
    """Whether the producer's own task is over: then it accepts everything and sends nothing."""
    sender = producer._sender
    return sender is not None and sender.sender_task is not None and sender.sender_task.done()
