"""Where a feed begins on the embedded broker, which reports a log's end as one past the first record of its last batch."""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka import AIOKafkaProducer

from schemas.topics import full_name
from streams.broker.embedded import EmbeddedBroker
from streams.broker.kafka import client_options
from streams.broker.topic_feed import TopicFeed, read_all
from streams.broker.topics_admin import apply
from streams.settings import Settings

NAMES = [b"%d" % number for number in range(5)]


async def write_batch(settings: Settings, values: list[bytes]) -> None:
    """Records of `results`, in one batch."""
    async with AIOKafkaProducer(**client_options(settings)) as producer:
        batch = producer.create_batch()
        for value in values:
            batch.append(timestamp=None, key=None, value=value)
        await (await producer.send_batch(batch, full_name("results", settings.topic_prefix), partition=0))


async def test_a_feed_that_begins_at_the_end_brings_nothing_of_the_last_batch(
    embedded: EmbeddedBroker, settings_for: Any
) -> None:
    settings = settings_for(embedded)
    await apply(settings, partitions=2)
    await write_batch(settings, NAMES)
    async with asyncio.timeout(30), TopicFeed(settings, "results") as feed:
        await write_batch(settings, [b"new"])
        async for record in feed.follow():
            assert record.value == b"new"
            break
    assert [record.value async for record in read_all(settings, "results")] == [*NAMES, b"new"]
