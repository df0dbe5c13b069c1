"""Real Apache Kafka: the rig itself, the administration of topics, the transaction probe, and the loss of a broker."""

from __future__ import annotations

import asyncio
import os
import time

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from schemas.topics import full_name
from streams.broker import topics_admin
from streams.broker.kafka import client_options, reach, supports_transactions
from streams.broker.topics_admin import MissingTopics, TopicsError
from streams.rules.broker.topic_plan import TopicChange
from streams.settings import Settings
from tests.conftest import SettingsFor
from tests.support.kafka import JARS_ENV, KafkaCluster, KafkaRigError, jars
from tests.support.rig_error import RigError

pytestmark = pytest.mark.kafka


async def create(settings: Settings, name: str, partitions: int) -> None:
    """A topic as a user would have made it, without settings; returns when the broker shows it."""
    admin = AIOKafkaAdminClient(**client_options(settings))
    await admin.start()
    full = full_name(name, settings.topic_prefix)
    try:
        await admin.create_topics([NewTopic(full, partitions, 1)])
        for _ in range(1000):
            if full in await admin.list_topics():
                return
            await asyncio.sleep(0.02)
        pytest.fail(f"{full} did not appear")
    finally:
        await admin.close()


async def send_in_transaction(settings: Settings, values: list[bytes]) -> None:
    """One committed transaction of records to `results`."""
    producer = AIOKafkaProducer(transactional_id=f"{settings.app_id}-test", **client_options(settings))
    await producer.start()
    try:
        async with producer.transaction():
            for value in values:
                await producer.send(full_name("results", settings.topic_prefix), value, partition=0)
    finally:
        await producer.stop()


async def read_committed(settings: Settings, count: int) -> list[bytes]:
    """The first `count` committed values of partition 0 of `results`."""
    consumer = AIOKafkaConsumer(isolation_level="read_committed", **client_options(settings))
    await consumer.start()
    try:
        place = TopicPartition(full_name("results", settings.topic_prefix), 0)
        consumer.assign([place])
        await consumer.seek_to_beginning(place)
        async with asyncio.timeout(60):
            return [(await consumer.getone()).value for _ in range(count)]
    finally:
        await consumer.stop()


async def test_topics_apply_twice_changes_nothing_the_second_time(
    kafka: KafkaCluster, settings_for: SettingsFor
) -> None:
    """Created with exactly the table's settings, visible at once, then left alone."""
    settings = settings_for(kafka)
    first = await topics_admin.apply(settings)
    states = await topics_admin.describe(settings)
    second = await topics_admin.apply(settings)
    assert {change.action for change in first} == {"created"}
    assert all(not state.missing and not state.differences and state.replication == 1 for state in states)
    assert {change.action for change in second} == {"unchanged"}
    assert await topics_admin.check(settings) == 8


async def test_two_at_once_agree(kafka: KafkaCluster, settings_for: SettingsFor) -> None:
    """Workers of one deployment may all run it; none fails because another was quicker."""
    settings = settings_for(kafka)
    await asyncio.gather(*(topics_admin.apply(settings, partitions=3) for _ in range(3)))
    assert await topics_admin.check(settings) == 3


async def test_growth_and_mismatch(kafka: KafkaCluster, settings_for: SettingsFor) -> None:
    """A mismatch of the intake is reported by `check` and mended by `apply`; a larger number grows all, a smaller none."""
    settings = settings_for(kafka)
    await create(settings, "tasks", 2)
    await create(settings, "parked", 3)
    await topics_admin.apply(settings)
    assert await topics_admin.check(settings) == 3
    grown = {change.name: change for change in await topics_admin.apply(settings, partitions=4)}
    assert grown[full_name("tasks", settings.topic_prefix)].was == 3
    assert grown[full_name("results", settings.topic_prefix)].action == "grown"
    assert grown[full_name("agents", settings.topic_prefix)].partitions == 1
    assert await topics_admin.check(settings) == 4
    assert {change.action for change in await topics_admin.apply(settings, partitions=2)} == {"unchanged"}


