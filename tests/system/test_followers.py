"""Topics that every worker reads whole: what they do about a topic that goes away, records nobody can use, and long logs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiokafka import AIOKafkaConsumer
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from streams.broker.kafka import client_options
from streams.engine import follower as module
from streams.engine.follower import FollowedTopicMissing, Follower
from streams.settings import Settings
from streams.web import WebServer
from tests.conftest import SettingsFor
from tests.support.kafka import KafkaCluster
from tests.support.rig import apply_topics, produce
from tests.support.wait import until, wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]


def follower_of(settings: Settings, topic: str, apply: Callable[[Any], None], **more: Any) -> Follower:
    return Follower(client_options(settings), topic, apply, **more)


def delete(bootstrap: str, topic: str) -> None:
    """Raises if the broker refuses."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.delete_topics([topic]).values():
        future.result(30)


@pytest.mark.parametrize("name", ["agents", "controls", "standings", "calibrations"])
async def test_a_topic_that_goes_away_is_waited_for_in_plain_words(
    kafka: KafkaCluster, prefix: str, settings_for: SettingsFor, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One line, no storm of questions, `/readyz` says why; made anew it is read from its beginning."""
    broker, topic = kafka.bootstrap_servers, f"{prefix}{name}"
    await asyncio.to_thread(apply_topics, broker, prefix)
    settings = settings_for(kafka, web_port=0, roles=("stats",))
    applied: list[bytes | None] = []
    follower = follower_of(settings, topic, lambda record: applied.append(record.key))
    await asyncio.to_thread(produce, broker, topic, [(b"before", b"{}"), (b"too", b"{}")])
    await follower.start()
    web = WebServer(settings, CollectorRegistry())
    web.problems = lambda: [] if follower.problem is None else [follower.problem]
    await web.start()
    try:
        with capture_logs() as logs:
            await asyncio.to_thread(delete, broker, topic)
            await until(lambda: follower.problem is not None, 30)
            caplog.clear()
            await asyncio.sleep(5)
        assert [line["event"] for line in logs] == [
            f"topic {topic} is missing, or hidden from this user; create it with: parallax topics apply"
        ]
        asked = [line for line in caplog.records if "not found in cluster metadata" in line.getMessage()]
        assert asked == [], "the brokers are asked for a leader over and over"
        async with aiohttp.ClientSession() as session, session.get(web.url + "/readyz") as answer:
            assert answer.status == 503
            assert (await answer.json())["reasons"] == [follower.problem]
        await asyncio.to_thread(apply_topics, broker, prefix)
        await asyncio.to_thread(produce, broker, topic, [(b"after", b"{}")])
        await until(lambda: set(applied) == {b"before", b"too", b"after"} and len(applied) == 3, 40)
        assert follower.problem is None
        await follower.catch_up()
    finally:
        await web.stop()
        await follower.stop()


def make_anew(broker: str, prefix: str, topic: str, keys: list[bytes]) -> None:
    """Delete it, make it again and write to it."""
    delete(broker, topic)
    await_absence(broker, topic)
    apply_topics(broker, prefix)
    wait_until(lambda: taken(broker, topic, *keys), 60)


def await_absence(broker: str, topic: str) -> None:
    """The controller has deleted it; the broker learns of that later. Until then it would take records, and lose them."""
    admin = AdminClient({"bootstrap.servers": broker})
    wait_until(lambda: topic not in admin.list_topics(timeout=30).topics, why=lambda: f"{topic} does not go away")


def taken(broker: str, topic: str, *keys: bytes) -> bool:
    """Write records; False: the broker does not know yet that the topic is there again."""
    try:
        produce(broker, topic, [(key, b"{}") for key in keys])
    except AssertionError as error:
        if "UNKNOWN_TOPIC_OR_PART" in str(error):
            return False
        raise
    return True


@pytest.mark.parametrize("count", [1, 5])
async def test_a_topic_made_anew_between_two_looks_is_read_from_its_beginning(
    kafka: KafkaCluster, prefix: str, settings_for: SettingsFor, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Nobody saw it missing: this process stood still meanwhile. Its log is shorter than our position, or longer."""
    monkeypatch.setattr(module, "LOOK_S", 1.0)
    broker, topic = kafka.bootstrap_servers, f"{prefix}agents"
    await asyncio.to_thread(apply_topics, broker, prefix)
    applied: list[bytes | None] = []
    follower = follower_of(settings_for(kafka), topic, lambda record: applied.append(record.key))
    await asyncio.to_thread(produce, broker, topic, [(b"a", b"{}"), (b"b", b"{}"), (b"c", b"{}")])
    await follower.start()
    await asyncio.sleep(1.5)
    new = [b"new%d" % number for number in range(count)]
    make_anew(broker, prefix, topic, new)  # without a thread: nothing else runs here until it is there again
    assert follower.problem is None
    await until(lambda: applied[3:][-count:] == new, 40)
    await follower.stop()


async def test_a_missing_topic_is_no_start(kafka: KafkaCluster, prefix: str, settings_for: SettingsFor) -> None:
    """And is not made by the question."""
    follower = follower_of(settings_for(kafka), f"{prefix}nowhere", lambda record: None)
    with pytest.raises(FollowedTopicMissing, match="nowhere is missing"):
        await follower.start()
    await follower.stop()


async def test_a_record_that_cannot_be_applied_costs_no_other(
    kafka: KafkaCluster, prefix: str, settings_for: SettingsFor
) -> None:
    """Whatever its listener raises, at the start and later: the rest of its batch is applied, once."""
    broker, topic = kafka.bootstrap_servers, f"{prefix}agents"
    await asyncio.to_thread(apply_topics, broker, prefix)
    applied: list[bytes] = []

    def apply(record: Any) -> None:
        if record.key.startswith(b"bad"):
            raise ZeroDivisionError(record.key)
        applied.append(record.key)

    follower = follower_of(settings_for(kafka), topic, apply)
    rows: list[tuple[bytes | None, bytes | None]] = [(b"a", b"1"), (b"bad1", b"1"), (b"b", b"1")]
    await asyncio.to_thread(produce, broker, topic, rows)
    await follower.start()
    assert applied == [b"a", b"b"]
    await asyncio.to_thread(produce, broker, topic, [(b"bad2", b"1"), (b"c", b"1"), (b"bad3", b"1"), (b"d", b"1")])
    await until(lambda: len(applied) >= 4, 20)
    await follower.catch_up()
    assert applied == [b"a", b"b", b"c", b"d"]
    await follower.stop()


async def test_records_of_a_transaction_that_was_given_up_are_not_applied(
    kafka: KafkaCluster, prefix: str, settings_for: SettingsFor
) -> None:
    """A foreign writer's: neither of agents nor of requests to cancel."""
    broker, topic = kafka.bootstrap_servers, f"{prefix}controls"
    await asyncio.to_thread(apply_topics, broker, prefix)

    def write() -> None:
        producer = Producer({"bootstrap.servers": broker, "transactional.id": f"{prefix}foreign"})
        producer.init_transactions(30)
        for key in (b"given up", b"committed"):
            producer.begin_transaction()
            producer.produce(topic, key=key, value=b"{}")
            producer.flush(30)
            if key == b"given up":
                producer.abort_transaction(30)
            else:
                producer.commit_transaction(30)

    applied: list[bytes] = []
    follower = follower_of(settings_for(kafka), topic, lambda record: applied.append(record.key))
    await follower.start()
    await asyncio.to_thread(write)
    await until(lambda: applied != [], 30)
    await follower.catch_up()
    assert applied == [b"committed"]
    await follower.stop()


async def test_a_long_log_is_read_as_long_as_it_goes_on(
    kafka: KafkaCluster, prefix: str, settings_for: SettingsFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start gives up for want of progress, not after a time in all."""
    broker, topic = kafka.bootstrap_servers, f"{prefix}agents"
    await asyncio.to_thread(apply_topics, broker, prefix)
    await asyncio.to_thread(produce, broker, topic, [(b"%d" % n, b"{}") for n in range(40)])
    monkeypatch.setattr(module, "STALL_TIMEOUT_S", 3.0)

    class Slow(AIOKafkaConsumer):  # type: ignore[misc]
        """Five records a second."""

        async def getmany(self, *tps: Any, timeout_ms: int = 0, max_records: int | None = None) -> Any:
            await asyncio.sleep(1)
            return await super().getmany(*tps, timeout_ms=timeout_ms, max_records=5)

    follower = follower_of(settings_for(kafka), topic, lambda record: None, make_consumer=Slow)
    begin = time.monotonic()
    await follower.start()
    whole = time.monotonic() - begin
    assert whole > 3.0, "the log was not long"
    await follower.stop()

    class Stuck(AIOKafkaConsumer):  # type: ignore[misc]
        """Finds nothing."""

        async def getmany(self, *tps: Any, timeout_ms: int = 0, max_records: int | None = None) -> Any:
            await asyncio.sleep(0.1)
            return {}

    stalled = follower_of(settings_for(kafka), topic, lambda record: None, make_consumer=Stuck)
    with pytest.raises(TimeoutError, match="no progress for 3 s"):
        await stalled.start()
    await stalled.stop()
