"""What a partition remembers is read whole, also behind a transaction that another application holds open on the same
partition."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import AIOKafkaProducer

from streams.engine.state_reader import StateReader
from tests.support.kafka import KafkaCluster
from tests.support.rig import apply_topics

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]


@pytest.mark.parametrize("end", ["committed", "aborted"])
async def test_a_foreign_open_transaction_is_waited_for(kafka: KafkaCluster, prefix: str, end: str) -> None:
    """Not forgotten: neither what was committed behind it nor, if it is committed, what it wrote."""
    options, topic = {"bootstrap_servers": kafka.bootstrap_servers}, f"{prefix}state"
    await asyncio.to_thread(apply_topics, kafka.bootstrap_servers, prefix)
    foreign = AIOKafkaProducer(**options, transactional_id=f"{prefix}foreign")
    ours = AIOKafkaProducer(**options, transactional_id=f"{prefix}ours")
    for producer in (foreign, ours):
        await producer.start()
    try:
        async with ours.transaction():
            await ours.send_and_wait(topic, b"before", b"1", partition=0)
        await foreign.begin_transaction()
        await foreign.send_and_wait(topic, b"foreign", b"2", partition=0)
        async with ours.transaction():
            await ours.send_and_wait(topic, b"behind", b"3", partition=0)
        reading = asyncio.create_task(StateReader(options, topic).read(0))
        done, _ = await asyncio.wait([reading], timeout=3)
        assert not done, f"read {reading.result()} before the other transaction ended"
        await (foreign.commit_transaction() if end == "committed" else foreign.abort_transaction())
        assert await reading == ([b"before", b"foreign", b"behind"] if end == "committed" else [b"before", b"behind"])
        assert await StateReader(options, topic).read(1) == []
    finally:
        for producer in (foreign, ours):
            await producer.stop()
