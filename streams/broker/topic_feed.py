"""Topics read without a group, under read_committed: to their present ends, or on as records come.

In: short topic names (`results`) and where to begin. Out: records, in order within each partition, each once for the
life of the feed. Consumers that break are replaced at the position reached; partitions that are added are read from
their beginning. It creates no topic, and waits without a bound only if it is asked to follow.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Collection
from typing import Any, Self

from aiokafka import TopicPartition
from aiokafka.errors import (
    CorruptRecordException,
    KafkaError,
    TopicAuthorizationFailedError,
    UnsupportedCodecError,
)
from aiokafka.structs import ConsumerRecord

from schemas.topics import LARGE_RECORD_BYTES, full_name
from streams.broker.client import topic_missing
from streams.broker.kafka import client_options, committed_reader, start
from streams.lenient_decoding import poll_from
from streams.schema_registry import SchemaUnavailable, learn_schemas
from streams.settings import Settings

log = logging.getLogger(__name__)

POLL_MS = 300
RETRY_PAUSE_S = 0.5
CHECK_INTERVAL_S = 10.0
"""How often a feed without new records checks whether its consumer still fetches."""
POSITION_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 5.0
STALL_S = 20.0
"""How long a consumer may take to be positioned, and a bounded read to go on, before it gives up."""
METADATA_MAX_AGE_MS = 30_000
"""How soon added partitions are seen."""
_LASTING = (CorruptRecordException, TopicAuthorizationFailedError, UnsupportedCodecError)
"""Errors that another consumer would meet again."""


class ReadStalled(OSError):
    """The brokers stopped answering before the end of the topic was reached."""


class TopicFeed:
    """All partitions of the topics, or `only` those of these numbers.

    `since_ms`: begin at the first record of that time; 0: at the oldest one; None: after the last record at the time of
    `open`.
    """

    def __init__(
        self, settings: Settings, *topics: str, since_ms: int | None = None, only: Collection[int] | None = None
    ) -> None:
        self.schema_problem: str | None = None
        """Why records with schemas of the registry are not decoded, in one line; None while they are."""
        self._settings = settings
        self._topics = [full_name(topic, settings.topic_prefix) for topic in topics]
        self._since_ms = since_ms
        self._only = only
        self._positions: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._consumer: Any = None
        self._error: Exception | None = None
        self._checked = 0.0
        self._behind: dict[TopicPartition, int] = {}

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect and seek. Raises `TopicMissing`, `AccessDenied`, `KafkaError`, `OSError`."""
        self._consumer = await self._connected()

    async def close(self) -> None:
        """Disconnect; idempotent."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await _close(consumer)

    async def to_end(self) -> AsyncGenerator[ConsumerRecord]:
        """Every record up to the ends at the time of `open`, or a few more. Raises `KafkaError`, `ReadStalled`."""
        clock = asyncio.get_running_loop().time
        moved = clock()
        while left := [tp for tp, end in self._ends.items() if self._positions[tp] < end]:
            before = self._positions
            for record in await self.read():
                yield record
            if self._positions != before:
                moved = clock()
            elif clock() - moved > STALL_S:
                raise ReadStalled(f"no record for {STALL_S:.0f} s before the end of {left[0].topic}") from self._error

    async def follow(self) -> AsyncGenerator[ConsumerRecord]:
        """Every record, for as long as the caller asks. Raises `KafkaError`."""
        while True:
            for record in await self.read():
                yield record

    async def read(self) -> list[ConsumerRecord]:
        """As `poll`. Raises `KafkaError` if another consumer would meet the same error."""
        records = await self.poll()
        if isinstance(self._error, _LASTING):
            raise self._error
        return records

    async def poll(self) -> list[ConsumerRecord]:
        """New records, within `POLL_MS`; often none, also while Kafka is unreachable."""
        try:
            if self._consumer is not None and self._grown(self._consumer):
                await self.close()  # the next consumer reads the added partitions too
            consumer = self._consumer = self._consumer or await self._connected()
            batches = await poll_from(consumer, self._positions, POLL_MS)
            if not batches:
                await self._check(consumer)
            async with asyncio.timeout(POSITION_TIMEOUT_S):
                # Transaction markers move a position without a record.
                moved = {tp: await consumer.position(tp) for tp in batches or self._positions}
            self._positions = self._positions | moved
        except (KafkaError, OSError) as error:
            log.debug("reading %s failed; trying again with another consumer: %r", ", ".join(self._topics), error)
            self._error = error
            await self.close()
            await asyncio.sleep(RETRY_PAUSE_S)
            return []
        self._error = None
        records = [record for found in batches.values() for record in found]
        await self._learn(records)
        return [record for record in records if not self._since_ms or record.timestamp >= self._since_ms]

    async def _learn(self, records: list[ConsumerRecord]) -> None:
        """Fetch the schemas that are needed. While the registry is away, records are returned undecoded."""
        if self.schema_problem is None:  # each try may take seconds
            try:
                await learn_schemas(records)
            except SchemaUnavailable as error:
                self.schema_problem = str(error)

    def _grown(self, consumer: Any) -> bool:
        known = sum(len(consumer.partitions_for_topic(topic) or ()) for topic in self._topics)
        return self._only is None and known > len(self._positions)

    async def _check(self, consumer: Any) -> None:
        """Raises `KafkaError` if the consumer does not fetch: no progress between two checks, with unread records."""
        now = asyncio.get_running_loop().time()
        if now - self._checked < CHECK_INTERVAL_S:
            return
        self._checked = now
        fetching = getattr(consumer._fetcher, "_fetch_task", None)
        if fetching is not None and fetching.done():
            raise KafkaError("aiokafka stopped fetching")
        async with asyncio.timeout(POSITION_TIMEOUT_S):
            ends = await consumer.end_offsets(list(self._positions))
        behind = {tp: self._positions[tp] for tp, end in ends.items() if self._positions[tp] < end}
        if any(self._behind.get(tp) == offset for tp, offset in behind.items()):
            raise KafkaError("no progress between two checks")
        self._behind = behind

    async def _connected(self) -> Any:
        consumer = committed_reader(
            client_options(self._settings),
            max_partition_fetch_bytes=LARGE_RECORD_BYTES,
            fetch_max_bytes=2 * LARGE_RECORD_BYTES,
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
        )
        await start(consumer)
        try:
            async with asyncio.timeout(STALL_S):
                await self._seek(consumer)
        except BaseException as error:
            await _close(consumer)
            if isinstance(error, TimeoutError):
                raise ReadStalled(f"no position in {', '.join(self._topics)} within {STALL_S:.0f} s") from None
            raise
        self._checked, self._behind = asyncio.get_running_loop().time(), {}
        return consumer

    async def _seek(self, consumer: Any) -> None:
        """Continue from the last positions, or begin; partitions that were added since begin at their beginning."""
        # All topics: asked by name, some brokers would create one.
        cluster = await consumer._client.fetch_all_metadata()
        found = set()
        for topic in self._topics:
            numbers = cluster.partitions_for_topic(topic) or set()
            if not numbers and not self._positions:
                raise await topic_missing(self._settings, topic)
            found |= {TopicPartition(topic, number) for number in numbers if self._only is None or number in self._only}
        added = sorted(found - self._positions.keys())
        consumer.assign([*self._positions, *added])
        if not self._positions:
            positions = await self._first_positions(consumer, added)
        else:
            positions = self._positions | (await consumer.beginning_offsets(added) if added else {})
        for tp, offset in positions.items():
            consumer.seek(tp, offset)
        self._positions = positions

    async def _first_positions(self, consumer: Any, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        begins: dict[TopicPartition, int] = await consumer.beginning_offsets(tps)
        self._ends = ends = await consumer.end_offsets(tps)
        if self._since_ms is None:
            return await _after_last(consumer, begins, ends)
        if self._since_ms <= 0:
            return begins
        found = await consumer.offsets_for_times(dict.fromkeys(tps, self._since_ms))
        # No record of that time or later. The embedded broker may be wrong: one record before the end is read again.
        return {tp: at.offset if (at := found.get(tp)) else max(begins[tp], ends[tp] - 1) for tp in tps}


async def _after_last(
    consumer: Any, begins: dict[TopicPartition, int], ends: dict[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """The offset after the last record of each partition.

    The embedded broker reports an end one past the *first* record of the last batch: that batch is read and skipped.
    """
    positions = {tp: max(begins[tp], end - 1) for tp, end in ends.items()}
    for tp, offset in positions.items():
        consumer.seek(tp, offset)
    while left := {tp: offset for tp, offset in positions.items() if offset < ends[tp]}:
        await poll_from(consumer, left, POLL_MS)
        positions |= {tp: await consumer.position(tp) for tp in left}
    return positions


async def _close(consumer: Any) -> None:
    """Stop within bounded time, also if the brokers are gone or aiokafka's own tasks have died."""
    stopping = asyncio.ensure_future(consumer.stop())
    await asyncio.wait([stopping], timeout=CLOSE_TIMEOUT_S)
    if stopping.done() and not stopping.cancelled() and stopping.exception() is None:
        return
    stopping.cancel()
    with contextlib.suppress(Exception):
        await asyncio.wait([asyncio.ensure_future(consumer._client.close())], timeout=CLOSE_TIMEOUT_S)


async def read_all(settings: Settings, topic: str, since_ms: int = 0) -> AsyncGenerator[ConsumerRecord]:
    """The records of a topic since then, up to its present end. Raises as `TopicFeed.open` and `TopicFeed.to_end`."""
    async with TopicFeed(settings, topic, since_ms=since_ms) as feed:
        async for record in feed.to_end():
            yield record
