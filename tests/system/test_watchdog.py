"""aiokafka's own tasks are ended, or stand still, inside a worker that runs: it goes on by itself, nothing lost or doubled."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer

from streams import role, worker
from streams.broker.kafka import client_options
from streams.engine.engine import Engine
from streams.engine.follower import Follower
from streams.statistics.app import StatsApp
from streams.statistics.role import StatsSupervisor
from tests.conftest import SettingsFor
from tests.support.kafka import KafkaCluster
from tests.support.points import compare, fleet, read_all
from tests.support.points import produce as send_points
from tests.support.rig import Tap, apply_topics, instant_agent, produce, register
from tests.support.wait import until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]
WIDE = {"maxRequests": 1_000_000, "windowMs": 60_000, "maxConcurrency": 20}
COUNT = 3000
MORE = 300


def task(number: int) -> bytes:
    metadata = {"timeout": 120_000, "retries": 5}
    return json.dumps(
        {"id": f"t{number}", "type": "agent", "target": "a", "payload": {"n": number}, "metadata": metadata}
    ).encode()


def end_fetching(consumer: Any) -> None:
    """As an error nobody expected would: the task is gone, polls find nothing, for ever."""
    consumer._fetcher._fetch_task.cancel()


def end_coordination(consumer: Any) -> None:
    """An error inside of aiokafka: the group's task is gone, every poll fails from now on."""

    async def broken() -> None:
        raise KeyError("a connection that is no more")

    consumer._coordinator.ensure_coordinator_known = broken
    consumer._coordinator.coordinator_dead()


def forget_to_fetch(consumer: Any) -> None:
    """All tasks live, none asks for anything: only the log's end beyond our position tells."""
    consumer._fetcher._get_actions_per_node = lambda assignment: ([], {}, 0.05, False, [])


@pytest.mark.parametrize("fault", [end_fetching, end_coordination, forget_to_fetch])
async def test_the_pipeline_goes_on_with_another_consumer(
    kafka: KafkaCluster, prefix: str, settings_for: SettingsFor, monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    """In the middle of a load: each task is answered once all the same, by a consumer that is another one."""
    broker = kafka.bootstrap_servers
    engines: list[Engine] = []

    class Seen(Engine):
        def __init__(self, *args: Any, **fields: Any) -> None:
            super().__init__(*args, **fields)
            engines.append(self)

    monkeypatch.setattr(role, "Engine", Seen)
    settings = settings_for(
        kafka, roles=("dispatch",), web_port=0, grpc_port=0, session_timeout=6000, dispatch={"stall_after": 3000}
    )
    await asyncio.to_thread(apply_topics, broker, prefix)
    ready, stop = asyncio.Event(), asyncio.Event()
    with instant_agent("--delay-ms", "20") as (_, endpoint):
        await asyncio.to_thread(register, broker, prefix, {"id": "a", "endpoint": endpoint, "limits": WIDE})
        running = asyncio.create_task(worker.run(settings, on_ready=lambda _: ready.set(), stop=stop))
        async with asyncio.timeout(60):
            await ready.wait()
        [engine] = engines
        first = engine.consumer
        tap = Tap(broker, f"{prefix}results")
        await asyncio.to_thread(produce, broker, f"{prefix}tasks", ((None, task(n)) for n in range(COUNT)))
        found = await asyncio.to_thread(tap.until, COUNT // 10, 30)
        assert len(found) < COUNT, "the fault must fall into the middle"
        fault(first)
        later = ((None, task(n)) for n in range(COUNT, COUNT + MORE))
        await asyncio.to_thread(produce, broker, f"{prefix}tasks", later)
        await until(lambda: engine.consumer is not first, 30)
        found += await asyncio.to_thread(tap.until, COUNT + MORE - len(found), 60, 3.0)
        assert engine.ready
        tap.close()
        stop.set()
        async with asyncio.timeout(30):
            await running
    ids = Counter(json.loads(message.value())["taskId"] for message in found)
    assert ids.keys() == {f"t{n}" for n in range(COUNT + MORE)}
    assert set(ids.values()) == {1}


async def test_a_followed_topic_goes_on_with_another_consumer(
    kafka: KafkaCluster, prefix: str, settings_for: SettingsFor
) -> None:
    """Its fetching ends: what is written later is applied all the same, and what was applied is not applied again."""
    broker = kafka.bootstrap_servers
    await asyncio.to_thread(apply_topics, broker, prefix)
    applied: list[bytes | None] = []
    consumers: list[Any] = []

    def consumer_of(**options: Any) -> Any:
        consumers.append(AIOKafkaConsumer(**options))
        return consumers[-1]

    follower = Follower(
        client_options(settings_for(kafka)),
        f"{prefix}agents",
        lambda record: applied.append(record.key),
        make_consumer=consumer_of,
    )
    await asyncio.to_thread(produce, broker, f"{prefix}agents", [(b"before", b"{}")])
    await follower.start()
    assert applied == [b"before"]
    end_fetching(consumers[0])
    await asyncio.to_thread(produce, broker, f"{prefix}agents", [(b"after", b"{}")])
    await until(lambda: applied == [b"before", b"after"], 30)
    assert len(consumers) == 2
    await follower.stop()


async def test_statistics_go_on_with_another_consumer(
    kafka: KafkaCluster, prefix: str, settings_for: SettingsFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faust's consumer no longer fetches: the role starts anew by itself, and every window is exact."""
    settings = settings_for(kafka, session_timeout=6000, instance_id="w1")
    await asyncio.to_thread(apply_topics, kafka.bootstrap_servers, prefix)
    topic = f"{prefix}data-points"
    points = fleet(5, 400, 4, int(time.time() * 1000) - 60_000, step_ms=10)
    apps: list[StatsApp] = []

    def app_of(**parts: Any) -> StatsApp:
        apps.append(StatsApp(**parts))
        return apps[-1]

    monkeypatch.setattr("streams.statistics.processor.StatsApp", app_of)
    keeper = StatsSupervisor(settings, idempotent=True)
    await keeper.start()
    async with asyncio.timeout(90):
        await keeper.wait_ready()
    first: Any = keeper.processor
    await send_points(kafka.bootstrap_servers, topic, points[:200])
    await until(lambda: first.counters()["points"] == 200, 30)
    thread = apps[0].ledger._thread
    thread.thread_loop.call_soon_threadsafe(end_fetching, thread._consumer)
    await send_points(kafka.bootstrap_servers, topic, points[200:])
    await until(lambda: keeper.processor not in (None, first) and keeper.ready, 120)
    aggregates: list[Any] = []
    async with asyncio.timeout(60):
        while not aggregates or compare(aggregates, points):
            records = await read_all(kafka.bootstrap_servers, f"{prefix}aggregates")
            aggregates = [json.loads(record.value) for record in records]
    await keeper.stop()
