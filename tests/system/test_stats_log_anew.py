"""`data-points` made anew, or trimmed: every point that is there is counted, once, and what is lost is reported, once."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from streams.settings import Settings
from streams.statistics.role import StatsSupervisor
from tests.conftest import SettingsFor
from tests.support.kafka import KafkaCluster
from tests.support.points import compare, fleet, produce, read_all
from tests.support.rig import apply_topics
from tests.support.wait import until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
PARTITIONS = 2


def made_anew(bootstrap: str, topic: str) -> None:
    """The topic of that name without a record in it."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    partitions = len(admin.list_topics(topic, timeout=30).topics[topic].partitions)
    for future in admin.delete_topics([topic]).values():
        future.result(30)
    deadline = time.monotonic() + 30
    while True:
        (future,) = admin.create_topics([NewTopic(topic, partitions, 1)]).values()
        try:
            future.result(30)
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


async def started(settings: Settings) -> StatsSupervisor:
    """Statistics that are ready."""
    keeper = StatsSupervisor(settings, idempotent=True)
    await keeper.start()
    async with asyncio.timeout(90):
        await keeper.wait_ready()
    return keeper


async def differences(bootstrap: str, prefix: str, points: list[dict[str, Any]]) -> list[str]:
    """Of what was published from a recount."""
    return compare([orjson.loads(record.value) for record in await read_all(bootstrap, f"{prefix}aggregates")], points)


@pytest.mark.parametrize(
    ("running", "count"),
    [(True, 200), (False, 200), (False, 1500)],
    ids=["shorter, while they run", "shorter, while they are stopped", "longer, while they are stopped"],
)
async def test_points_of_a_topic_made_anew_are_counted(
    kafka: KafkaCluster, prefix: str, settings_for: SettingsFor, running: bool, count: int
) -> None:
    """The new log is shorter than what was counted, or longer; a restart after that counts nothing again."""
    broker, topic = kafka.bootstrap_servers, f"{prefix}data-points"
    settings = settings_for(kafka, session_timeout=6000, instance_id="w1")
    await asyncio.to_thread(apply_topics, broker, prefix)
    old = fleet(5, 600, 4, int(time.time() * 1000) - 60_000, step_ms=10)
    new = fleet(6, count, 4, int(time.time() * 1000) - 50_000, step_ms=10)
    keeper = await started(settings)
    await produce(broker, topic, old)
    await until(lambda: _counted(keeper, 600), 60)
    if not running:
        await keeper.stop()
        await asyncio.to_thread(made_anew, broker, topic)
        await produce(broker, topic, new)
        keeper = await started(settings)
    else:
        await asyncio.to_thread(made_anew, broker, topic)
        await produce(broker, topic, new)

    async def exact(points: list[dict[str, Any]]) -> bool:
        return await differences(broker, prefix, points) == []

    await until(lambda: exact(old + new), 90)
    await keeper.stop()
    keeper = await started(settings)
    last = fleet(7, 50, 4, int(time.time() * 1000) - 40_000, step_ms=10)
    await produce(broker, topic, last)
    await until(lambda: exact(old + new + last), 60)
    await keeper.stop()


def _counted(keeper: StatsSupervisor, count: int) -> bool:
    counters = keeper.counters()
    return counters is not None and counters["points"] >= count


async def test_points_that_retention_removed_are_reported_once(
    kafka: KafkaCluster, prefix: str, settings_for: SettingsFor
) -> None:
    """Nothing comes after them for a while, so no later point moves the commit offset beyond them."""
    broker, topic = kafka.bootstrap_servers, f"{prefix}data-points"
    settings = settings_for(kafka, session_timeout=6000, instance_id="w1")
    await asyncio.to_thread(apply_topics, broker, prefix)
    points = fleet(5, 300, 4, int(time.time() * 1000) - 60_000, step_ms=10)
    keeper = await started(settings)
    await produce(broker, topic, points[:200])
    await until(lambda: _counted(keeper, 200), 60)
    await keeper.stop()
    await produce(broker, topic, points[200:250])
    admin = AdminClient({"bootstrap.servers": broker})
    everything = [
        TopicPartition(topic, number, -1) for number in range(len(admin.list_topics(topic).topics[topic].partitions))
    ]
    for future in admin.delete_records(everything).values():
        future.result(30)
    for expired in (50, 0):
        keeper = await started(settings)
        try:
            await until(keeper.partition_statuses, 30)
            assert (keeper.counters() or {})["expired"] == expired
        finally:
            await keeper.stop()
    keeper = await started(settings)
    await produce(broker, topic, points[250:])
    await until(lambda: _counted(keeper, 50), 60)
    await keeper.stop()
