"""Where a coordinator begins that has committed nothing: after old results, unless a plan is remembered that may wait for one."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from prometheus_client import CollectorRegistry

from schemas.partitioning import owner_partition
from schemas.times import format_time
from streams.broker.embedded import EmbeddedBroker
from streams.broker.topics_admin import apply
from streams.engine.partition_processor import PartitionProcessor
from streams.plans.role import PlansRole
from streams.role import RoleParts
from streams.rules.plans.records import PlanRecorder
from streams.rules.plans.run import PlanRun
from streams.rules.plans.templates import read_plan
from streams.settings import Settings
from tests.support.plans import plan, task
from tests.support.rig import Tap
from tests.support.wait import until

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(90)]
OLD = 60


def _result(plan_id: str | None, name: str) -> bytes:
    wire = {"taskId": name, "status": "success", "result": "old", "executionTime": 1, "retries": 0, "cached": False,
            "timestamp": "2027-01-15T08:00:00.000Z", "metadata": {}}  # fmt: skip
    return json.dumps(wire if plan_id is None else wire | {"planId": plan_id}).encode()


async def _send(broker: str, records: list[tuple[str, bytes, bytes]]) -> None:
    """One by one: this broker tells a log's end as that of its last batch's first record."""
    async with AIOKafkaProducer(bootstrap_servers=broker) as producer:
        for topic, key, value in records:
            await producer.send_and_wait(topic, value, key=key)


class _Run:
    """A coordinator in this process, and how many results it skipped as none of its plans'."""

    def __init__(self, broker: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings = Settings(bootstrap_servers=broker, topic_prefix=prefix, app_id=prefix.rstrip("."))
        self.skipped = 0
        skip = PartitionProcessor.skip

        def counted(partition: PartitionProcessor, source: str, offset: int) -> None:
            self.skipped += source == "results"
            skip(partition, source, offset)

        monkeypatch.setattr(PartitionProcessor, "skip", counted)

    async def start(self, stack: AsyncExitStack) -> Any:
        """Until it is ready."""
        role = PlansRole(
            RoleParts(
                settings=self.settings, registry=CollectorRegistry(), transactional=False, partitions=4, size_limits={}
            )
        )
        await role.start(stack)
        await asyncio.wait_for(role.wait_ready(), 60)
        return role.coordination


async def test_a_first_start_passes_the_old_results_and_its_plans_get_theirs(
    embedded: EmbeddedBroker, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long log of others' results is not read; a plan that lay there already begins, and is answered by what comes after."""
    broker = embedded.bootstrap_servers
    run = _Run(broker, prefix, monkeypatch)
    await apply(run.settings, 4)
    old = [(f"{prefix}results", f"t{n}".encode(), _result(None, f"t{n}")) for n in range(OLD)]
    await _send(broker, [*old, (f"{prefix}plans", b"p", json.dumps(plan("a")).encode())])
    async with AsyncExitStack() as stack:
        role = await run.start(stack)
        await until(lambda: role.view("p") is not None, 20)
        await _send(broker, [(f"{prefix}results", b"p", _result("p", "p#0"))])
        await until(lambda: isinstance(role.view("p"), bytes), 20)
        assert json.loads(role.view("p"))["status"] == "success"
    assert run.skipped == 0, "read from the beginning"


async def test_a_plan_that_is_remembered_finds_the_results_it_waits_for(
    embedded: EmbeddedBroker, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offsets expire when a group is away for long; the plan's memory does not, and its step ended meanwhile."""
    broker = embedded.bootstrap_servers
    run = _Run(broker, prefix, monkeypatch)
    await apply(run.settings, 4)
    now_ms = time.time_ns() // 1_000_000
    data = plan(task("a"), timeout=600_000)
    recorder = PlanRecorder(run.settings.app_id, prefix, "group")
    begun = recorder.begun(
        PlanRun(plan=read_plan(data), accepted_ms=now_ms, templates={}),
        json.dumps(data).encode(),
        {},
        (owner_partition("p", 4), 0),
        owner_partition("p", 4), now_ms
    )  # fmt: skip
    assert begun.value is not None
    assert format_time(now_ms).encode() in begun.value
    async with AIOKafkaProducer(bootstrap_servers=broker) as producer:
        await producer.send_and_wait(f"{prefix}plan-state", begun.value, key=begun.key, partition=begun.partition)
    old = [(f"{prefix}results", f"t{n}".encode(), _result(None, f"t{n}")) for n in range(OLD)]
    await _send(broker, [*old, (f"{prefix}results", b"p", _result("p", "p#0"))])
    tap = await asyncio.to_thread(Tap, broker, f"{prefix}plan-results")
    async with AsyncExitStack() as stack:
        await run.start(stack)
        [found] = await asyncio.to_thread(tap.until, 1, 30)
    await asyncio.to_thread(tap.close)
    result = json.loads(found.value())
    assert (result["planId"], result["status"], result["results"][0]["result"]) == ("p", "success", "old")
    assert 0 < run.skipped < OLD / 2, "its own partition from the beginning, the others from their ends"
