"""Offsets that a transaction is about to commit are waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from confluent_kafka import Consumer, Producer
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import AdminClient, NewTopic

from streams.engine import group_offsets
from streams.engine.group_offsets import OffsetsPending, committed_offsets
from tests.support.kafka import KafkaCluster

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]


@pytest.fixture
async def consumer(kafka: KafkaCluster, prefix: str) -> AsyncIterator[AIOKafkaConsumer]:
    """Of a group that is named as its topic."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    for made in admin.create_topics([NewTopic(f"{prefix}t", 2, 1)]).values():
        made.result()
    one = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap_servers, group_id=f"{prefix}g", enable_auto_commit=False)
    await one.start()
    yield one
    await one.stop()


async def test_a_transaction_that_is_not_over_is_waited_for(
    kafka: KafkaCluster, prefix: str, consumer: AIOKafkaConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiokafka's own request gives the old offset meanwhile. A partition without a commit is left out."""
    place, tps = f"{prefix}t", [TopicPartition(f"{prefix}t", 0), TopicPartition(f"{prefix}t", 1)]
    connect = {"bootstrap.servers": kafka.bootstrap_servers}
    member = Consumer(connect | {"group.id": f"{prefix}g"})
    producer = Producer(connect | {"transactional.id": f"{prefix}x"})
    try:
        producer.init_transactions(30)
        for offset in (5, 9):
            producer.begin_transaction()
            producer.send_offsets_to_transaction([Place(place, 0, offset)], member.consumer_group_metadata(), 30)
            if offset == 5:
                producer.commit_transaction(30)
        old, new = {tps[0]: OffsetAndMetadata(5, "")}, {tps[0]: OffsetAndMetadata(9, "")}
        assert await consumer._coordinator.fetch_committed_offsets(tps) == old
        with monkeypatch.context() as patched:
            patched.setattr(group_offsets, "WAIT_S", 0.5)
            with pytest.raises(OffsetsPending, match=f"{prefix}g"):
                await committed_offsets(consumer, tps)
        asking = asyncio.create_task(committed_offsets(consumer, tps))
        await asyncio.sleep(0.5)
        assert not asking.done()
        await asyncio.to_thread(producer.commit_transaction, 30)
        assert await asyncio.wait_for(asking, 30) == new
    finally:
        member.close()
