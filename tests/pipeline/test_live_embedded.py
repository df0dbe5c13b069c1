"""The live page's back end on the embedded broker: the stream, the way back to it, a task's story, an end without delay."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator

import aiohttp
import pytest

from agents_io.fakes.http import FakeAgent
from streams.broker.embedded import EmbeddedBroker
from tests.support.pipeline import WIDE, Pipeline, pipeline_on, stop
from tests.support.sse import completed, streaming

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(180)]


@pytest.fixture
async def pipeline(embedded: EmbeddedBroker, prefix: str) -> AsyncIterator[Pipeline]:
    """Topics with four partitions."""
    async with pipeline_on(embedded.bootstrap_servers, prefix) as made:
        yield made


async def test_the_stream_the_way_back_to_it_and_a_task(pipeline: Pipeline) -> None:
    """Every event once over two connections, with the numbers of all; a task's story; and a stop with a stream still open."""
    async with FakeAgent() as agent:
        await pipeline.register({"id": "alpha", "endpoint": agent.endpoint, "limits": WIDE})
        worker = await pipeline.start()
        try:
            async with streaming(pipeline.web, types="task:") as first:
                await pipeline.tasks(range(40), ["alpha"])
                await first.until(lambda seen: completed(40, seen))
                await first.until(lambda seen: seen.messages[-1][0] == "metrics")
            assert first.messages[0][0] == "hello"
            assert first.messages[0][1]["last"] == 200
            metrics = first.messages[-1][1]
            assert metrics["perSecond"]["task:completed"] > 0
            assert metrics["p50Ms"] > 0
            assert (metrics["successRate"], metrics["watchers"]) == (1.0, 1)
            await pipeline.tasks(range(40, 80), ["alpha"])
            await pipeline.results({f"t{n}" for n in range(80)})
            async with streaming(pipeline.web, types="task:", cursor=first.cursor) as second:
                await second.until(lambda seen: completed(80, first, seen))
            seen = Counter(first.keyed() + second.keyed())
            wanted = {(kind, f"t{n}") for n in range(80) for kind in ("task:started", "task:completed")}
            assert seen.keys() == wanted
            assert set(seen.values()) == {1}
            assert first.dropped == second.dropped == 0
            async with streaming(pipeline.web, types="task:completed", last=5) as third:
                await third.until(lambda seen: completed(5, seen))
                assert len(third.events) == 5

            status, story = await pipeline.get("/api/v1/tasks/t7")
            assert (status, story["status"], story["result"]["taskId"]) == (200, "success", "t7")
            assert [event["type"] for event in story["events"]] == ["task:started", "task:completed"]
            status, nothing = await pipeline.get("/api/v1/tasks/none")
            assert status == 404
            assert "none" in nothing["error"]
            assert (await pipeline.get("/api/v1/tasks/t7?since=yesterday"))[0] == 400
            assert (await pipeline.get("/api/v1/stream?types=nonsense"))[0] == 400
            foreign = {"Host": "evil.example"}
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{pipeline.web}/livez", headers=foreign) as refused,
            ):
                assert refused.status == 403

            async with streaming(pipeline.web) as last:
                await last.until(lambda seen: bool(seen.messages))
                began = time.monotonic()
                await stop(worker)
                assert time.monotonic() - began < 20
                await last.until(lambda seen: seen.ended)
        finally:
            if worker.popen.poll() is None:
                await stop(worker)
