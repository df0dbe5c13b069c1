"""gRPC agents in processes of their own, built from the field tables alone, register themselves and answer tasks."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import grpc.aio
import orjson
import pytest

from agents_io.grpc.services import method
from schemas.pb import registry_pb2 as pb
from streams.broker.client import sending
from streams.broker.embedded import EmbeddedBroker
from streams.broker.topics_admin import apply
from streams.settings import Settings
from tests.support import stranger
from tests.support.pipeline import results_of
from tests.support.rig import Process, start_worker
from tests.support.wait import until

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(180)]


class Scene:
    """Topics, workers and strangers of one test."""

    def __init__(self, broker: EmbeddedBroker, prefix: str, generated: Path) -> None:
        self.settings = Settings(bootstrap_servers=broker.bootstrap_servers, topic_prefix=prefix)
        self.generated = generated
        self.processes: list[Process] = []
        self.grpc = ""

    async def worker(self) -> Process:
        """Another worker, under one instance name: this broker is slow to give up a dead member.

        `grpc` is where the newest serves its registry.
        """
        options = ("--roles", "dispatch", "--instance-id", "w1", "--session-timeout", "6s", "-o", "json")
        worker = start_worker(self.settings.bootstrap_servers, self.settings.topic_prefix, *options, wait=False)
        self.processes.append(worker)
        self.grpc = orjson.loads(await asyncio.to_thread(worker.line, 90))["grpc"]
        return worker

    async def stranger(
        self, agent_id: str, *, ttl_s: int = 60, delay_s: float = 0.0, renews: bool = True
    ) -> tuple[Process, dict[str, Any]]:
        """An agent, registered at the newest worker, and what it said when it was."""
        words = [str(self.generated), self.grpc, agent_id, str(ttl_s), str(delay_s), "renews" if renews else "silent"]
        agent = Process([sys.executable, "-u", stranger.__file__, *words])
        self.processes.append(agent)
        return agent, orjson.loads(await asyncio.to_thread(agent.line, 60))

    async def send(self, ids: Iterable[str], **fields: Any) -> None:
        """Tasks with a number in their data."""
        async with sending(self.settings) as sender:
            for n, task_id in enumerate(ids):
                task = {"id": task_id, "type": "agent", "payload": {"task": "double", "data": {"n": n}}} | fields
                await sender.send("tasks", None, orjson.dumps(task))

    async def results(self, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Wait until each task has a result."""
        rows = await results_of(self.settings.bootstrap_servers, self.settings.topic_prefix, ids)
        return {row["taskId"]: row for row in rows}

    async def renew(self, lease_id: str) -> bool:
        """One renewal, at the newest worker."""
        async with grpc.aio.insecure_channel(self.grpc) as channel:
            answer = await method(channel, pb, "Registry", "Renew")(pb.RenewRequest(lease_id=lease_id), timeout=10)
            return bool(answer.success)

    async def listed(self) -> set[str]:
        """The agents the newest worker's registry knows."""
        async with grpc.aio.insecure_channel(self.grpc) as channel:
            answer = await method(channel, pb, "Registry", "ListAgents")(pb.ListAgentsRequest(), timeout=10)
            return {agent.id for agent in answer.agents}


@pytest.fixture
async def scene(embedded: EmbeddedBroker, prefix: str, tmp_path: Path) -> AsyncIterator[Scene]:
    """Two partitions; processes a failed test left behind are killed."""
    made = Scene(embedded, prefix, await asyncio.to_thread(stranger.generate, tmp_path))
    await apply(made.settings, 2)
    yield made
    for process in made.processes:
        if process.popen.poll() is None:
            process.kill()


async def test_a_stranger_registers_itself_answers_and_leaves(scene: Scene) -> None:
    """By its id and by what it can do; once it has unregistered, tasks for it fail as `no_agent`."""
    await scene.worker()
    agent, said = await scene.stranger("doubler")
    assert said["registered"]
    ids = [f"t{n}" for n in range(20)]
    await scene.send(ids, target="doubler")
    await scene.send(["by-capability"], capabilities=["doubling"])
    found = await scene.results([*ids, "by-capability"])
    assert [found[task_id]["result"] for task_id in ids] == [{"by": "doubler", "double": n * 2} for n in range(20)]
    assert {found[task_id]["confidence"] for task_id in ids} == {0.75}
    assert found["by-capability"]["agentId"] == "doubler"
    call = orjson.loads(await asyncio.to_thread(agent.line, 10))
    assert call["description"] == "double"
    assert call["key"]["idempotency-key"] == call["task"]
    assert await asyncio.to_thread(agent.stop) == 0
    await until(lambda: _nobody(scene), 20)
    await scene.send(["late"], target="doubler")
    assert (await scene.results(["late"]))["late"]["error"]["code"] == "no_agent"


async def _nobody(scene: Scene) -> bool:
    return not await scene.listed()


async def test_tasks_taken_before_an_agent_unregisters_are_finished(scene: Scene) -> None:
    """It says goodbye while it works; its server waits for what is under way."""
    await scene.worker()
    agent, _ = await scene.stranger("slow", delay_s=2.0)
    ids = ["a", "b", "c"]
    await scene.send(ids, target="slow")
    for _ in ids:
        await asyncio.to_thread(agent.line, 30)
    assert await asyncio.to_thread(agent.stop) == 0
    found = await scene.results(ids)
    assert [found[task_id]["status"] for task_id in ids] == ["success"] * 3


async def test_a_lease_outlives_the_worker_that_granted_it_and_ends_without_renewal(scene: Scene) -> None:
    """Another worker renews it once, and ends it when nobody does; a task for that agent then finds nobody."""
    first = await scene.worker()
    _, said = await scene.stranger("silent", ttl_s=15, renews=False)
    await asyncio.to_thread(first.kill)
    await scene.worker()
    assert await scene.renew(said["lease"])
    assert await scene.listed() == {"silent"}
    await scene.stranger("lively", ttl_s=4)
    await until(lambda: _only(scene, "lively"), 60)
    await asyncio.sleep(5)  # longer than a lease: it is renewed
    assert await scene.listed() == {"lively"}
    await scene.send(["t1"], target="silent")
    await scene.send(["t2"], target="lively")
    found = await scene.results(["t1", "t2"])
    assert found["t1"]["error"]["code"] == "no_agent"
    assert found["t2"]["status"] == "success"


async def _only(scene: Scene, agent_id: str) -> bool:
    return await scene.listed() == {agent_id}
