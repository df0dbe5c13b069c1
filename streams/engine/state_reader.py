"""Reads one partition of a compacted topic whole: the state that a partition needs before it opens.

In: a topic partition without another writer (the former one was fenced). Out: the newest value of each key. If another
application holds a transaction open there, later committed records are invisible until it ends: it is waited for. It
joins no group, commits nothing and keeps nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from streams.engine.group import partition_numbers

log = structlog.get_logger(__name__)

READ_TIMEOUT_S = 60.0
FETCH_BYTES = 4 * 1024 * 1024
POLL_MS = 100
TELL_S = 10.0
AT_ONCE = 8
"""Partitions read at the same time by one worker."""


class StatePartitionMissing(KafkaError):  # type: ignore[misc]  # aiokafka ships no types
    """The state topic has fewer partitions than the topics read, so state of the extra ones cannot be stored."""

    retriable = True


class PartitionReader(Protocol):
    """Reads one partition of a compacted topic whole."""

    async def read(self, number: int) -> list[bytes]:
        """The newest value of each key, by age, of a partition number that will be opened. Raises `KafkaError`,
        `TimeoutError`.
        """
        ...

    async def read_rows(self, number: int) -> dict[bytes, bytes]:
        """Keys and their newest values, by age, of any partition number. Raises `KafkaError`, `TimeoutError`."""
        ...


class StateReader:
    """Reads partitions of `topic` (its name on the broker). `options`: aiokafka's connection arguments."""

    def __init__(self, options: dict[str, Any], topic: str, exact_ends: bool = True) -> None:
        """`exact_ends`: whether the broker reports the true end of a log."""
        self._exact_ends = exact_ends
        self._options = options
        self._topic = topic
        self._places = asyncio.Semaphore(AT_ONCE)

    async def read(self, number: int) -> list[bytes]:
        """The newest value of each key of this partition, by age. Raises `KafkaError`, `TimeoutError`."""
        return list((await self.read_rows(number)).values())

    async def read_rows(self, number: int) -> dict[bytes, bytes]:
        """Each key of this partition with its newest value, by age. Raises `KafkaError`, `TimeoutError`."""
        async with self._places, asyncio.timeout(READ_TIMEOUT_S):
            consumer = AIOKafkaConsumer(
                **self._options,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                isolation_level="read_committed",
                max_partition_fetch_bytes=FETCH_BYTES,
                fetch_max_wait_ms=POLL_MS,
            )
            try:
                await consumer.start()
                known = await partition_numbers(consumer, self._topic)
                if known and number not in known:
                    raise StatePartitionMissing(
                        f"{self._topic} has {len(known)} partitions and none of number {number}; give all topics the same count "
                        "with: parallax topics apply"
                    )
                return await self._newest(consumer, TopicPartition(self._topic, number))
            finally:
                await consumer.stop()

    async def _newest(self, consumer: AIOKafkaConsumer, tp: TopicPartition) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        consumer.assign([tp])
        begin, end = (await consumer.beginning_offsets([tp]))[tp], (await consumer.end_offsets([tp]))[tp]
        if begin >= end and not self._exact_ends:
            return {}
        consumer.seek(tp, begin)
        loop = asyncio.get_running_loop()
        true_end, tell_at = (None if self._exact_ends else end), loop.time() + TELL_S
        while true_end is None or await consumer.position(tp) < true_end:
            for record in (await consumer.getmany(tp, timeout_ms=POLL_MS)).get(tp, ()):
                if record.key is None:
                    continue
                found.pop(record.key, None)
                if record.value is not None:
                    found[record.key] = record.value
            # `end` is the end of committed records; the first fetch response has the log's end.
            if true_end is None and (high := consumer.highwater(tp)) is not None:
                true_end = max(end, high)
            if loop.time() >= tell_at:
                tell_at = float("inf")
                log.warning("waiting for a transaction on a state topic to end", topic=tp.topic, partition=tp.partition,
                            position=await consumer.position(tp), end=true_end)  # fmt: skip
        return found
