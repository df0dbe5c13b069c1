"""Reads one partition of a compacted topic whole: what a home has to know before it opens.

In: a topic partition that nobody else writes to any more (its writer was fenced). Out: the newest value of each key.
It joins no group, commits nothing and keeps nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

READ_TIMEOUT_S = 60.0
FETCH_BYTES = 4 * 1024 * 1024
POLL_MS = 100
AT_ONCE = 8
"""Partitions read at the same time by one worker."""


class PartitionReader(Protocol):
    """Reads one partition of a compacted topic whole."""

    async def read(self, number: int) -> list[bytes]:
        """The newest value of each key, by age. Raises `KafkaError`, `TimeoutError`."""
        ...


class StateReader:
    """Reads partitions of `topic` (its name on the broker). `options`: aiokafka's connection arguments."""

    def __init__(self, options: dict[str, Any], topic: str) -> None:
        self._options = options
        self._topic = topic
        self._places = asyncio.Semaphore(AT_ONCE)

    async def read(self, number: int) -> list[bytes]:
        """The newest value of each key of this partition, by age. Raises `KafkaError`, `TimeoutError`."""
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
                return await self._newest(consumer, TopicPartition(self._topic, number))
            finally:
                await consumer.stop()

    async def _newest(self, consumer: AIOKafkaConsumer, tp: TopicPartition) -> list[bytes]:
        found: dict[bytes, bytes] = {}
        consumer.assign([tp])
        begin, end = (await consumer.beginning_offsets([tp]))[tp], (await consumer.end_offsets([tp]))[tp]
        if begin >= end:
            return []
        consumer.seek(tp, begin)
        while await consumer.position(tp) < end:
            for record in (await consumer.getmany(tp, timeout_ms=POLL_MS)).get(tp, ()):
                if record.key is None:
                    continue
                found.pop(record.key, None)
                if record.value is not None:
                    found[record.key] = record.value
        return list(found.values())
