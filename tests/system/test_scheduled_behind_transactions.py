"""What waits on a partition of `scheduled` is read to its true end, also behind a transaction that another worker holds open."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from streams.engine.state_reader import StateReader
from streams.rules.dispatch.backlog import id_hash
from streams.schedules.reader import ScheduleReader
from tests.support.kafka import KafkaCluster
from tests.support.rig import apply_topics

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]


async def write(producer: AIOKafkaProducer, topic: str, task_id: str, value: bytes | None = b"{}") -> None:
    """A task that waits, or its tombstone."""
    headers = [("parallax-task", task_id.encode()), ("parallax-not-before", b"5000")]
    await producer.send_and_wait(topic, value, key=task_id.encode(), headers=headers, partition=0)


@pytest.mark.parametrize("end", ["committed", "aborted"])
async def test_a_tombstone_behind_an_open_transaction_counts(kafka: KafkaCluster, prefix: str, end: str) -> None:
    """The task that it takes back was released: released again, it would be called a second time."""
    options: dict[str, Any] = {"bootstrap_servers": kafka.bootstrap_servers}
    topic = f"{prefix}scheduled"
    await asyncio.to_thread(apply_topics, kafka.bootstrap_servers, prefix)
    foreign = AIOKafkaProducer(**options, transactional_id=f"{prefix}foreign")
    ours = AIOKafkaProducer(**options, transactional_id=f"{prefix}ours")
    for producer in (foreign, ours):
        await producer.start()
    try:
        async with ours.transaction():
            await write(ours, topic, "released")
            await write(ours, topic, "waits")
        await foreign.begin_transaction()
        await write(foreign, topic, "foreign")
        async with ours.transaction():
            await write(ours, topic, "released", None)
        reader = ScheduleReader(options, prefix, StateReader(options, f"{prefix}schedule-state"))
        reading = asyncio.create_task(reader.read(0))
        done, _ = await asyncio.wait([reading], timeout=3)
        assert not done, "read before the other transaction ended"
        await (foreign.commit_transaction() if end == "committed" else foreign.abort_transaction())
        assert await reading == []
        tasks = reader.take(0).tasks
        found = {name for name in ("released", "waits", "foreign") if tasks.offset_of(id_hash(name)) is not None}
        assert found == ({"waits", "foreign"} if end == "committed" else {"waits"})
        assert await reader.read(1) == []
        assert len(reader.take(1).tasks) == 0
    finally:
        for producer in (foreign, ours):
            await producer.stop()
