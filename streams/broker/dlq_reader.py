"""The dead-letter topics on the broker: read them, look one up, send dead letters back.

In: settings, positions, records to send. Out: records read under read_committed, and whether each replayed dead letter
was acknowledged. It never joins a group, never creates a topic, never reads past the end it saw, and never waits
without a bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from aiokafka.structs import ConsumerRecord

from schemas.times import format_time
from schemas.topics import LARGE_RECORD_BYTES
from schemas.wire_format import is_marked_key, key_text
from streams.broker.client import catalog
from streams.broker.kafka import client_options, committed_reader, start
from streams.broker.topic_feed import POLL_MS, STALL_S, ReadStalled, read_all
from streams.lenient_decoding import poll_from
from streams.rules.broker.dead_letters import RecordId, Replay, read_dlq_headers, word
from streams.schema_registry import SchemaUnavailable, learn_schemas
from streams.settings import Settings

SEND_WINDOW = 200
"""Dead letters sent before the first of them must be acknowledged."""
HEADER_ROOM_BYTES = 64 * 1024


async def dlq_topics(settings: Settings) -> list[str]:
    """The full names of all dead-letter topics on the broker, including those of other products."""
    return sorted(name for name in await catalog(settings) if name.startswith(f"dlq.{settings.topic_prefix}"))


def read_topic(settings: Settings, topic: str) -> AsyncGenerator[ConsumerRecord]:
    """All dead letters of one topic, given by its full name, as `read_all`."""
    return read_all(settings, f"dlq.{topic.removeprefix(f'dlq.{settings.topic_prefix}')}")


async def last_offsets(settings: Settings, topics: Iterable[str]) -> dict[tuple[str, int], int]:
    """Topic and partition to the offset of the last dead letter now.

    Found by reading: the end offset of the embedded broker is too low by the size of its last batch.
    """
    last: dict[tuple[str, int], int] = {}
    for topic in topics:
        async for record in read_topic(settings, topic):
            last[topic, record.partition] = record.offset
    return last


async def read_until(
    settings: Settings, last: dict[tuple[str, int], int]
) -> AsyncGenerator[tuple[RecordId, ConsumerRecord]]:
    """All dead letters up to the offsets given."""
    for topic in sorted({topic for topic, _ in last}):
        async for record in read_topic(settings, topic):
            if record.offset <= last.get((topic, record.partition), -1):
                yield RecordId(topic, record.partition, record.offset), record


async def look_up(
    settings: Settings, places: Sequence[RecordId]
) -> AsyncGenerator[tuple[RecordId, ConsumerRecord | None]]:
    """The dead letter at each place, or None where there is none. Raises `ReadStalled`."""
    existing = await catalog(settings)
    consumer = committed_reader(client_options(settings), max_partition_fetch_bytes=LARGE_RECORD_BYTES)
    await start(consumer)
    await asyncio.sleep(0)  # aiokafka's stop() raises CancelledError when its task has not run at all
    try:
        for place in places:
            there = place.partition in existing.get(place.topic, ())
            yield place, await _record_at(consumer, place) if there else None
    finally:
        await consumer.stop()


async def _record_at(consumer: Any, place: RecordId) -> ConsumerRecord | None:
    tp = TopicPartition(place.topic, place.partition)
    consumer.assign([tp])
    start, end = (await consumer.beginning_offsets([tp]))[tp], (await consumer.end_offsets([tp]))[tp]
    if place.offset < start or start == end:
        return None
    # Seek into the last batch: its end may be reported too low (see `last_offsets`).
    at = min(place.offset, end - 1)
    consumer.seek(tp, at)
    try:
        async with asyncio.timeout(STALL_S):
            while at < end:
                for record in (await poll_from(consumer, {tp: at}, POLL_MS)).get(tp, ()):
                    if record.offset >= place.offset:
                        if record.offset != place.offset:
                            return None
                        with suppress(SchemaUnavailable):  # its bytes are then shown undecoded
                            await learn_schemas([record])
                        return record
                at = await consumer.position(tp)
    except TimeoutError:
        raise ReadStalled(f"no record for {STALL_S:.0f} s at {place}") from None
    return None


def summary(record: ConsumerRecord) -> dict[str, Any]:
    """One dead letter without its bytes. Values missing in its headers are null; `time` is then the broker's."""
    found = read_dlq_headers(record.headers)
    return {
        "place": str(RecordId(record.topic, record.partition, record.offset)),
        "from": found.origin,
        "time": found.time or format_time(record.timestamp),
        "stage": found.stage,
        "reason": found.reason,
        "family": found.family,
        "exception": found.exception,
        "group": found.group,
        "agent": found.agent,
        "deliveries": found.deliveries,
        "replayed": found.replayed,
        "omittedBytes": found.omitted_bytes,
        "key": key_text(record.key, record.headers) if is_marked_key(record.key, record.headers) else word(record.key),
        "bytes": None if record.value is None else len(record.value),
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
    }


class DlqReplayer:
    """Replays dead letters and returns the outcome of each. Made by `replaying`."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer
        self._waiting: list[tuple[RecordId, Replay, Any]] = []
        self.error: KafkaError | None = None
        """Why no further dead letter can be sent; None while they can."""

    @property
    def full(self) -> bool:
        """Whether `settle` is due."""
        return len(self._waiting) >= SEND_WINDOW

    async def send(self, place: RecordId, replay: Replay) -> None:
        """Send one dead letter; the key decides the partition."""
        try:
            sent = await self._producer.send(
                replay.topic, value=replay.value, key=replay.key, headers=list(replay.headers)
            )
        except KafkaError as error:
            sent = asyncio.get_running_loop().create_future()
            sent.set_exception(error)
        self._waiting.append((place, replay, sent))

    async def settle(self) -> list[tuple[RecordId, Replay, KafkaError | None]]:
        """Wait for every acknowledgement. Returns the outcome of each dead letter since the last call, in order."""
        waiting, self._waiting = self._waiting, []
        outcomes = await asyncio.gather(*(sent for _, _, sent in waiting), return_exceptions=True)
        settled: list[tuple[RecordId, Replay, KafkaError | None]] = []
        for (place, replay, _), outcome in zip(waiting, outcomes, strict=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, KafkaError):
                raise outcome
            error = outcome if isinstance(outcome, KafkaError) else None
            if error is not None and not isinstance(error, MessageSizeTooLargeError):
                self.error = error
            settled.append((place, replay, error))
        return settled


@asynccontextmanager
async def replaying(settings: Settings) -> AsyncIterator[DlqReplayer]:
    """A producer for the block. What is not settled when the block ends is abandoned."""
    # Not idempotent: brokers without transactions (the embedded one) refuse it.
    producer = AIOKafkaProducer(
        **client_options(settings), acks="all", linger_ms=2, max_request_size=LARGE_RECORD_BYTES + HEADER_ROOM_BYTES
    )
    await start(producer)
    try:
        yield DlqReplayer(producer)
    finally:
        await producer.stop()
