"""A small asynchronous Kafka client for commands, demos and tests: send messages, read a topic, wait for results.

In: settings, short topic names (`results`), JSON values. Out: acknowledged records, records read under read_committed.
It never joins a consumer group, never creates a topic, never reads past the end it saw when asked to stop there, and
never waits without a bound unless it is asked to follow.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from schemas.access import Grant
from schemas.messages import Plan, Task
from schemas.topics import LARGE_RECORD_BYTES, full_name
from streams.broker.access import require
from streams.broker.kafka import client_options, committed_reader, start
from streams.lenient_decoding import poll_from
from streams.schema_registry import SchemaUnavailable, learn_schemas
from streams.settings import Settings

POLL_MS = 300
STALL_S = 20.0
"""How long a bounded read waits for the next record before it gives up."""
SEND_WINDOW = 1000
"""Records sent before the first of them must be acknowledged."""


class TopicMissing(Exception):
    """A topic the command needs is not on the broker."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"topic {topic} does not exist; create the topics with: parallax topics apply")
        self.topic = topic


class ReadStalled(Exception):
    """The broker stopped answering before the end of the topic was reached."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record on the broker; `timestamp_ms` is the broker's epoch milliseconds."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    @classmethod
    def of(cls, message: Any) -> Record:
        """A record from aiokafka's."""
        headers = tuple((key, value) for key, value in message.headers or ())
        return cls(
            message.topic, message.partition, message.offset, message.timestamp, message.key, message.value, headers
        )


async def catalog(settings: Settings) -> dict[str, list[int]]:
    """Full topic name to its partition numbers. Creates nothing."""
    admin = AIOKafkaAdminClient(**client_options(settings))
    await start(admin)
    try:
        described = await admin.describe_topics()
    finally:
        await admin.close()
    return {row["topic"]: sorted(p["partition"] for p in row["partitions"]) for row in described}


async def require_topics(settings: Settings, *names: str) -> dict[str, list[int]]:
    """Short name to partitions of topics that must exist. Raises `TopicMissing`, `AccessDenied`."""
    existing = await catalog(settings)
    found = {}
    for name in names:
        full = full_name(name, settings.topic_prefix)
        if not existing.get(full):
            await require(settings, [Grant("topic", full, "Describe")])  # brokers hide what may not be seen
            raise TopicMissing(full)
        found[name] = existing[full]
    return found


class RecordCursor:
    """All partitions of one topic, read in offset order within each. Made by `reading`."""

    def __init__(self, consumer: Any, starts: dict[Any, int], ends: dict[Any, int]) -> None:
        self._consumer = consumer
        self._starts = starts
        self._ends = ends
        self._next = dict(starts)
        self.schema_problem: str | None = None
        """Why records with schemas of the registry are not decoded, in one line; None while they are."""

    async def to_end(self) -> AsyncIterator[Record]:
        """Every record up to the end as it was when the reader was opened, or a few more. Raises `ReadStalled`."""
        left = {tp: end for tp, end in self._ends.items() if self._starts[tp] < end}
        clock = asyncio.get_running_loop().time
        moved = clock()
        while left:
            batches = await self._poll()
            if batches:
                moved = clock()
            for messages in batches.values():
                for message in messages:
                    yield Record.of(message)
            for tp in list(left):
                if await self._consumer.position(tp) >= left[tp]:
                    del left[tp]
            if left and clock() - moved > STALL_S:
                raise ReadStalled(f"no record for {STALL_S:.0f} s before the end of {next(iter(left)).topic}")

    async def polls(self) -> AsyncIterator[list[Record]]:
        """The records of each poll, often none, for as long as the caller asks."""
        while True:
            batches = await self._poll()
            yield [Record.of(message) for messages in batches.values() for message in messages]

    async def _poll(self) -> dict[Any, list[Any]]:
        batches = await poll_from(self._consumer, self._next, POLL_MS)
        for records in batches.values():
            await self._learn(records)
        self._next |= {tp: messages[-1].offset + 1 for tp, messages in batches.items()}
        return batches

    async def _learn(self, records: list[Any]) -> None:
        """Fetch the schemas that are needed. While the registry is away, records are returned undecoded."""
        if self.schema_problem is not None:
            return  # each try may take seconds
        try:
            await learn_schemas(records)
        except SchemaUnavailable as error:
            self.schema_problem = str(error)

    async def follow(self) -> AsyncIterator[Record]:
        """Every record from where the reader was opened, for as long as the caller asks."""
        async for records in self.polls():
            for record in records:
                yield record


