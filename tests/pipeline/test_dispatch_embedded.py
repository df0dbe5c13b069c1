"""A worker as a process on the embedded broker: tasks in, agents called, results, points and events out; at least once."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from agents_io.fakes.http import FakeAgent
from agents_io.fakes.steps import answer, status
from schemas.codec import decode
from schemas.messages import ConfidenceDataPoint, Event, Result
from streams.broker.embedded import EmbeddedBroker
from tests.support.pipeline import WIDE, Pipeline, pipeline_on, stop
from tests.support.points import read_all
from tests.support.wait import until

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(180)]


@pytest.fixture
async def pipeline(embedded: EmbeddedBroker, prefix: str) -> AsyncIterator[Pipeline]:
    """Topics with four partitions."""
    async with pipeline_on(embedded.bootstrap_servers, prefix) as made:
        yield made


async def seen(agent: FakeAgent, calls: int) -> None:
    """Wait until the agent was called so many times."""
    await until(lambda: len(agent.calls) >= calls, 60)


async def test_three_hundred_tasks_and_the_pages(pipeline: Pipeline) -> None:
    """Each task has a valid result, point and events; a retry heals a failure; the pages show agents, partitions, numbers."""
    names = ["alpha", "beta", "gamma"]
    async with FakeAgent() as well, FakeAgent([status(503, times=1), answer(confidence=0.7)]) as shaky:
        endpoints = [well.endpoint, well.endpoint, shaky.endpoint]
        await pipeline.register(
            *({"id": n, "endpoint": e, "limits": WIDE} for n, e in zip(names, endpoints, strict=True))
        )
        worker = await pipeline.start()
        try:
            assert await pipeline.get("/readyz") == (200, {"ready": True, "checks": {"dispatch": True, "broker": True}})
            assert (await pipeline.get("/livez"))[0] == 200
            await pipeline.tasks(range(300), names)
            ids = {f"t{n}" for n in range(300)}
            results = await pipeline.results(ids)
            assert results.keys() == ids
            for n in range(300):
                result = results[f"t{n}"]
                assert (result["status"], result["agentId"]) == ("success", names[n % 3]), result
            assert sum(result["retries"] for result in results.values()) >= 1
            assert {call.key for call in (*well.calls, *shaky.calls)} == ids

            _, agents = await pipeline.get("/api/v1/agents")
            assert [agent["id"] for agent in agents] == names
            assert (await pipeline.get("/api/v1/agents/beta"))[1]["endpoint"] == well.endpoint
            assert (await pipeline.get("/api/v1/agents/nobody"))[0] == 404
            _, metrics = await pipeline.get("/metrics")
            assert 'parallax_tasks_total{status="success"} 300.0' in metrics
            assert "parallax_task_duration_seconds_bucket" in metrics
            rows: list[dict[str, Any]] = []

            async def all_done() -> bool:
                _, rows[:] = await pipeline.get("/api/v1/partitions")
                taken = sum(row["committable"] for row in rows if row["topic"] == f"{pipeline.prefix}tasks")
                return taken == 300 and not any(row["inFlight"] for row in rows)

            await until(all_done, 20, lambda: rows)
            assert len(rows) == 12
            assert all(row["blocking"] is None for row in rows)
        finally:
            await stop(worker)
    points = Counter(point["taskId"] for point in await pipeline.read("data-points") if point["success"])
    assert points.keys() == ids
    events = Counter((event["type"], event["data"]["taskId"]) for event in await pipeline.read("events"))
    for kind in ("task:started", "task:completed"):
        assert {task for found, task in events if found == kind} == ids
    assert any(kind == "task:retrying" for kind, _ in events)
    for topic, model in (("results", Result), ("data-points", ConfidenceDataPoint), ("events", Event)):
        for record in await read_all(pipeline.bootstrap, pipeline.prefix + topic):
            assert dict(record.headers)["ce_source"] == f"/parallax/{pipeline.prefix.rstrip('.')}/dispatch".encode()
            decode(model, record.value, record.headers)


async def test_neither_a_restart_nor_a_kill_loses_a_task(pipeline: Pipeline) -> None:
    """SIGTERM in the middle, then SIGKILL: the next worker goes on where the commits are, and every task has its result.

    Some have two: this broker forgets the offset map, so what was finished out of order is done again.
    """
    names = [f"agent-{n}" for n in range(6)]
    async with FakeAgent(answer(delay_s=0.1)) as slow:
        narrow = WIDE | {"maxConcurrency": 2}
        await pipeline.register(*({"id": name, "endpoint": slow.endpoint, "limits": narrow} for name in names))
        worker = await pipeline.start()
        await pipeline.tasks(range(300), names)
        await seen(slow, 60)
        await stop(worker)
        assert 0 < len(await pipeline.read("results")) < 300, "the stop came too early or too late to be felt"
        worker = await pipeline.start()
        await seen(slow, len(slow.calls) + 40)
        worker.kill()
        assert len({result["taskId"] for result in await pipeline.read("results")}) < 300
        worker = await pipeline.start()
        try:
            results = await pipeline.results(f"t{n}" for n in range(300))
        finally:
            await stop(worker)
        assert {result["status"] for result in results.values()} == {"success"}


async def test_agents_come_move_and_go_while_it_runs(pipeline: Pipeline) -> None:
    """A task sent right after its agent was registered finds it; a new endpoint holds at once; gone is `no_agent`."""
    async with FakeAgent() as first, FakeAgent() as second:
        worker = await pipeline.start()
        try:
            fresh = {"metadata": {"cache": False}}
            await pipeline.tasks([0], ["newcomer"], **fresh)
            results = await pipeline.results(["t0"])
            assert results["t0"]["error"]["code"] == "no_agent"
            await pipeline.register({"id": "newcomer", "endpoint": first.endpoint, "capabilities": ["look"]})
            await pipeline.tasks([1], ["newcomer"], **fresh)
            await pipeline.send("tasks", [(None, capability_task("t2"))])
            results = await pipeline.results(["t1", "t2"])
            assert {results[name]["agentId"] for name in ("t1", "t2")} == {"newcomer"}
            assert {call.key for call in first.calls} == {"t1", "t2"}
            await listed(pipeline, first.endpoint)

            await pipeline.register({"id": "newcomer", "endpoint": second.endpoint})
            await listed(pipeline, second.endpoint)
            await pipeline.tasks([3], ["newcomer"], **fresh)
            await pipeline.results(["t3"])
            assert {call.key for call in second.calls} == {"t3"}

            await pipeline.send("agents", [("newcomer", None)])
            await listed(pipeline)
            await pipeline.tasks([4], ["newcomer"], **fresh)
            results = await pipeline.results(["t4"])
            assert results["t4"]["error"]["code"] == "no_agent"
        finally:
            await stop(worker)


def capability_task(name: str) -> dict[str, Any]:
    """A task addressed by what its agent must be able to do."""
    return {"id": name, "type": "agent", "capabilities": ["look"], "payload": {}}


async def listed(pipeline: Pipeline, *endpoints: str) -> None:
    """Wait until the worker's page shows one agent at each of these, and no other."""

    async def shown() -> bool:
        _, agents = await pipeline.get("/api/v1/agents")
        return [agent["endpoint"] for agent in agents] == list(endpoints)

    await until(shown)


