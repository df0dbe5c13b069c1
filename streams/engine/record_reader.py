"""Reads single records of a partition again, by offset: tasks that waited on their topic and whose turn has come.

In: a topic partition and offsets. Out: the committed records that still exist. It joins no group and commits nothing.
One consumer serves a worker; it is created on first use and reads one partition at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import ConsumerRecord, TopicPartition

from schemas.topics import full_name
from streams.engine.group import close
from streams.lenient_decoding import poll_from

READ_TIMEOUT_S = 8.0
"""Time without progress."""
POLL_MS = 100
FETCH_BYTES = 128 * 1024
MAX_RECORDS = 1000
FAR = 2000
"""Offsets that are further apart than this are read separately."""
CLOSE_TIMEOUT_S = 5.0

ReadAgain = Callable[[str, int, Sequence[int]], Awaitable[dict[int, ConsumerRecord]]]
"""The signature of `RecordReader.read`."""


class RecordReader:
    """`options`: aiokafka's connection arguments."""

    def __init__(self, options: dict[str, Any], prefix: str) -> None:
        self._options = options
        self._prefix = prefix
        self._consumer: AIOKafkaConsumer | None = None
        self._reading = asyncio.Lock()

    async def read(self, source: str, number: int, offsets: Sequence[int]) -> dict[int, ConsumerRecord]:
        """The records at these offsets (ascending); missing ones are gone. Raises `KafkaError`, `TimeoutError`."""
        tp = TopicPartition(full_name(source, self._prefix), number)
        found: dict[int, ConsumerRecord] = {}
        async with self._reading:
            try:
                async with asyncio.timeout(READ_TIMEOUT_S) as bound:
                    consumer = await self._connected()
                    consumer.assign([tp])
                    for span in _spans(offsets):
                        await self._read_span(consumer, tp, span, found, bound)
            except BaseException:
                await self._drop()
                raise
        return found

    async def close(self) -> None:
        async with self._reading:
            await self._drop()

    async def _connected(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            consumer = self._consumer = AIOKafkaConsumer(
                **self._options,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                isolation_level="read_committed",
                max_partition_fetch_bytes=FETCH_BYTES,
                fetch_max_wait_ms=POLL_MS,
            )
            await consumer.start()
        return self._consumer

    @staticmethod
    async def _read_span(
        consumer: AIOKafkaConsumer,
        tp: TopicPartition,
        offsets: Sequence[int],
        found: dict[int, ConsumerRecord],
        bound: asyncio.Timeout,
    ) -> None:
        """`bound`: extended while the position moves, since records may be far apart."""
        wanted, last, at = frozenset(offsets), offsets[-1], offsets[0]
        consumer.seek(tp, at)
        while at <= last:
            batches = await poll_from(consumer, {tp: at}, POLL_MS, MAX_RECORDS)
            for record in batches.get(tp, ()):
                if record.offset in wanted:
                    found[record.offset] = record
            position = await consumer.position(tp)
            if position > at:
                at = position
                bound.reschedule(asyncio.get_running_loop().time() + READ_TIMEOUT_S)

    async def _drop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await close(consumer, CLOSE_TIMEOUT_S)


def _spans(offsets: Sequence[int]) -> list[list[int]]:
    """Groups offsets that are close together.

    >>> _spans([1, 5, 9000])
    [[1, 5], [9000]]
    """
    spans: list[list[int]] = []
    for offset in offsets:
        if spans and offset - spans[-1][-1] <= FAR:
            spans[-1].append(offset)
        else:
            spans.append([offset])
    return spans
