"""The engine as a member of its group: added partitions, revocation, leaving, a new consumer, a name that two workers have."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka.errors import UnknownMemberIdError

from streams.engine import engine as engine_module
from streams.engine import growth_watch
from tests.support.consuming import HeartbeatingConsumer
from tests.support.engine_rig import TASKS, MakeRig, tps
from tests.support.engine_rig import rig as rig
from tests.support.wait import settle, until

pytestmark = pytest.mark.virtual_time


async def test_added_partitions_are_asked_for_until_they_are_dealt_out(
    rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once all topics have them, and once in a while only; the count is the leader's, not this worker's own."""
    monkeypatch.setattr(growth_watch, "CHECK_S", 0.05)
    monkeypatch.setattr(growth_watch, "PATIENCE_S", 1.0)
    one = await rig()
    asked: list[int] = []
    counts = {"t.tasks": 2, "t.dispatch": 1, "t.parked": 1}
    one.consumer.partitions_for_topic = lambda topic: set(range(counts[topic]))
    one.consumer.request_rejoin = lambda: asked.append(one.engine.partition_count)
    await one.ready()
    assert one.engine.partition_count == 1
    await asyncio.sleep(0.5)
    assert asked == []
    counts.update(dict.fromkeys(counts, 2))
    await asyncio.sleep(0.5)
    assert asked == [1]
    await asyncio.sleep(1.0)
    assert asked == [1, 1]
    assert one.engine.config.assignor.metadata(["t.tasks"]).user_data == b"\n2"
    one.engine.config.assignor.partitions = 2
    await one.consumer.assign(*tps(0, 1))
    assert one.engine.partition_count == 2
    await asyncio.sleep(2.0)
    assert asked == [1, 1]


async def test_revoke_drains_and_commits_before_it_returns(rig: MakeRig) -> None:
    """The next owner reads what is committed the moment the callback ends."""
    one = await rig()
    one.consumer.write(TASKS, 3)
    await one.ready()
    await until(lambda: len(one.taken) == 3)
    one.handler.calls = 1
    partition = one.engine.processors[0]

    def end() -> None:
        partition.complete("tasks", 0, [])
        one.handlers[0].calls = 0

    asyncio.get_running_loop().call_later(0.02, end)
    await one.consumer.revoke()
    assert one.committed() == 1
    assert one.engine.processors == {}
    assert not one.engine.assigned.is_set()
    assert one.committers[0].closed == 1
    await one.ready()
    await until(lambda: one.taken == [1, 2])


async def test_stop_drains_and_leaves(rig: MakeRig) -> None:
    """What is finished is committed, then the group is left; records not finished are nobody's loss."""
    one = await rig(commit_interval_max_s=30.0)
    one.consumer.write(TASKS, 20)
    await one.ready()
    await until(lambda: len(one.taken) == 20)
    one.finish(*range(10))
    await one.engine.stop()
    assert one.committed() == 10
    assert one.consumer.stopped == 1


async def test_a_rebalance_during_a_stop_waits_for_the_drain(rig: MakeRig) -> None:
    """Else the group gives the partitions to another worker while calls of this one still run."""
    one = await rig()
    await one.ready(0)
    one.handler.calls = 1
    stopping = asyncio.create_task(one.engine.stop())
    await until(lambda: one.handler.held)
    revoking = asyncio.create_task(one.engine.on_partitions_revoked([]))
    await settle()
    assert not revoking.done()
    one.handler.calls = 0
    await asyncio.wait_for(revoking, 5)
    await asyncio.wait_for(stopping, 5)
    assert one.handler.closed


async def test_a_consumer_that_is_given_up_is_counted(rig: MakeRig) -> None:
    """The engine goes on with another one."""
    one = await rig()
    await one.ready()
    assert one.engine.renewals == 0
    await one.engine.renew()
    await one.ready()
    assert one.engine.renewals == 1


@pytest.mark.parametrize("stays", [True, False])
async def test_of_two_workers_with_one_name_that_stays_which_has_it_in_the_first_group(
    rig: MakeRig, monkeypatch: pytest.MonkeyPatch, stays: bool
) -> None:
    """Each was replaced by the other in one of its groups: both would end."""
    first, second = await rig(), await rig(instance_id="w", consumer=HeartbeatingConsumer())
    second.engine.arbiter = first.engine
    taken = [second.consumer] if stays else [first.consumer, second.consumer]

    async def is_taken(consumer: Any) -> bool:
        return consumer in taken

    monkeypatch.setattr(engine_module, "is_taken", is_taken)
    heartbeat = asyncio.ensure_future(second.consumer.beat(UnknownMemberIdError.errno))
    failed = asyncio.ensure_future(second.engine.failed())
    await settle()
    assert failed.done() is not stays
    assert heartbeat.done() is stays, "it is held back in a worker that must not join again"
    heartbeat.cancel()
    if stays:
        failed.cancel()
    else:
        assert "--instance-id" in str(failed.exception())
        assert not await second.engine.has_name(), "it decides nothing any more"
