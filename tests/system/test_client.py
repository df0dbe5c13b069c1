"""The small client on real Kafka: transaction markers and aborted records neither hang a reader nor reach it."""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka import AIOKafkaProducer

from schemas.topics import full_name
from streams.broker.client import read_all, reading, send_keyed
from streams.broker.kafka import client_options
from streams.broker.topics_admin import apply


async def test_readers_see_committed_records_and_find_the_end(kafka: Any, settings_for: Any, prefix: str) -> None:
    """A topic that ends in markers is read to its end; a reader at the end sees only what comes after."""
    settings = settings_for(kafka)
    await apply(settings, partitions=2)
    topic = full_name("results", settings.topic_prefix)
    producer = AIOKafkaProducer(**client_options(settings), transactional_id=f"{prefix}tx")
    await producer.start()
    try:
        for number in range(4):
            await producer.begin_transaction()
            for copy in range(3):
                await producer.send_and_wait(topic, b"%d.%d" % (number, copy), key=b"%d" % number)
            await (producer.abort_transaction() if number % 2 else producer.commit_transaction())
    finally:
        await producer.stop()
    async with asyncio.timeout(30):
        values = sorted([record.value async for record in read_all(settings, "results")])
        assert values == [b"0.0", b"0.1", b"0.2", b"2.0", b"2.1", b"2.2"]
        async with reading(settings, "results", from_beginning=False) as reader:
            await send_keyed(settings, "results", [(b"k", b"new")])
            async for record in reader.follow():
                assert record.value == b"new"
                break
