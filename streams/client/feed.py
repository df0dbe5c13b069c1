"""A topic read without a group, under read_committed, while the caller polls. Survives unreachable brokers.

In: a topic and where to begin. Out: records, in order within each partition, each once for the life of the feed.
Consumers that break are replaced at the position reached; partitions that are added are read from their beginning.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from schemas.codec import Headers
from schemas.topics import LARGE_RECORD_BYTES, full_name
from streams.broker.kafka import client_options, committed_reader, start
from streams.client.connection import kafka_errors, partitions_of
from streams.lenient_decoding import poll_from
from streams.schema_registry import learn_schemas
from streams.settings import Settings

log = logging.getLogger(__name__)

POLL_MS = 500
RETRY_PAUSE_S = 0.5
CHECK_INTERVAL_S = 10.0
"""How often a feed checks for added partitions, and, without new records, whether its consumer still fetches."""
CLOSE_TIMEOUT_S = 5.0
END_TIMEOUT_S = 20.0
METADATA_MAX_AGE_MS = 30_000


class TopicFeed:
    """`since_ms`: begin at the first record of that time; None: after the last record at the time of `open`."""

    def __init__(
        self, settings: Settings, topic: str, *, since_ms: int | None = None, only: list[int] | None = None
    ) -> None:
        self.topic = full_name(topic, settings.topic_prefix)
        self._options = client_options(settings)
        self._since_ms = since_ms
        self._only = only
        self._positions: dict[TopicPartition, int] = {}
        self._consumer: Any = None
        self._checked = 0.0
        self._behind: dict[TopicPartition, int] = {}

    async def open(self) -> None:
        """Connect and seek. Raises `KafkaError`, `TimeoutError`, `OSError`."""
        self._consumer = await self._connected()

    async def close(self) -> None:
        """Disconnect; idempotent."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await close_consumer(consumer)

    async def poll(self) -> list[ConsumerRecord]:
        """New records, after half a second at most; often none, also while Kafka is unreachable."""
        try:
            if self._consumer is None:
                self._consumer = await self._connected()
            batches = await poll_from(self._consumer, self._positions, POLL_MS)
            for tp, records in batches.items():
                self._positions[tp] = records[-1].offset + 1
            now = asyncio.get_running_loop().time()
            if now - self._checked > CHECK_INTERVAL_S:
                self._checked = now
                await self._check(bool(batches))
        except (KafkaError, OSError, TimeoutError) as error:
            log.debug("reading %s failed; trying again with another consumer: %r", self.topic, error)
            await self.close()
            await asyncio.sleep(RETRY_PAUSE_S)
            return []
        return [record for records in batches.values() for record in records]

    async def ends(self) -> dict[TopicPartition, int]:
        """The present end of each partition. Raises `KafkaError`."""
        ends: dict[TopicPartition, int] = await self._consumer.end_offsets(list(self._positions))
        return ends

    async def position(self, tp: TopicPartition) -> int:
        """The next offset to read."""
        found: int = await self._consumer.position(tp)
        return found

    async def _check(self, moving: bool) -> None:
        """Check for added partitions, and for a consumer that makes no progress with unread records."""
        consumer = self._consumer
        numbers = consumer.partitions_for_topic(self.topic) or set()
        added = [TopicPartition(self.topic, n) for n in numbers if self._only is None]
        added = [tp for tp in added if tp not in self._positions]
        if added:
            self._positions |= dict.fromkeys(added, 0)
            raise KafkaError("partitions were added")  # the next consumer reads them
        fetching = getattr(consumer._fetcher, "_fetch_task", None)
        if fetching is not None and fetching.done():
            raise KafkaError("aiokafka stopped fetching")
        if moving:
            self._behind = {}
            return
        async with asyncio.timeout(CHECK_INTERVAL_S):
            ends = await consumer.end_offsets(list(self._positions))
            here = {tp: await consumer.position(tp) for tp in self._positions}
        behind = {tp: here[tp] for tp, end in ends.items() if here[tp] < end}
        if any(self._behind.get(tp) == offset for tp, offset in behind.items()):
            self._behind = {}
            raise KafkaError("no progress between two checks")
        self._behind = behind

    async def _connected(self) -> Any:
        consumer = committed_reader(
            self._options,
            max_partition_fetch_bytes=LARGE_RECORD_BYTES,
            fetch_max_bytes=2 * LARGE_RECORD_BYTES,
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
            retry_backoff_ms=100,
        )
        await start(consumer)
        try:
            async with asyncio.timeout(END_TIMEOUT_S):
                await self._take_position(consumer)
        except BaseException:
            await close_consumer(consumer)
            raise
        self._checked = asyncio.get_running_loop().time()
        self._behind = {}
        return consumer

    async def _take_position(self, consumer: Any) -> None:
        first = not self._positions
        if first:
            numbers = consumer.partitions_for_topic(self.topic)
            if not numbers:
                await consumer._client.add_topic(self.topic)
                numbers = consumer.partitions_for_topic(self.topic) or set()
            wanted = sorted(numbers if self._only is None else set(self._only) & set(numbers))
            tps = [TopicPartition(self.topic, number) for number in wanted]
        else:
            tps = list(self._positions)
        consumer.assign(tps)
        if not first:
            for tp, offset in self._positions.items():
                consumer.seek(tp, offset)
        elif self._since_ms is None:
            await self._stand_at_end(consumer, tps)
        else:
            await self._stand_at_time(consumer, tps, self._since_ms)

    async def _stand_at_time(self, consumer: Any, tps: list[TopicPartition], since_ms: int) -> None:
        begins = await consumer.beginning_offsets(tps)
        ends = await consumer.end_offsets(tps)
        found = await consumer.offsets_for_times(dict.fromkeys(tps, since_ms)) if since_ms > 0 else {}
        for tp in tps:
            at = found.get(tp)
            # No record of that time or later. The embedded broker may be wrong: one record before the end is read again.
            offset = begins[tp] if since_ms <= 0 else max(begins[tp], ends[tp] - 1) if at is None else at.offset
            self._positions[tp] = offset
            consumer.seek(tp, offset)

    async def _stand_at_end(self, consumer: Any, tps: list[TopicPartition]) -> None:
        """Seek after the last record. The embedded broker's end is one past the *first* record of the last batch: read
        past it.
        """
        begins = await consumer.beginning_offsets(tps)
        ends = await consumer.end_offsets(tps)
        left = {tp for tp in tps if begins[tp] < ends[tp]}
        for tp in tps:
            consumer.seek(tp, ends[tp] - 1 if tp in left else ends[tp])
        while left:
            await poll_from(consumer, {tp: ends[tp] - 1 for tp in left}, POLL_MS)
            left = {tp for tp in left if await consumer.position(tp) < ends[tp]}
        for tp in tps:
            self._positions[tp] = await consumer.position(tp)


