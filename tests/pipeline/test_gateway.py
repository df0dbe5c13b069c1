"""Agents that dial in, on the embedded broker: two workers, an agent in a process of its own that knows the field tables only."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from schemas.partitioning import owner_partition
from streams.broker.embedded import EmbeddedBroker
from tests.support.pipeline import WIDE, Pipeline, pipeline_on
from tests.support.rig import ROOT, Process, start_worker
from tests.support.wait import until
from tests.support.written import calls_of

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(180)]
PARTITIONS = 4
FRESH = {"metadata": {"cache": False}}


@pytest.fixture
async def pipeline(embedded: EmbeddedBroker, prefix: str) -> AsyncIterator[Pipeline]:
    """Topics of its own."""
    async with pipeline_on(embedded.bootstrap_servers, prefix, PARTITIONS) as made:
        yield made


async def worker(pipeline: Pipeline, name: str, env: dict[str, str] | None = None) -> tuple[Process, dict[str, Any]]:
    """One worker and its addresses."""
    options = ("--roles", "dispatch", "--instance-id", name, "--session-timeout", "6s", "-o", "json")
    process = await asyncio.to_thread(
        start_worker, pipeline.bootstrap, pipeline.prefix, *options, env=env or {}, wait=False
    )
    pipeline.workers.append(process)
    return process, orjson.loads(await asyncio.to_thread(process.line, 90))


@contextmanager
def dialled(name: str, *gateways: str, log: Path | None = None, **options: Any) -> Iterator[Process]:
    """Somebody else's agent, connected."""
    words = [sys.executable, "-u", str(ROOT / "tests/support/dialled_agent.py"), "--id", name]
    for gateway in gateways:
        words += ["--gateway", gateway]
    for option, value in options.items():
        words += [f"--{option.replace('_', '-')}", str(value)]
    if log is not None:
        words += ["--log", str(log)]
    agent = Process(words)
    try:
        yield agent
    finally:
        agent.kill()


async def said(agent: Process) -> list[str]:
    """Its next line, in words."""
    return (await asyncio.to_thread(agent.line, 30)).split()


async def partitions_of(pipeline: Pipeline, web: str) -> set[int]:
    """The partitions a worker owns."""
    pipeline.web = web
    _, rows = await pipeline.get("/api/v1/partitions")
    return {row["partition"] for row in rows}


async def settled(pipeline: Pipeline, *webs: str) -> list[set[int]]:
    """Wait until the workers own all partitions between them, each some."""
    found: list[set[int]] = []

    async def shared() -> bool:
        found[:] = [await partitions_of(pipeline, web) for web in webs]
        return all(found) and sum(len(part) for part in found) == PARTITIONS

    await until(shared, 60, lambda: found)
    return found


def living_in(partitions: set[int], stem: str) -> str:
    """An agent id whose partition is one of these."""
    return next(name for name in (f"{stem}{n}" for n in range(1000)) if owner_partition(name, PARTITIONS) in partitions)


async def test_agent_is_called_through_the_worker_it_dialled_whoever_owns_its_partition(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """Registered by dialling in; one agent's owner partition is with its worker, the other's is not; both answer, once each."""
    first, at_first = await worker(pipeline, "w1")
    second, at_second = await worker(pipeline, "w2")
    partitions, _ = await settled(pipeline, at_first["web"], at_second["web"])
    here, there = living_in(partitions, "here"), living_in(set(range(PARTITIONS)) - partitions, "there")
    logs = {name: tmp_path / name for name in (here, there)}
    with (
        dialled(here, at_first["grpc"], log=logs[here], capability="look") as one,
        dialled(there, at_first["grpc"], log=logs[there]) as other,
    ):
        assert [(await said(agent))[0] for agent in (one, other)] == ["connected", "connected"]
        payload = {"task": "sum it", "data": {"n": [1, 2]}}
        await pipeline.tasks(range(40), [here, there], payload=payload, **FRESH)
        await pipeline.send("tasks", [(None, {"id": "any", "type": "agent", "capabilities": ["look"], "payload": {}})])
        results = await pipeline.results([*(f"t{n}" for n in range(40)), "any"])
        pipeline.web = at_first["web"]
        _, metrics = await pipeline.get("/metrics")
        assert 'parallax_gateway_agents{status="healthy"} 2.0' in metrics
        assert 'parallax_gateway_messages_total{kind="answered"} 41.0' in metrics
    assert {result["status"] for result in results.values()} == {"success"}, results
    assert results["any"]["agentId"] == here
    assert results["t1"]["result"] == {"did": "sum it", "data": {"n": [1.0, 2.0]}}
    assert results["t1"]["agentId"] == there
    assert len(calls_of(logs[there])) == 20
    assert {call["ended"] for name in logs for call in calls_of(logs[name])} == {"answered"}
    wanted = {("agent:registered", here), ("agent:healthy", here), ("agent:unhealthy", there)}

    async def published() -> bool:
        return wanted <= {(event["type"], event["data"].get("agentId")) for event in await pipeline.read("events")}

    await until(published)  # the partition of `there` hears by its record that it is gone
    for process in (first, second):
        assert await asyncio.to_thread(process.stop) == 0


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_no_task_is_lost_with_the_worker_that_holds_the_stream(
    pipeline: Pipeline, tmp_path: Path, how: str
) -> None:
    """While calls are under way: the agent dials in elsewhere, and every task ends well, without its circuit opening."""
    first, at_first = await worker(pipeline, "w1")
    second, at_second = await worker(pipeline, "w2")
    partitions, _ = await settled(pipeline, at_first["web"], at_second["web"])
    name, log = living_in(partitions, "a"), tmp_path / "calls"
    await pipeline.register({"id": name, "endpoint": f"gateway://{name}", "limits": WIDE})  # kept when it dials in
    held = 30 if how == "killed" else 0  # between two waves of calls, a kill would cut none off
    with dialled(name, at_second["grpc"], at_first["grpc"], log=log, delay_ms=150, hold_call=held) as agent:
        _, node, _ = await said(agent)
        await pipeline.tasks(range(150), [name], **FRESH)
        if how == "killed":
            assert await said(agent) == ["holding"]
            second.kill()
        else:
            await until(lambda: len(calls_of(log)) >= 30, 60)
            assert await asyncio.to_thread(second.stop) == 0
        assert await said(agent) != ["connected", node, at_second["grpc"]]
        results = await pipeline.results([f"t{n}" for n in range(150)], 90)
    assert {result["status"] for result in results.values()} == {"success"}, results
    felt = [call for call in calls_of(log) if call["ended"] == "cancelled"]
    assert bool(felt) == (how == "killed"), "a kill cuts calls off, a stop lets them end"
    assert {call["node"] for call in felt} <= {node}
    assert {call["node"] for call in calls_of(log)} > {node}
    told = await pipeline.read("events")
    assert not any(event["type"] == "circuit:open" for event in told)
    assert await asyncio.to_thread(first.stop) == 0
    # It was there, then it was not, or another worker had it before anybody could miss it; nothing is told twice.
    news = [event["type"] for event in told if event["type"] in ("agent:healthy", "agent:unhealthy")]
    assert news in (["agent:healthy"], ["agent:healthy", "agent:unhealthy", "agent:healthy"]), told