async def test_check_names_what_is_wrong(kafka: KafkaCluster, settings_for: SettingsFor) -> None:
    """Missing topics by name; counts that no growth leads to with the counts. Half-way through one, the least counts."""
    settings = settings_for(kafka)
    for name, count in (("tasks", 2), ("dispatch", 3), ("parked", 4)):
        await create(settings, name, count)
    with pytest.raises(MissingTopics, match=r"results.*parallax topics apply"):
        await topics_admin.check(settings)
    for state in await topics_admin.describe(settings):
        if state.missing:
            await create(settings, state.name.replace(settings.topic_prefix, ""), 2)
    with pytest.raises(MissingTopics, match=r"tasks has 2, .*dispatch has 3, .*parked has 4"):
        await topics_admin.check(settings)
    grown = settings_for(kafka, topic_prefix=f"{settings.topic_prefix}half.")
    await topics_admin.apply(grown, partitions=2)
    async with topics_admin.admin_client(grown) as admin:
        name = full_name("dispatch", grown.topic_prefix)
        await topics_admin.add_partitions(admin, [TopicChange(name, "grown", 4, 2)])
    assert await topics_admin.check(grown) == 2


async def test_differences_from_the_table_are_shown_and_left(kafka: KafkaCluster, settings_for: SettingsFor) -> None:
    """An operator's settings are reported, never overwritten."""
    settings = settings_for(kafka)
    await create(settings, "agents", 1)
    await topics_admin.apply(settings)
    states = {state.name: state for state in await topics_admin.describe(settings)}
    assert states[full_name("agents", settings.topic_prefix)].differences["cleanup.policy"] == ("compact", "delete")


async def test_an_impossible_replication_factor_is_refused_in_one_line(
    kafka: KafkaCluster, settings_for: SettingsFor
) -> None:
    """One broker cannot hold three copies."""
    with pytest.raises(TopicsError, match=r"cannot create .*tasks: .*replication") as caught:
        await topics_admin.apply(settings_for(kafka), replication_factor=3)
    assert "\n" not in str(caught.value)


async def test_transactions_are_found(
    kafka: KafkaCluster, settings_for: SettingsFor, caplog: pytest.LogCaptureFixture
) -> None:
    """Also on a fresh broker, whose coordinator is not ready at once; nothing is logged about that."""
    assert await supports_transactions(settings_for(kafka)) is True
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


async def test_concurrent_probes_all_say_yes(kafka: KafkaCluster, settings_for: SettingsFor) -> None:
    """Workers that start together probe the same transactional id."""
    settings = settings_for(kafka)
    assert await asyncio.gather(*(supports_transactions(settings) for _ in range(4))) == [True] * 4


async def test_a_paused_broker_is_unreachable_and_comes_back(kafka: KafkaCluster, settings_for: SettingsFor) -> None:
    """SIGSTOP keeps the port open and answers nothing: the bound holds."""
    settings = settings_for(kafka)
    kafka.pause(0)
    try:
        begun_s = time.monotonic()
        with pytest.raises(Exception, match="no answer in time"):
            await reach(settings, 1.0)
        assert time.monotonic() - begun_s < 15
    finally:
        kafka.resume(0)
    await reach(settings, 30)


async def test_three_brokers_survive_the_kill_of_one(kafka3: KafkaCluster, settings_for: SettingsFor) -> None:
    """What was committed stays readable, new transactions commit, and the killed broker comes back under its address."""
    settings = settings_for(kafka3)
    await topics_admin.apply(settings, partitions=3)
    assert {state.replication for state in await topics_admin.describe(settings)} == {3}
    await send_in_transaction(settings, [b"before"])
    pids = kafka3.pids
    address = kafka3.bootstrap_servers
    await asyncio.to_thread(kafka3.kill, 0)
    assert len(kafka3.pids) == 2
    await reach(settings, 30)
    assert await supports_transactions(settings, 90) is True
    async with asyncio.timeout(60):
        await send_in_transaction(settings, [b"during"])
    assert await read_committed(settings, 2) == [b"before", b"during"]
    await asyncio.to_thread(kafka3.restart, 0)
    assert kafka3.bootstrap_servers == address
    assert len(kafka3.pids) == 3
    assert kafka3.pids[0] != pids[0]
    await send_in_transaction(settings, [b"after"])
    assert await read_committed(settings, 3) == [b"before", b"during", b"after"]


def test_a_rig_that_is_stopped_leaves_nothing() -> None:
    """No process, no data."""
    cluster = KafkaCluster()
    with cluster:
        pids = cluster.pids
        home = cluster.home
        assert home is not None
        assert home.is_dir()
    assert not home.exists()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_missing_tools_and_jars_are_errors_not_skips(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """A machine without Java fails the tier in plain words."""
    monkeypatch.setenv(JARS_ENV, str(tmp_path))
    with pytest.raises(KafkaRigError, match=JARS_ENV):
        jars()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RigError, match="Java 17"):
        KafkaCluster().start()
