"""Topics read on real Kafka: transaction markers, aborted records and absent brokers neither hang a reader nor reach it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from schemas.topics import full_name
from streams.broker.client import send_keyed
from streams.broker.kafka import client_options
from streams.broker.topic_feed import CHECK_INTERVAL_S, TopicFeed, read_all
from streams.broker.topics_admin import apply
from tests.support.kafka import KafkaCluster
from tests.support.rig import Process, apply_topics, parallax, produce


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
        async with TopicFeed(settings, "results") as reader:
            await send_keyed(settings, "results", [(b"k", b"new")])
            async for record in reader.follow():
                assert record.value == b"new"
                break


@pytest.mark.kafka
@pytest.mark.timeout(180)
def test_tail_goes_on_when_the_broker_is_back(prefix: str) -> None:
    """Each record once: the broker is away for a moment, then for longer than a consumer is given to go on."""
    with KafkaCluster(brokers=1) as cluster:
        servers, topic = cluster.bootstrap_servers, f"{prefix}events"
        apply_topics(servers, prefix)
        produce(servers, topic, [(b"k", b'{"n":0}')])
        where = ("--bootstrap-servers", servers, "--topic-prefix", prefix)
        tail = Process(parallax("tail", "events", "--from-beginning", *where))
        try:
            assert tail.line() == '{"n":0}'
            for number, away_s in ((1, 0.0), (3, 2 * CHECK_INTERVAL_S)):
                cluster.kill(0)
                time.sleep(away_s)
                cluster.restart(0)
                produce(servers, topic, [(b"k", b'{"n":%d}' % n) for n in (number, number + 1)])
                assert [tail.line(), tail.line()] == [f'{{"n":{number}}}', f'{{"n":{number + 1}}}']
            assert tail.popen.poll() is None
        finally:
            tail.stop()
