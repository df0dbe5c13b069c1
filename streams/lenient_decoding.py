"""Reads a log whose records have header keys that are not UTF-8: aiokafka refuses those with the whole batch around
them.

In: a consumer and partitions, sought to the record in question. Out: what a poll would have returned, with the
undecodable bytes of header keys replaced. C clients can write such keys; a record with one must not stop its partition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.legacy_records import LegacyRecordBatch
from aiokafka.record.memory_records import _MemoryRecordsPy
from aiokafka.structs import ConsumerRecord, TopicPartition

POLL_MS = 2000
_lock = asyncio.Lock()


class _Text(bytes):
    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """As `bytes.decode`, but never fails."""
        return bytes.decode(self, encoding, "replace")


class _Buffer(bytearray):
    def __getitem__(self, key: Any) -> Any:
        found = bytearray.__getitem__(self, key)
        return _Text(found) if isinstance(key, slice) else found


class _LenientBatch(_DefaultRecordBatchPy):  # type: ignore[misc]  # aiokafka ships no types
    _buffer: Any

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        if not isinstance(self._buffer, _Buffer):
            self._buffer = _Buffer(self._buffer)


class _LenientRecords(_MemoryRecordsPy):  # type: ignore[misc]
    def next_batch(self, *_: Any) -> Any:
        """The next batch, read by the lenient class if it is of the present format."""
        data = self._next_slice
        if data is None:
            return None
        self._cache_next()
        magic = data[self.MAGIC_OFFSET]
        return _LenientBatch(data) if magic >= 2 else LegacyRecordBatch(data, magic)


async def decode_leniently(
    consumer: AIOKafkaConsumer, *tps: TopicPartition
) -> dict[TopicPartition, list[ConsumerRecord]]:
    """One lenient poll. During it, every fetch of the process is read this (slower) way."""
    async with _lock:
        usual = fetcher.MemoryRecords
        fetcher.MemoryRecords = _LenientRecords
        try:
            found: dict[TopicPartition, list[ConsumerRecord]] = await consumer.getmany(*tps, timeout_ms=POLL_MS)
            return found
        finally:
            fetcher.MemoryRecords = usual


async def poll_from(
    consumer: AIOKafkaConsumer, positions: Mapping[TopicPartition, int], timeout_ms: int, max_records: int | None = None
) -> dict[TopicPartition, list[ConsumerRecord]]:
    """A poll of partitions at these positions; lenient where a header key cannot be decoded.

    aiokafka's error loses what it had read of the other partitions, so all of them are sought again.
    """
    try:
        found: dict[TopicPartition, list[ConsumerRecord]] = await consumer.getmany(
            *positions, timeout_ms=timeout_ms, max_records=max_records
        )
    except UnicodeDecodeError:
        for tp, offset in positions.items():
            consumer.seek(tp, offset)
        return await decode_leniently(consumer, *positions)
    return found
