"""The lag a worker tells of itself on real Kafka, where outputs lie in transactions and markers stand between the records."""

from __future__ import annotations

import asyncio
import re
import time

import orjson
import pytest

from agents_io.fakes.http import FakeAgent
from agents_io.fakes.steps import answer
from schemas.topics import INTAKE, PLAN_INTAKE, SCHEDULE_INTAKE
from tests.support.kafka import KafkaCluster
from tests.support.pipeline import WIDE, Pipeline, pipeline_on, stop
from tests.support.rig import start_worker

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

READ = {*INTAKE, *PLAN_INTAKE, *SCHEDULE_INTAKE, "data-points"}
TASKS = 240
IN_FLIGHT = 20
LAG = re.compile(r'^parallax_consumer_lag_messages\{topic="([^"]+)",partition="\d+"\} (\S+)$', re.M)


async def test_lag_shows_what_waits_and_ends_at_zero_in_spite_of_markers(kafka: KafkaCluster, prefix: str) -> None:
    """Of all that the roles read; `results` and `data-points` are written in transactions only."""
    async with FakeAgent(answer(delay_s=1.5)) as slow, pipeline_on(kafka.bootstrap_servers, prefix) as pipeline:
        await pipeline.register({"id": "slow", "endpoint": slow.endpoint, "limits": WIDE})
        await pipeline.tasks(range(TASKS), ["slow"], metadata={"timeout": 120_000})
        env = {"PARALLAX_DISPATCH__MAX_IN_FLIGHT": str(IN_FLIGHT), "PARALLAX_DISPATCH__STALL_AFTER": "6s"}
        worker = start_worker(pipeline.bootstrap, prefix, "--session-timeout", "6s", "-o", "json", env=env, wait=False)
        pipeline.workers.append(worker)
        pipeline.web = orjson.loads(await asyncio.to_thread(worker.line, 90))["web"]
        try:
            most = await most_lag(pipeline, until=TASKS // 2)
            step = {"type": "agent", "target": "slow", "payload": {"n": 1}}
            await pipeline.send("plans", [("p", {"id": "p", "tasks": [{"id": "a"} | step, {"id": "b"} | step]})])
            assert most["tasks"] + most.get("dispatch", 0) > TASKS // 2, "what waits for room on the topics is not seen"
            await pipeline.results({f"t{n}" for n in range(TASKS)}, 90)
            await gone(pipeline)
        finally:
            await stop(worker)


async def lags(pipeline: Pipeline) -> dict[str, float]:
    """Topic (short name) -> its lag now."""
    _, page = await pipeline.get("/metrics")
    found: dict[str, float] = {}
    for topic, lag in LAG.findall(page):
        name = topic.removeprefix(pipeline.prefix)
        found[name] = found.get(name, 0.0) + float(lag)
    return found


async def most_lag(pipeline: Pipeline, until: int) -> dict[str, float]:
    """The largest lags seen before so many calls have ended."""
    most: dict[str, float] = {}
    deadline = time.monotonic() + 60
    while len(await pipeline.read("results")) < until:
        assert time.monotonic() < deadline, "nothing is answered"
        for name, lag in (await lags(pipeline)).items():
            most[name] = max(lag, most.get(name, 0.0))
        await asyncio.sleep(0.1)
    return most


async def gone(pipeline: Pipeline) -> None:
    """Wait for zero everywhere; it stays so."""
    deadline = time.monotonic() + 30
    while True:
        found = await lags(pipeline)
        if found.keys() == READ and not any(found.values()):
            break
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.2)
    await asyncio.sleep(1)
    assert not any((await lags(pipeline)).values())
    rows = (await pipeline.get("/api/v1/partitions"))[1]
    assert len(rows) == len(READ) * 4
    assert [row for row in rows if row["lag"]] == []
