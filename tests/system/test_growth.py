"""Partitions are added while workers run: cancels and registrations on new partitions arrive; one topic alone stops nothing."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter

import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewPartitions

from streams.engine import follower as module
from streams.engine.follower import Follower
from tests.support.kafka import KafkaCluster
from tests.support.rig import Tap, apply_topics, instant_agent, partition_count, register, start_worker
from tests.support.wait import until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(200)]


def grow(bootstrap: str, topic: str, partitions: int) -> None:
    """Raises if the broker refuses."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_partitions([NewPartitions(topic, partitions)]).values():
        future.result(30)


def write(bootstrap: str, topic: str, partition: int, *rows: tuple[bytes, bytes]) -> None:
    """Key and value of records, once the partition is known."""
    for _ in range(100):
        failed: list[str] = []
        producer = Producer({"bootstrap.servers": bootstrap})
        try:
            for key, value in rows:
                producer.produce(
                    topic, key=key, value=value, partition=partition,
                    on_delivery=lambda error, _, failed=failed: error and failed.append(str(error)),
                )  # fmt: skip
        except KafkaException as error:
            failed.append(str(error))
        assert producer.flush(30) == 0
        if not failed:
            return
        assert all("partition" in error.lower() for error in failed), failed
        time.sleep(0.2)
    raise AssertionError("the partition stays unknown")


@pytest.mark.parametrize("from_end", [False, True])
async def test_a_follower_reads_partitions_that_are_added(
    kafka: KafkaCluster, prefix: str, monkeypatch: pytest.MonkeyPatch, from_end: bool
) -> None:
    """From their beginning, also if it began with the end of the others; nothing is applied twice."""
    monkeypatch.setattr(module, "METADATA_MAX_AGE_MS", 300)
    broker, topic = kafka.bootstrap_servers, f"{prefix}controls"
    await asyncio.to_thread(apply_topics, broker, prefix)
    count = partition_count(broker, topic)
    await asyncio.to_thread(write, broker, topic, 0, (b"old", b"{}"))
    applied: list[bytes] = []
    follower = Follower(
        {"bootstrap_servers": broker}, topic, lambda record: applied.append(record.key), from_end=from_end
    )
    await follower.start()
    try:
        await asyncio.to_thread(grow, broker, topic, count + 2)
        await asyncio.to_thread(write, broker, topic, count + 1, (b"new", b"{}"))
        await asyncio.to_thread(write, broker, topic, 0, (b"other", b"{}"))
        try:
            await until(lambda: {b"new", b"other"} <= set(applied), 60)
        except TimeoutError:
            raise AssertionError(f"applied {applied}, positions {follower._positions}") from None
        await follower.catch_up()
        expected = [b"new", b"other"] if from_end else [b"new", b"old", b"other"]
        assert sorted(applied) == expected
    finally:
        await follower.stop()


def test_growing_one_topic_alone_stops_no_worker(kafka: KafkaCluster, prefix: str) -> None:
    """What is on the partitions that all topics have is answered, by two workers; the rest once all have as many."""
    broker = kafka.bootstrap_servers
    apply_topics(broker, prefix)
    count = partition_count(broker, f"{prefix}tasks")
    options = ("--roles", "dispatch", "--session-timeout", "6s")
    workers = [start_worker(broker, prefix, *options) for _ in range(2)]
    tap = Tap(broker, f"{prefix}results")
    try:
        with instant_agent() as (_, endpoint):
            limits = {"maxRequests": 100_000, "windowMs": 60_000, "maxConcurrency": 20}
            register(broker, prefix, *({"id": f"a{n}", "endpoint": endpoint, "limits": limits} for n in range(8)))
            grow(broker, f"{prefix}tasks", 2 * count)
            sent = _send(broker, prefix, "a", 2 * count)
            there = {task for task, partition in sent.items() if partition < count}
            found = _read(tap, len(there), 90)
            assert set(found) == there
            assert all(worker.popen.poll() is None for worker in workers)
            for topic in ("dispatch", "parked", "state"):
                grow(broker, f"{prefix}{topic}", 2 * count)
            found += _read(tap, len(sent) - len(there), 90)
            assert found == Counter(sent.keys())
    finally:
        tap.close()
        codes = [worker.stop() for worker in workers]
    assert codes == [0, 0]


def _send(broker: str, prefix: str, kind: str, partitions: int) -> dict[str, int]:
    """Ten tasks on each partition; their ids with it."""
    sent: dict[str, int] = {}
    for partition in range(partitions):
        rows = []
        for n in range(10):
            task = f"{kind}{partition}-{n}"
            sent[task] = partition
            value = json.dumps({"id": task, "type": "agent", "target": f"a{n % 8}", "payload": 0})
            rows.append((task.encode(), value.encode()))
        write(broker, f"{prefix}tasks", partition, *rows)
    return sent


def _read(tap: Tap, count: int, timeout_s: float) -> Counter[str]:
    return Counter(json.loads(m.value())["taskId"] for m in tap.until(count, timeout_s, quiet_s=2))
