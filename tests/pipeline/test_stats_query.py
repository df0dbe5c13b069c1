"""Two workers share the partitions of a real group: each finds the other by the assignment and gives the whole answer."""

from __future__ import annotations

import time
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web

from streams.broker.embedded import EmbeddedBroker
from streams.broker.topics_admin import apply
from streams.settings import Settings
from streams.statistics.aggregator import Aggregator
from streams.statistics.api import StatsApi
from streams.statistics.processor import StatsProcessor
from tests.support.memory import held
from tests.support.points import fleet, produce
from tests.support.wait import until

pytestmark = pytest.mark.embedded


class Worker:
    """A statistics processor and its API."""

    def __init__(self, broker: EmbeddedBroker, prefix: str, name: str) -> None:
        self.settings = Settings(
            bootstrap_servers=broker.bootstrap_servers,
            topic_prefix=prefix,
            app_id=prefix.rstrip("."),
            instance_id=name,
            session_timeout=6000,
        )
        self.processor: StatsProcessor | None = None
        self.url = ""

    @property
    def ready(self) -> bool:
        """As a keeper's."""
        return self.processor is not None and self.processor.ready

    async def start(self) -> None:
        """Listen, then join."""
        self._api = StatsApi(lambda: cast("Any", self))
        app = web.Application()
        app.add_routes(self._api.routes())
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0]
        self.url = f"http://{host}:{port}"
        self.processor = StatsProcessor(self.settings, address=self.url)
        await self.processor.start()

    async def stop(self) -> None:
        """Leave, then stop listening."""
        processor, self.processor = self.processor, None
        if processor is not None:
            await processor.stop()
        await self._api.close()
        await self._runner.cleanup()


async def _get(url: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.json()


async def test_two_workers_answer_alike_and_a_move_is_never_a_wrong_number(
    embedded: EmbeddedBroker, prefix: str
) -> None:
    """1,000 points, one worker; a second joins: until both are settled it is 503 or the right count, then that from both."""
    one, two = Worker(embedded, prefix, "w1"), Worker(embedded, prefix, "w2")
    await apply(one.settings, 4)
    points = fleet(7, 1000, 5, int(time.time() * 1000) - 30_000)
    await produce(embedded.bootstrap_servers, f"{prefix}data-points", points)
    agents = {f"agent-{number}" for number in range(5)}
    expected = {agent: sum(1 for point in points if point["agentId"] == agent) for agent in agents}
    seen: list[int] = []

    async def count(worker: Worker, agent: str) -> int:
        status, body = await _get(f"{worker.url}/api/v1/agents/{agent}/stats")
        seen.append(status)
        if status != 200:
            assert status == 503
            assert "recovering" in body["error"]
            return -1
        return int(body["totalExecutions"])

    await one.start()
    try:
        await cast("StatsProcessor", one.processor).wait_ready(60)
        await until(lambda: one.processor is not None and one.processor.counters()["points"] >= 1000, 60)
        assert {agent: await count(one, agent) for agent in agents} == expected
        await two.start()
        deadline = time.monotonic() + 90
        settled: set[str] = set()
        while settled != {"w1", "w2"} and time.monotonic() < deadline:
            for name, worker in (("w1", one), ("w2", two)):
                found = {agent: await count(worker, agent) for agent in agents}
                assert all(number in (-1, expected[agent]) for agent, number in found.items()), (found, expected)
                both = one.processor is not None and two.processor is not None and len(two.processor.heads()) == 2
                if both and found == expected:
                    settled.add(name)
        assert settled == {"w1", "w2"}
        assert 503 in seen
        for worker in (one, two):
            processor = cast("StatsProcessor", worker.processor)
            [aggregator] = held(processor, Aggregator)
            kept = {live.series.partition for live in aggregator.state}
            assert kept <= set(processor.heads()), "rows of others' partitions would be closed by our clock"
    finally:
        await two.stop()
        await one.stop()
