"""A small asynchronous Kafka client for commands, demos and tests: which topics there are, and sending to them.

In: settings, short topic names (`results`), keys and values. Out: partition numbers, acknowledged records. It never
creates a topic. `topic_feed` reads them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from schemas.access import Grant
from schemas.messages import Plan, Task
from schemas.topics import LARGE_RECORD_BYTES, full_name
from streams.broker.access import require
from streams.broker.kafka import client_options, start
from streams.settings import Settings

SEND_WINDOW = 1000
"""Records sent before the first of them must be acknowledged."""


class TopicMissing(Exception):
    """A topic the command needs is not on the broker."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"topic {topic} does not exist; create the topics with: parallax topics apply")
        self.topic = topic


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
            raise await topic_missing(settings, full)
        found[name] = existing[full]
    return found


async def topic_missing(settings: Settings, topic: str) -> TopicMissing:
    """The error for a topic that the brokers do not show. Raises `AccessDenied` if this user may not see it."""
    await require(settings, [Grant("topic", topic, "Describe")])
    return TopicMissing(topic)


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