async def close_consumer(consumer: Any) -> None:
    """Stop within bounded time, also if the brokers are gone or aiokafka's own tasks have died."""
    stopping = asyncio.ensure_future(consumer.stop())
    await asyncio.wait([stopping], timeout=CLOSE_TIMEOUT_S)
    if stopping.done() and not stopping.cancelled() and stopping.exception() is None:
        return
    stopping.cancel()
    with contextlib.suppress(Exception):
        await asyncio.wait([asyncio.ensure_future(consumer._client.close())], timeout=CLOSE_TIMEOUT_S)


async def read_since(settings: Settings, topic: str, since_ms: int, only: list[int] | None = None) -> Any:
    """Yields the records of a topic from a time to its present end. Raises `KafkaError`, `TimeoutError`."""
    feed = TopicFeed(settings, topic, since_ms=since_ms, only=only)
    await feed.open()
    try:
        ends = await feed.ends()
        left = dict(ends)
        clock = asyncio.get_running_loop().time
        moved = clock()
        while left:
            for tp in [tp for tp in left if await feed.position(tp) >= left[tp]]:
                del left[tp]
            if not left:
                return
            records = await feed.poll()
            if records:
                moved = clock()
            elif clock() - moved > END_TIMEOUT_S:
                raise TimeoutError(f"no record for {END_TIMEOUT_S:.0f} s before the end of {feed.topic}")
            await learn_schemas(records)
            for record in records:
                if record.timestamp >= since_ms:
                    yield record
    finally:
        await feed.close()


async def records_since(settings: Settings, topic: str, since_ms: int) -> AsyncGenerator[ConsumerRecord]:
    """As `read_since`. Raises `ClientError`."""
    async with kafka_errors(settings), contextlib.aclosing(read_since(settings, topic, since_ms)) as records:
        async for record in records:
            yield record


async def read_entries(
    settings: Settings, topic: str, add: Callable[[bytes | None, bytes | None, Headers], None]
) -> None:
    """Calls `add` with key, value and headers of every record of a topic. Raises `TopicsMissing`, `KafkaUnreachable`."""
    await partitions_of(settings, [topic])
    async for record in records_since(settings, topic, 0):
        add(record.key, record.value, record.headers)
