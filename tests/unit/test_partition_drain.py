"""A partition that goes: it waits for calls and commits under way, within bounds, and commits what they changed."""

from __future__ import annotations

import asyncio

import pytest

from streams.rules.engine import offset_map
from streams.rules.records import Output
from tests.support.partition_fakes import intake
from tests.support.partition_rig import MakeRig, keys, out
from tests.support.partition_rig import rig as rig
from tests.support.wait import settle, until

pytestmark = pytest.mark.virtual_time


async def test_drain_waits_for_what_runs_and_commits_it(rig: MakeRig) -> None:
    """Nothing new begins, the call under way ends, its outputs are committed, then everything is closed."""
    one = rig(interval_max_s=30.0).open()
    one.track(*range(10))
    one.handler.calls = 1
    one.partition.inboxes["tasks"].append(intake(99))
    for offset in range(9):
        one.partition.complete("tasks", offset, [out(str(offset))])

    async def finish() -> None:
        await asyncio.sleep(0.03)
        assert one.handler.held
        one.partition.complete("tasks", 9, [out("9")])
        one.handler.calls = 0

    finishing = asyncio.create_task(finish())
    await one.partition.drain(10.0)
    await finishing
    assert one.committer.last() == (10, "")
    assert one.partition.closed
    assert not one.partition.waiting
    assert (one.handler.closed, one.committer.closed) == (1, 1)


async def test_drain_is_bounded_by_the_handler(rig: MakeRig) -> None:
    """A call that does not end is left to the next owner; what is finished beside it is committed."""
    one = rig().open()
    one.track(0, 1)
    one.handler.calls = 1
    one.partition.complete("tasks", 1, [out("b")])
    async with asyncio.timeout(5):
        await one.partition.drain(0.05)
    head, text = one.committer.last() or (-1, "")
    assert head == 0
    assert offset_map.decode("t.tasks", 0, 0, text) == [(1, 1)]
    assert one.partition.closed


async def test_what_a_cut_off_call_changes_is_committed_last(rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls under way when the drain time is over end, and what they count for goes into one more commit."""
    one = rig().open()
    one.track(0)
    one.handler.calls = 1
    close = one.handler.close

    def cut() -> None:
        close()
        one.handler.calls = 0
        one.handler.news = [Output("state", b"guard", b"1 call")]

    monkeypatch.setattr(one.handler, "close", cut)
    await one.partition.drain(0.5)
    assert keys(one.committer.commits[-1][0]) == ["guard"]
    assert (one.handler.closed, one.partition.closed) == (1, True)


async def test_drain_commits_what_changed_without_a_record(rig: MakeRig) -> None:
    """Nothing was finished and nothing told the partition of it."""
    one = rig().open()
    await settle()
    one.handler.news = [Output("state", b"guard", b"")]
    await one.partition.drain(5.0)
    assert keys(one.committer.commits[-1][0]) == ["guard"]


async def test_drain_is_bounded_by_the_commit(rig: MakeRig) -> None:
    """A broker that does not answer keeps no worker from leaving."""
    one = rig().open()
    one.track(0)
    one.committer.gate.clear()
    one.partition.complete("tasks", 0, [out("a")])
    async with asyncio.timeout(5):
        await one.partition.drain(0.05)
    assert one.partition.closed
    assert one.committer.commits == []


async def test_drain_waits_for_a_commit_under_way(rig: MakeRig) -> None:
    """Its answer comes before the partition is closed."""
    one = rig().open()
    one.track(0)
    one.committer.gate.clear()
    one.partition.complete("tasks", 0, [out("a")])
    await until(lambda: one.committer.attempts)
    asyncio.get_running_loop().call_later(0.03, one.committer.gate.set)
    await one.partition.drain(10.0)
    assert one.committer.last() == (1, "")
