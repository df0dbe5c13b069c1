"""A partition that was fenced or lost its log: the engine opens it again, if it is still its own, until that is hopeless."""

from __future__ import annotations

import asyncio

import pytest

from streams.engine.commit import CommitFailed
from streams.rules.engine import starts
from tests.support.engine_rig import TASKS, MakeRig, tps
from tests.support.engine_rig import rig as rig
from tests.support.wait import settle, until

pytestmark = pytest.mark.virtual_time


async def test_a_fenced_partition_is_opened_again_from_what_is_committed(rig: MakeRig) -> None:
    """Committed work is not done again, the rest is, by a new partition with a new committer."""
    one = await rig()
    one.consumer.write(TASKS, 6)
    await one.ready()
    await until(lambda: len(one.taken) == 6)
    one.finish(0, 1, 2)
    await until(lambda: one.committed() == 3)
    one.committers[-1].script.append(CommitFailed("somebody else"))
    one.finish(3, 4)
    await until(lambda: len(one.handlers) == 2)
    assert one.handlers[0].closed
    assert one.committers[0].closed
    await until(lambda: len(one.taken) == 3 and one.engine.ready)
    assert one.taken == [3, 4, 5]
    one.finish(3, 4, 5)
    await until(lambda: one.committed() == 6)
    written = [output.key for committer in one.committers for outputs, _ in committer.commits for output in outputs]
    assert sorted(written) == [str(offset).encode() for offset in range(6)]


@pytest.mark.parametrize("how", ["commit failed", "log changed", "group moved on", "group moves on"])
async def test_what_outlasts_a_handler_without_its_last_commit_goes_to_the_next(rig: MakeRig, how: str) -> None:
    """Its agents were called, whatever was committed. After a rebalance another owner may know more."""
    one = await rig()
    one.consumer.write(TASKS, 1)
    await one.ready()
    await until(lambda: len(one.taken) == 1)
    if how == "log changed":
        one.engine.processors[0].lose("the topic was made anew")
    else:
        one.committers[-1].script.append(CommitFailed("no member", transient=True))
        one.finish(0)
    if how == "group moved on":
        await until(lambda: 0 not in one.engine.processors)
    if how.startswith("group"):
        await one.consumer.revoke()
        await settle()
        await one.ready()
    await until(lambda: len(one.handlers) == 2 and one.engine.ready)
    assert one.states == [[], [] if how.startswith("group") else [b"of 0"]]
    await one.consumer.revoke()
    await one.ready()
    assert one.states[2] == [], "the second one ended cleanly: what it did lies on the state topic"


async def test_a_fenced_processor_of_a_partition_that_went_elsewhere_stays_closed(rig: MakeRig) -> None:
    """The rebalance that follows takes the partition away: nobody opens it here."""
    one = await rig(session_timeout_s=0.2)
    await one.ready(0, 1)
    one.consumer.write(TASKS, 1)
    await until(lambda: any(handler.taken for handler in one.handlers))
    one.committers[0].script.append(CommitFailed("somebody else"))
    one.finish(0)
    await until(lambda: 0 not in one.engine.processors)
    await one.consumer.revoke()
    await one.ready(1)
    await asyncio.sleep(0.1)
    assert set(one.engine.processors) == {1}
    assert len(one.committers) == 3


async def test_a_partition_lost_during_a_rebalance_is_not_opened_twice(rig: MakeRig) -> None:
    """Its reopening wakes when the next assignment's partition is open already: that one stays, and stays unpaused."""
    one = await rig(session_timeout_s=0.4)
    await one.ready()
    old = one.engine.processors[0]
    old.lose("lost while it was revoked")
    await one.consumer.revoke()
    await one.ready()
    await asyncio.sleep(0.3)
    assert len(one.handlers) == 2
    assert not one.consumer.paused
    one.consumer.write(TASKS, 3)
    await until(lambda: one.taken == [0, 1, 2])


async def test_starts_without_a_commit_end_with_the_reason(rig: MakeRig) -> None:
    """A topic that may not be written, say: calling agents again and again for nothing must stop."""
    one = await rig()
    one.prepare = lambda committer: committer.script.extend([CommitFailed("not authorized")] * 3)
    one.consumer.write(TASKS, 1)
    await one.consumer.assign(*tps(0))
    with pytest.raises(RuntimeError, match="not authorized"):
        await asyncio.wait_for(one.engine.failed(), 10)
    assert len(one.committers) == starts.MAX_LOSSES
