"""A topic that every worker reads whole and then follows: no group, no commits, all partitions.

In: a topic and what to do with each record. Out: that, from the log's beginning, for ever. `catch_up` waits until everything
acknowledged before the call was applied. Whatever goes wrong while reading is tried again, with another consumer if need be; it
never writes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord, TopicPartition

from streams.engine.commit import CLOSE_TIMEOUT_S
from streams.engine.group import close, dead_task, partition_numbers

log = structlog.get_logger(__name__)

LOAD_TIMEOUT_S = 60.0
CATCH_UP_TIMEOUT_S = 5.0
FETCH_WAIT_MS = 200


class Follower:
    """Applies every record of `topic` (its name on the broker), in order per partition."""

    def __init__(
        self,
        options: dict[str, Any],
        topic: str,
        apply: Callable[[ConsumerRecord], None],
        *,
        from_end: bool = False,
        make_consumer: Callable[..., AIOKafkaConsumer] = AIOKafkaConsumer,
    ) -> None:
        """`from_end`: begin with what is written after the start. `make_consumer` is replaced where the broker is simulated."""
        self._make_consumer = make_consumer
        self._from_end = from_end
        self._options = options
        self._topic = topic
        self._apply = apply
        self._positions: dict[TopicPartition, int] = {}
        self._moved = asyncio.Event()
        self._consumer: AIOKafkaConsumer | None = None
        self._task: asyncio.Task[None] | None = None
        self._catching_up: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the topic to its present end, then follow it. Raises `KafkaError`, `TimeoutError`."""
        self._consumer = await self._connected()
        self._task = asyncio.create_task(self._follow(), name=f"follow-{self._topic}")
        async with asyncio.timeout(LOAD_TIMEOUT_S):
            await self._reach_end(self._consumer)

    async def _connected(self) -> AIOKafkaConsumer:
        """A consumer that reads on from where the last one was, or from where the first begins."""
        consumer = self._make_consumer(
            **self._options, enable_auto_commit=False, auto_offset_reset="earliest", fetch_max_wait_ms=FETCH_WAIT_MS
        )
        try:
            await consumer.start()
            numbers = await partition_numbers(consumer, self._topic) or {0}
            tps = [TopicPartition(self._topic, number) for number in sorted(numbers)]
            consumer.assign(tps)
            begins = await (consumer.end_offsets if self._from_end else consumer.beginning_offsets)(tps)
        except BaseException:
            await close(consumer, CLOSE_TIMEOUT_S)
            raise
        self._positions = {tp: self._positions.get(tp, begin) for tp, begin in begins.items()}
        for tp, position in self._positions.items():
            consumer.seek(tp, position)
        return consumer

    async def stop(self) -> None:
        """Stop following."""
        for task in (self._task, self._catching_up):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if self._consumer is not None:
            await close(self._consumer, CLOSE_TIMEOUT_S)

    async def catch_up(self) -> None:
        """Wait (a few seconds at most) until everything acknowledged before this call was applied."""
        running = self._catching_up
        if running is not None and not running.done():
            await asyncio.shield(running)  # it may have begun before the record was written: once more then
        if self._catching_up is None or self._catching_up.done():
            self._catching_up = asyncio.create_task(self._bounded_reach_end())
        await asyncio.shield(self._catching_up)

    async def _bounded_reach_end(self) -> None:
        try:
            async with asyncio.timeout(CATCH_UP_TIMEOUT_S):
                if self._consumer is not None:
                    await self._reach_end(self._consumer)
        except (TimeoutError, KafkaError) as error:
            log.warning("could not read a topic to its end", topic=self._topic, error=repr(error))

    async def _reach_end(self, consumer: AIOKafkaConsumer) -> None:
        ends = await consumer.end_offsets(list(self._positions))
        while any(self._positions[tp] < end for tp, end in ends.items()):
            self._moved.clear()
            await self._moved.wait()

    async def _follow(self) -> None:
        while True:
            try:
                consumer = await self._living()
                batches = await consumer.getmany(timeout_ms=1000)
                for tp, records in batches.items():
                    for record in records:
                        self._apply(record)
                    self._positions[tp] = records[-1].offset + 1
                # A read beyond the last record (a compacted tail) moves the position without one.
                for tp in self._positions:
                    self._positions[tp] = max(self._positions[tp], await consumer.position(tp))
            except Exception as error:  # whatever it is, the topic must go on being read
                log.warning("reading a topic failed; trying again", topic=self._topic, error=repr(error))
                await asyncio.sleep(1)
            self._moved.set()

    async def _living(self) -> AIOKafkaConsumer:
        """The consumer, or another one when aiokafka's fetching has ended: polls would find nothing for ever."""
        consumer = self._consumer
        if consumer is None:
            raise RuntimeError("the follower is not started")
        if (dead := dead_task(consumer)) is not None:
            log.error("a topic is no longer fetched; reading it with another consumer", topic=self._topic, task=dead[0])
            fresh = await self._connected()
            self._consumer = fresh
            await close(consumer, CLOSE_TIMEOUT_S)
            return fresh
        return consumer
