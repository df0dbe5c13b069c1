"""`client.map` on real Kafka while the worker and the broker are killed: each payload has one result, and the iterator ends."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from aiokafka import AIOKafkaConsumer

from streams import Client
from streams.client.connection import workers_present
from streams.testing import FakeAgent
from tests.support.kafka import KafkaCluster
from tests.support.rig import apply_topics, register, start_worker

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]
COUNT = 4000
WIDE = {"maxRequests": 1_000_000, "windowMs": 60_000, "maxConcurrency": 50}
STEADY = ("--roles", "dispatch", "--instance-id", "w1", "--session-timeout", "6s")


def echo(payload: dict[str, object]) -> object:
    return payload


@asynccontextmanager
async def mapped(
    servers: str, prefix: str, disturb: Callable[[], Awaitable[None]]
) -> AsyncIterator[tuple[Client, list[int]]]:
    """Results of so many payloads through `map`, `disturb` being called after a quarter and again after a half of them.

    The second time waits for the end of the first: a worker that has begun to work may not have said so yet.
    """
    seen: list[int] = []
    one_at_a_time = asyncio.Lock()

    async def in_turn() -> None:
        async with one_at_a_time:
            await disturb()

    async with Client(servers, topic_prefix=prefix, give_up_after=120) as client:
        disturbing: list[asyncio.Future[None]] = []
        async for result in client.map("a1", ({"n": n} for n in range(COUNT)), concurrency=200):
            assert result.ok
            seen.append(result.value["n"])
            if len(seen) in (COUNT // 4, COUNT // 2):
                disturbing.append(asyncio.ensure_future(in_turn()))
        await asyncio.gather(*disturbing)
        yield client, seen


async def test_map_through_kills_of_the_worker(kafka: KafkaCluster, prefix: str) -> None:
    servers = kafka.bootstrap_servers
    apply_topics(servers, prefix)
    workers = [start_worker(servers, prefix, *STEADY)]

    async def replace() -> None:
        workers[-1].kill()
        workers.append(await asyncio.to_thread(start_worker, servers, prefix, *STEADY))

    async with FakeAgent(echo) as agent:
        register(servers, prefix, {"id": "a1", "endpoint": agent.endpoint, "limits": WIDE})
        try:
            async with mapped(servers, prefix, replace) as (client, seen):
                assert len(workers) == 3
                assert await workers_present(client.settings) is True
                nobody = client.settings.model_copy(update={"topic_prefix": "nobodys."})
                assert await workers_present(nobody) is False
                assert Counter(seen) == Counter(range(COUNT))
        finally:
            workers[-1].kill()


async def test_a_worker_is_found_among_the_groups_of_others(kafka: KafkaCluster, prefix: str) -> None:
    """Several dispatch groups share a cluster, and one of them reads our tasks."""
    servers = kafka.bootstrap_servers
    apply_topics(servers, prefix)
    async with AsyncExitStack() as stack:
        for number in range(3):
            other = AIOKafkaConsumer(
                f"{prefix}events", bootstrap_servers=servers, group_id=f"{prefix}{number}-dispatch"
            )
            await other.start()
            stack.push_async_callback(other.stop)
        async with Client(servers, topic_prefix=prefix) as client:
            assert await workers_present(client.settings) is False
            worker = await asyncio.to_thread(start_worker, servers, prefix, *STEADY)
            try:
                assert await workers_present(client.settings) is True
            finally:
                worker.kill()


async def test_map_through_kills_of_the_broker(prefix: str) -> None:
    kafka = KafkaCluster(brokers=1)
    async with FakeAgent(echo) as agent:
        await asyncio.to_thread(kafka.start)
        servers = kafka.bootstrap_servers
        apply_topics(servers, prefix)
        worker = start_worker(servers, prefix, *STEADY)
        kills = 0

        async def restart() -> None:
            nonlocal kills
            kills += 1
            kafka.kill(0)
            await asyncio.sleep(1)
            await asyncio.to_thread(kafka.restart, 0)

        register(servers, prefix, {"id": "a1", "endpoint": agent.endpoint, "limits": WIDE})
        try:
            async with mapped(servers, prefix, restart) as (_, seen):
                assert kills == 2
                assert Counter(seen) == Counter(range(COUNT))
        finally:
            worker.kill()
            kafka.stop()


async def test_results_that_came_while_the_client_was_away_are_found(kafka: KafkaCluster, prefix: str) -> None:
    """The client dies in the middle: its successor finds each result by id, and ids sent again have one result."""
    servers = kafka.bootstrap_servers
    apply_topics(servers, prefix)
    names = [f"t{n}" for n in range(200)]
    async with FakeAgent(echo) as agent:
        register(servers, prefix, {"id": "a1", "endpoint": agent.endpoint, "limits": WIDE})
        first = Client(servers, topic_prefix=prefix)
        await first.start()
        for name in names:
            await first.submit("a1", {"name": name}, id=name)
        await first.close()
        worker = start_worker(servers, prefix, *STEADY)
        try:
            async with Client(servers, topic_prefix=prefix) as second:
                handles = [await second.handle(name, since="1h") for name in names]
                results = [await handle.result(wait=90) for handle in handles]
                assert [result.value["name"] for result in results] == names
            async with Client(servers, topic_prefix=prefix) as third:
                again = [await third.submit("a1", {"name": "another"}, id=name) for name in names]
                assert [(await handle.result(wait=90)).value["name"] for handle in again] == names
        finally:
            worker.kill()
