"""Progress events: sent at once, outside transactions, best effort, from all parts of a worker through one producer.

In: `Output`s. Out: batches on the broker a few milliseconds later. Bounded: when the broker is away longer than the buffer
lasts, the oldest events are dropped and counted. Terminal records never come this way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer

from streams.engine.batcher import BATCH_BYTES, MAX_RECORD_BYTES, Batcher
from streams.engine.commit import stop_producer
from streams.rules.records import Output

log = structlog.get_logger(__name__)

BUFFER = 20_000
LINGER_S = 0.01
FLUSH_TIMEOUT_S = 5.0


class EventSink:
    """One plain producer for everything that is not part of a transaction."""

    def __init__(self, options: dict[str, Any], prefix: str, idempotent: bool) -> None:
        self.batcher = Batcher(prefix)
        self.dropped = 0
        self._options = options
        self._idempotent = idempotent
        self._buffer: deque[Output] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._producer: AIOKafkaProducer | None = None
        self._stopping = False

    @property
    def producer(self) -> AIOKafkaProducer:
        """The shared plain producer; there once started."""
        if self._producer is None:
            raise RuntimeError("the sink is not started")
        return self._producer

    async def start(self) -> None:
        """Connect. Raises `KafkaError`."""
        self._producer = AIOKafkaProducer(
            **self._options,
            acks="all",
            enable_idempotence=self._idempotent,
            max_request_size=MAX_RECORD_BYTES,
            max_batch_size=BATCH_BYTES,
        )
        await self._producer.start()
        self._task = asyncio.create_task(self._run(), name="event-sink")

    def emit(self, output: Output) -> None:
        """Send this record soon."""
        if len(self._buffer) >= BUFFER:
            self._buffer.popleft()
            self.dropped += 1
        self._buffer.append(output)
        self._wake.set()

    async def stop(self) -> None:
        """Send what is left, within a bound, and disconnect."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            _, pending = await asyncio.wait([self._task], timeout=FLUSH_TIMEOUT_S)
            for task in pending:
                task.cancel()
        if self._producer is not None:
            await stop_producer(self._producer)

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            if not self._stopping:
                await asyncio.sleep(LINGER_S)
            self._wake.clear()
            outputs = list(self._buffer)
            self._buffer.clear()
            if outputs:
                await self._send(outputs)
            if self._stopping and not self._buffer:
                return

    async def _send(self, outputs: list[Output]) -> None:
        try:
            for outcome in await asyncio.gather(
                *await self.batcher.send(self.producer, outputs), return_exceptions=True
            ):
                if isinstance(outcome, BaseException):
                    raise outcome
        except Exception as error:  # best effort: whatever it is, the next events must still be sent
            self.dropped += len(outputs)
            log.warning("progress events lost", count=len(outputs), error=repr(error))
