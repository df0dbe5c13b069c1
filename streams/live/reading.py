"""Reads the topic `events` from near its end and follows it: all partitions, no group, no commits, committed records
only.

In: the topic, and a `Taker`. Out: records in the order of each partition, first the `BACK` newest of each, then
`caught_up`, then new ones. After any failure, a new consumer continues from the last position, until `stop`. It writes
nothing, and reads nothing before `start` or after `stop`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord, TopicPartition

from streams.broker.kafka import committed_reader
from streams.engine.commit import CLOSE_TIMEOUT_S
from streams.engine.group import close, dead_task, partition_numbers

log = structlog.get_logger(__name__)

BACK = 2000
"""Offsets to go back to in each partition, for watchers that return; some of them are transaction markers."""
BACK_IN_ALL = 16_000
LEAST_BACK = 200
POLL_MS = 250
PORTION = 500
"""Records taken at once; the loop has a turn after each."""
FETCH_BYTES = 256 * 1024
GATHER_S = 0.1
RETRY_PAUSE_S = 1.0
POSITIONS_TIMEOUT_S = 5.0
LOAD_TIMEOUT_S = 20.0
ENDS_TIMEOUT_S = 2.0
METADATA_MAX_AGE_MS = 30_000
"""How soon added partitions are seen."""


class Taker(Protocol):
    """Receives what is read."""

    def begins(self, positions: Mapping[int, int], trimmed: Sequence[int]) -> None:
        """The first offsets to be read; `trimmed`: partitions that have earlier ones."""

    def take(self, partition: int, records: Sequence[ConsumerRecord], position: int) -> None:
        """The next records of one partition, possibly none, and the offset at which reading continues."""

    def caught_up(self) -> None:
        """Everything that was there at the start has been read."""


class TopicReader:
    """One reading of `topic` (its name on the broker)."""

    def __init__(self, options: Mapping[str, Any], topic: str, taker: Taker) -> None:
        self._options = options
        self._topic = topic
        self._taker = taker
        self._positions: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._loaded = False
        self._consumer: AIOKafkaConsumer | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start reading, in a task."""
        self._task = asyncio.create_task(self._run(), name=f"live-{self._topic}")

    async def stop(self) -> None:
        """Stop, and close the connections to the brokers."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def ends(self) -> dict[int, int]:
        """The present end of each partition; empty if the brokers do not answer in time."""
        consumer = self._consumer
        if consumer is None:
            return {}
        try:
            async with asyncio.timeout(ENDS_TIMEOUT_S):
                found = await consumer.end_offsets([TopicPartition(self._topic, n) for n in self._positions])
        except (KafkaError, TimeoutError):
            return {}
        return {tp.partition: end for tp, end in found.items()}

    async def _run(self) -> None:
        while True:
            try:
                consumer = await self._connected()
                try:
                    self._consumer = consumer
                    await self._follow(consumer)
                finally:
                    self._consumer = None
                    await close(consumer, CLOSE_TIMEOUT_S)
            except Exception as error:  # after any error: watchers wait until reading works again
                log.warning("events are not read; trying again", error=repr(error))
            await asyncio.sleep(RETRY_PAUSE_S)

    async def _connected(self) -> AIOKafkaConsumer:
        consumer = committed_reader(
            self._options,
            fetch_max_wait_ms=POLL_MS,
            max_partition_fetch_bytes=FETCH_BYTES,
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
        )
        try:
            await consumer.start()
            await self._seek(consumer)
        except BaseException:
            await close(consumer, CLOSE_TIMEOUT_S)
            raise
        return consumer

    async def _seek(self, consumer: AIOKafkaConsumer) -> None:
        """Continue from the last positions; new partitions begin near their end at the start, later at their
        beginning.
        """
        numbers = await partition_numbers(consumer, self._topic)
        if not numbers:
            raise KafkaError(f"topic {self._topic} does not exist")
        tps = [TopicPartition(self._topic, number) for number in sorted(numbers)]
        consumer.assign(tps)
        begins = await consumer.beginning_offsets(tps)
        if not self._loaded:
            ends = await consumer.end_offsets(tps)
            self._ends = {tp.partition: end for tp, end in ends.items()}
        back = BACK if self._loaded else max(LEAST_BACK, min(BACK, BACK_IN_ALL // len(tps)))
        fresh, trimmed = {}, []
        for tp, begin in begins.items():
            if tp.partition not in self._positions:
                near = begin if self._loaded else max(begin, self._ends[tp.partition] - back)
                fresh[tp.partition] = near
                if near > begin:
                    trimmed.append(tp.partition)
        self._positions |= fresh
        for tp in tps:
            consumer.seek(tp, self._positions[tp.partition])
        if fresh:
            self._taker.begins(fresh, trimmed)

    async def _follow(self, consumer: AIOKafkaConsumer) -> None:
        clock = asyncio.get_running_loop().time
        give_up = clock() + LOAD_TIMEOUT_S
        while True:
            taken = 0
            for tp, records in (await consumer.getmany(timeout_ms=POLL_MS, max_records=PORTION)).items():
                taken += len(records)
                self._moved(tp.partition, records[-1].offset + 1, records)
            async with asyncio.timeout(POSITIONS_TIMEOUT_S):
                for number in list(self._positions):
                    # A read beyond the last record (markers) moves the position without one.
                    self._moved(number, await consumer.position(TopicPartition(self._topic, number)))
            if not self._loaded and (self._at_ends() or clock() > give_up):
                self._loaded = True
                self._taker.caught_up()
            if (dead := dead_task(consumer)) is not None:
                raise RuntimeError(f"the consumer's task {dead[0]} has ended")
            if len(consumer.partitions_for_topic(self._topic) or ()) > len(self._positions):
                raise RuntimeError("partitions were added")
            # A full buffer is returned without a turn of the loop; single records are gathered.
            await asyncio.sleep(GATHER_S if self._loaded and taken < PORTION else 0)

    def _moved(self, number: int, position: int, records: Sequence[ConsumerRecord] = ()) -> None:
        if records or position > self._positions[number]:
            self._positions[number] = position
            self._taker.take(number, records, position)

    def _at_ends(self) -> bool:
        return all(self._positions.get(number, 0) >= end for number, end in self._ends.items())
