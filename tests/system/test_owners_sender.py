"""Rows of statistics leave only while the partitions are the worker's, on real Kafka: the last question comes after the wait."""

from __future__ import annotations

import asyncio
import time

import pytest
from aiokafka import AIOKafkaProducer

from streams.statistics.owners_sender import NotOwner, guard
from tests.support.kafka import KafkaCluster
from tests.support.points import read_all
from tests.support.rig import apply_topics

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]


class Membership:
    """What the group says. `holds`: whether its last answer still counts; `owner`: what it answers next."""

    def __init__(self) -> None:
        self.holds = self.owner = True
        self.lost_at = 0.0
        self.asked = 0

    async def confirm(self) -> bool:
        """Ask."""
        self.asked += 1
        self.holds = self.owner
        return self.owner


@pytest.mark.parametrize("idempotent", [True, False])
async def test_a_row_of_a_worker_that_stood_still_does_not_leave(
    kafka: KafkaCluster, prefix: str, idempotent: bool
) -> None:
    """It was queued while the partitions were its own. Other topics are not held back, and later rows follow without a gap."""
    await asyncio.to_thread(apply_topics, kafka.bootstrap_servers, prefix)
    rows, other, group = f"{prefix}calibrations", f"{prefix}aggregates", Membership()
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap_servers, enable_idempotence=idempotent, acks="all", linger_ms=20
    )
    guard(producer, rows, lambda since: group.holds and since > group.lost_at, group.confirm)
    async with producer:
        await producer.send_and_wait(rows, b"1", key=b"k", partition=0)
        assert group.asked == 0
        queued = [await producer.send(topic, b"2", key=b"k", partition=0) for topic in (rows, other)]
        group.holds = group.owner = False  # it was stopped after that, for longer than a session
        with pytest.raises(NotOwner):
            await queued[0]
        await queued[1]
        group.owner = True  # the partition came back
        queued = [await producer.send(rows, b"x", key=b"k", partition=0)]
        group.lost_at = time.monotonic()  # another worker had it meanwhile
        with pytest.raises(NotOwner):
            await queued[0]
        for value in (b"3", b"4"):
            group.holds = False
            await producer.send_and_wait(rows, value, key=b"k", partition=0)
    assert [record.value for record in await read_all(kafka.bootstrap_servers, rows)] == [b"1", b"3", b"4"]
    assert [record.value for record in await read_all(kafka.bootstrap_servers, other)] == [b"2"]