async def test_invalid_registrations_and_controls_become_dead_letters(pipeline: Pipeline) -> None:
    """Once each, with their bytes and the reason, and an event; what comes behind them is read."""
    bad = [
        ("agents", "smtp", {"id": "smtp", "endpoint": "http://h", "protocol": "smtp"}, "not 'smtp'"),
        ("agents", "mine", {"id": "other", "endpoint": "http://h"}, "id: is 'other' but the record's key is 'mine'"),
        ("agents", None, {"endpoint": "http://h"}, "id: field required"),
        ("controls", "t", {"type": "stop", "taskId": "t"}, "not 'stop'"),
    ]
    async with FakeAgent() as well:
        worker = await pipeline.start()
        try:
            for topic, key, value, _ in bad:
                await pipeline.send(topic, [(key, value)])
            await pipeline.register({"id": "well", "endpoint": well.endpoint})
            await pipeline.tasks(range(1), ["well"])
            assert (await pipeline.results(["t0"]))["t0"]["status"] == "success"

            async def reported() -> bool:
                return sum(event["type"] == "task:dead-lettered" for event in await pipeline.read("events")) >= len(bad)

            await until(reported)
        finally:
            await stop(worker)
    letters = {}
    for topic in ("agents", "controls"):
        for record in await read_all(pipeline.bootstrap, f"dlq.{pipeline.prefix}{topic}"):
            headers = dict(record.headers)
            assert headers["__dlq.errors.topic"].decode() == f"{pipeline.prefix}{topic}"
            letters[topic, record.key] = record.value, headers["__dlq.errors.message"].decode()
    assert len(letters) == len(bad)
    for topic, key, value, reason in bad:
        raw, why = letters[topic, None if key is None else key.encode()]
        assert orjson.loads(raw) == value
        assert why.endswith(reason)
    reasons = [
        event["data"]["reason"] for event in await pipeline.read("events") if event["type"] == "task:dead-lettered"
    ]
    assert sorted(reasons) == sorted(why for _, why in letters.values())