@asynccontextmanager
async def reading(settings: Settings, name: str, *, from_beginning: bool) -> AsyncIterator[RecordCursor]:
    """A reader of one topic, positioned when the block is entered. Raises `TopicMissing`."""
    partitions = (await require_topics(settings, name))[name]
    full = full_name(name, settings.topic_prefix)
    consumer = committed_reader(client_options(settings), max_partition_fetch_bytes=LARGE_RECORD_BYTES)
    await start(consumer)
    try:
        tps = [TopicPartition(full, partition) for partition in partitions]
        consumer.assign(tps)
        ends = await consumer.end_offsets(tps)
        starts = await consumer.beginning_offsets(tps)
        if from_beginning:
            for tp in tps:
                consumer.seek(tp, starts[tp])
        else:
            await _stand_at_end(consumer, starts, ends)
        yield RecordCursor(consumer, {tp: await consumer.position(tp) for tp in tps}, ends)
    finally:
        await consumer.stop()


async def _stand_at_end(consumer: Any, starts: dict[Any, int], ends: dict[Any, int]) -> None:
    """Seek to the end of each partition.

    The embedded broker reports an end one past the *first* record of the last batch, so that batch is read and skipped.
    """
    left = {tp for tp, end in ends.items() if starts[tp] < end}
    for tp, end in ends.items():
        consumer.seek(tp, end - 1 if tp in left else end)
    with contextlib.suppress(TimeoutError, UnicodeDecodeError):  # then the broker's own answer is used
        async with asyncio.timeout(STALL_S):
            while left:
                await consumer.getmany(*left, timeout_ms=POLL_MS)
                left = {tp for tp in left if await consumer.position(tp) < ends[tp]}
    for tp in left:
        consumer.seek(tp, ends[tp])


async def read_all(settings: Settings, name: str) -> AsyncIterator[Record]:
    """All records of a topic up to its present end. Raises `TopicMissing`, `ReadStalled`."""
    async with reading(settings, name, from_beginning=True) as reader:
        async for record in reader.to_end():
            yield record


class Sender:
    """Sends keyed values and keeps the number of unacknowledged ones bounded. Made by `sending`."""

    def __init__(self, producer: Any, prefix: str) -> None:
        self._producer = producer
        self._prefix = prefix
        self._unacknowledged: list[Any] = []
        self.sent = 0

    async def send(self, name: str, key: bytes | None, value: bytes | None, partition: int | None = None) -> None:
        """Send one record; `flush` waits for its acknowledgement. `partition`: None lets the key decide."""
        topic = full_name(name, self._prefix)
        self._unacknowledged.append(await self._producer.send(topic, value=value, key=key, partition=partition))
        self.sent += 1
        if len(self._unacknowledged) >= SEND_WINDOW:
            await self.flush()

    async def flush(self) -> None:
        """Wait until the broker has acknowledged everything; raises the first failure."""
        waiting, self._unacknowledged = self._unacknowledged, []
        if waiting:
            await asyncio.gather(*waiting)


@asynccontextmanager
async def sending(settings: Settings) -> AsyncIterator[Sender]:
    """A producer for the block; what was sent is acknowledged when the block ends without an exception."""
    # Not idempotent: brokers without transactions (the embedded one) refuse it. A send that is retried may arrive twice.
    producer = AIOKafkaProducer(
        **client_options(settings), acks="all", linger_ms=2, max_request_size=LARGE_RECORD_BYTES
    )
    await start(producer)
    try:
        sender = Sender(producer, settings.topic_prefix)
        yield sender
        await sender.flush()
    finally:
        await producer.stop()


def task_key(task: Task) -> bytes:
    """The key that puts a task into its agent's owner partition, else its ordering key or its own id."""
    if task.type == "agent" and task.target:
        return task.target.encode()
    return (task.metadata.ordering_key or task.id).encode()


def plan_key(plan: Plan) -> bytes:
    """Plans are keyed by their id."""
    return plan.id.encode()


async def send_keyed(settings: Settings, name: str, records: Iterable[tuple[bytes | None, bytes | None]]) -> int:
    """Send (key, value) pairs to a topic, wait for every acknowledgement, and return their number."""
    await require_topics(settings, name)
    async with sending(settings) as sender:
        for key, value in records:
            await sender.send(name, key, value)
    return sender.sent
