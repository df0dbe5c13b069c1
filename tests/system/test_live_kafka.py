"""The live page's back end on real Kafka, with transactions: cut connections, a client that takes nothing, all kinds of tasks."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from itertools import pairwise
from urllib.parse import urlsplit

import orjson
import pytest

from agents_io.fakes.http import FakeAgent
from agents_io.fakes.steps import answer, hang, status
from schemas.times import parse_time
from tests.support.kafka import KafkaCluster
from tests.support.pipeline import Pipeline, pipeline_on, stop
from tests.support.sse import completed, streaming
from tests.support.wait import until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
KINDS = ("task:started", "task:completed")
STEADY = {"maxRequests": 1_000_000, "windowMs": 60_000, "maxConcurrency": 10}


@pytest.fixture
async def pipeline(kafka: KafkaCluster, prefix: str) -> AsyncIterator[Pipeline]:
    """Topics with four partitions."""
    async with pipeline_on(kafka.bootstrap_servers, prefix) as made:
        yield made


async def test_a_connection_that_is_cut_twice_misses_nothing_and_sees_nothing_twice(pipeline: Pipeline) -> None:
    """While tasks flow; the second time nobody looks on for long enough that reading had ended."""
    count = 900
    async with FakeAgent([answer(delay_s=0.05)]) as agent:
        await pipeline.register({"id": "alpha", "endpoint": agent.endpoint, "limits": STEADY})
        worker = await pipeline.start()
        try:
            async with streaming(pipeline.web, types="task:", last=0) as first:
                await first.until(lambda seen: bool(seen.messages))
                await pipeline.tasks(range(count), ["alpha"])
                await first.until(lambda seen: completed(100, seen))
            await asyncio.sleep(0.5)
            async with streaming(pipeline.web, types="task:", cursor=first.cursor) as second:
                await second.until(lambda seen: completed(300, first, seen))
            await asyncio.sleep(11)
            await pipeline.tasks([count], ["alpha"])
            async with streaming(pipeline.web, types="task:", cursor=second.cursor) as third:
                await third.until(lambda seen: completed(count + 1, first, second, seen), 60)
                await asyncio.sleep(1)
        finally:
            await stop(worker)
    assert not completed(count, first, second)
    assert first.dropped == second.dropped == third.dropped == 0
    seen = Counter(first.keyed() + second.keyed() + third.keyed())
    assert seen.keys() == {(kind, f"t{n}") for n in range(count + 1) for kind in KINDS}
    assert set(seen.values()) == {1}
    assert all(len(data) <= 250 for s in (first, second, third) for kind, data in s.messages if kind == "events")


async def test_a_client_that_takes_nothing_delays_no_other_and_not_the_end(pipeline: Pipeline) -> None:
    """Its own stream stands still, as its numbers tell when it reads at last; the other sees every event within seconds."""
    count = 700
    async with FakeAgent([answer("x" * 1500, delay_s=0.05)]) as agent:
        await pipeline.register({"id": "alpha", "endpoint": agent.endpoint, "limits": STEADY})
        worker = await pipeline.start()
        try:
            with socket.socket() as stuck:
                stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                at = urlsplit(pipeline.web)
                stuck.connect((at.hostname, at.port))
                stuck.sendall(f"GET /api/v1/stream HTTP/1.1\r\nHost: {at.netloc}\r\n\r\n".encode())
                async with streaming(pipeline.web, types="task:", last=0) as quick:
                    await quick.until(lambda seen: bool(seen.messages))
                    await pipeline.tasks(range(count), ["alpha"])
                    await quick.until(lambda seen: completed(count, seen), 60)
                    late_s = time.time() - max(parse_time(event["timestamp"]) for event in quick.events) / 1000
                    await asyncio.sleep(8)
                    pauses = gaps_s([data["time"] for kind, data in quick.messages if kind == "metrics"])
                    assert max(Counter(quick.keyed()).values()) == 1
                    assert quick.dropped == 0
                assert late_s < 8
                assert max(pauses) < 6
                stuck.settimeout(2)
                taken = await asyncio.to_thread(drained, stuck)
                times = [
                    str(orjson.loads(line[6:])["time"])
                    for line in taken.split(b"\n")
                    if line.startswith(b'data: {"time"')
                ]
                assert max(gaps_s(times)) > 7, "it was never stuck"
                # And so again, for the end.
                await pipeline.tasks(range(count, 2 * count), ["alpha"])
                await pipeline.results({f"t{n}" for n in range(2 * count)})
                began = time.monotonic()
                await stop(worker)
                assert time.monotonic() - began < 20
        finally:
            if worker.popen.poll() is None:
                await stop(worker)


async def test_a_stream_goes_on_after_the_brokers_were_gone(prefix: str) -> None:
    """It stays open meanwhile, and what it shows afterwards is neither short of anything nor told twice."""
    with KafkaCluster(brokers=1) as cluster:
        async with pipeline_on(cluster.bootstrap_servers, prefix) as pipeline, FakeAgent() as agent:
            await pipeline.register({"id": "alpha", "endpoint": agent.endpoint, "limits": STEADY})
            worker = await pipeline.start()
            try:
                async with streaming(pipeline.web, types="task:", last=0) as stream:
                    await pipeline.tasks(range(50), ["alpha"])
                    await stream.until(lambda seen: completed(50, seen))
                    await asyncio.to_thread(cluster.kill, 0)
                    told = len(stream.messages)
                    await stream.until(lambda seen: len(seen.messages) > told + 5)
                    assert {kind for kind, _ in stream.messages[told:]} == {"metrics"}
                    await asyncio.to_thread(cluster.restart, 0)
                    await pipeline.tasks(range(50, 100), ["alpha"])
                    await stream.until(lambda seen: completed(100, seen), 90)
                    assert not stream.ended
            finally:
                await stop(worker)
    assert Counter(stream.keyed()) == {(kind, f"t{n}"): 1 for n in range(100) for kind in KINDS}
    assert stream.dropped == 0


def gaps_s(times: list[str]) -> list[float]:
    """Seconds between one and the next."""
    at = [parse_time(one) / 1000 for one in times]
    return [after - before for before, after in pairwise(at)]


def drained(connection: socket.socket) -> bytes:
    """What it was sent, until all that waited is read."""
    taken = b""
    end = time.monotonic() + 10
    while time.monotonic() < end and (more := connection.recv(65_536)):
        taken += more
    return taken


async def test_a_task_is_told_whatever_became_of_it(pipeline: Pipeline) -> None:
    """Done, of a plan whose id it does not tell, under way, parked, refused by its agent, and never heard of."""
    async with (
        FakeAgent() as well,
        FakeAgent([hang()]) as mute,
        FakeAgent([status(503, retry_after="60")]) as busy,
        FakeAgent([status(400)]) as unkind,
    ):
        endpoints = {"well": well, "mute": mute, "busy": busy, "unkind": unkind}
        await pipeline.register(
            *({"id": name, "endpoint": one.endpoint, "limits": STEADY} for name, one in endpoints.items())
        )
        worker = await pipeline.start()
        try:
            more = {"metadata": {"timeout": 120_000}}
            for number, name in enumerate(endpoints):
                await pipeline.tasks([number], [name], **more)
            await pipeline.tasks([9], ["well"], planId="some-plan")
            await until(lambda: bool(busy.calls), 30)
            await asyncio.sleep(1)
            await pipeline.tasks([6], ["busy"], **more)  # the first waits for its second try, this one on the topic
            wanted = {"t0": "success", "t1": "running", "t6": "parked", "t3": "failure", "t9": "success"}
            deadline = time.monotonic() + 30
            while (found := {name: await told(pipeline, name) for name in wanted}) != wanted:
                assert time.monotonic() < deadline, found
                await asyncio.sleep(0.5)
            _, done = await pipeline.get("/api/v1/tasks/t0")
            assert done["result"]["agentId"] == "well"
            _, planned = await pipeline.get("/api/v1/tasks/t9")
            assert planned["result"]["planId"] == "some-plan"
            _, parked = await pipeline.get("/api/v1/tasks/t6?since=5m")
            assert parked["result"] is None
            assert parked["events"][-1]["type"] == "task:parked"
            assert (await pipeline.get("/api/v1/tasks/t77"))[0] == 404
            assert (await pipeline.get("/api/v1/tasks/t0?since=2090-01-01T00:00:00Z"))[0] == 404
            answers = await asyncio.gather(*(pipeline.get("/api/v1/tasks/t0") for _ in range(12)))
            assert {code for code, _ in answers} <= {200, 503}
            assert sum(code == 200 for code, _ in answers) >= 8
            assert found == wanted
        finally:
            worker.kill()


async def told(pipeline: Pipeline, task_id: str) -> str:
    """How the task stands."""
    code, story = await pipeline.get(f"/api/v1/tasks/{task_id}")
    return str(story["status"] if code == 200 else code)
