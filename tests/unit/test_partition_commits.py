"""What a partition commits with what, and when; and what happens when a commit fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from aiokafka.structs import TopicPartition

from streams.engine import partition_processor as module
from streams.engine.commit import CommitFailed
from streams.engine.kept_offsets import KeptOffsets
from streams.rules.engine import ledger, offset_map
from streams.rules.engine.pacing import FULL_BATCH
from streams.rules.records import Output
from tests.support.partition_rig import TASKS, MakeRig, PartitionRig, keys, out
from tests.support.partition_rig import rig as rig
from tests.support.wait import settle, until

pytestmark = pytest.mark.virtual_time


async def test_outputs_go_with_the_offsets_of_their_records(rig: MakeRig) -> None:
    """Every commit covers exactly the records whose outputs went with it or before: never an offset without its output."""
    one = rig().open(10)
    one.track(*range(10, 30))
    for offset in (12, 10, 11, 29, *range(13, 29)):
        one.partition.complete("tasks", offset, [out(str(offset))])
        await settle(offset % 3)
    await until(lambda: one.committer.last() == (30, ""))
    done: set[int] = set()
    for outputs, offsets in one.committer.commits:
        done |= {int(key) for key in keys(outputs)}
        head, text = offsets[TASKS].offset, offsets[TASKS].metadata
        covered = set(range(10, head))
        for first, last in offset_map.decode("t.tasks", 0, head, text):
            covered |= set(range(first, last + 1))
        assert covered == done
    written = [int(key) for outputs, _ in one.committer.commits for key in keys(outputs)]
    assert sorted(written) == list(range(10, 30))


async def test_what_was_taken_over_goes_with_the_first_commit_and_the_count(rig: MakeRig) -> None:
    """Once; a partition that was open under this count already commits nothing for it."""
    kept = KeptOffsets("g", "state", lambda: 0)
    one = rig()
    one.partition.kept = kept
    one.partition.remember([8, 16], True, [Output("state", b"old", b"x", partition=0)])
    one.open()
    await until(lambda: one.committer.commits)
    one.track(0)
    one.partition.complete("tasks", 0, [out("a")])
    await until(lambda: len(one.committer.commits) == 2)
    first, second = (outputs for outputs, _ in one.committer.commits)
    assert keys(first) == ["old", "g/heads"]
    assert keys(second) == ["a", "g/heads"]
    assert [kept.counts([outputs[-1].value or b""]) for outputs in (first, second)] == [[8, 16], [8, 16]]
    for is_new, written in ((True, [["g/heads"]]), (False, [])):
        again = rig()
        again.partition.kept = kept
        again.partition.remember([8, 16], is_new, [])
        again.open()
        await settle(50)
        assert [keys(outputs) for outputs, _ in again.committer.commits] == written


async def test_records_of_several_topics_go_into_one_commit(rig: MakeRig) -> None:
    """What finished in one turn of the loop is one commit, with the offset of each topic that moved and no other."""
    one = rig().open()
    one.track(0)
    one.track(0, source="dispatch")
    one.partition.complete("tasks", 0, [out("a")])
    one.partition.complete("dispatch", 0, [out("b")])
    await until(lambda: one.committer.commits)
    await settle()
    [(outputs, offsets)] = one.committer.commits
    assert keys(outputs) == ["a", "b"]
    assert {tp.topic: position.offset for tp, position in offsets.items()} == {"t.tasks": 1, "t.dispatch": 1}
    one.track(1, source="dispatch")
    one.partition.complete("dispatch", 1, [])
    await until(lambda: len(one.committer.commits) == 2)
    assert list(one.committer.commits[1][1]) == [TopicPartition("t.dispatch", 0)]


async def test_what_finishes_during_a_commit_goes_with_the_next(rig: MakeRig) -> None:
    """A commit under way is not changed any more."""
    one = rig().open()
    one.track(0, 1)
    one.committer.gate.clear()
    one.partition.complete("tasks", 0, [out("a")])
    await until(lambda: one.committer.attempts)
    one.partition.complete("tasks", 1, [out("b")])
    await settle()
    one.committer.gate.set()
    await until(lambda: len(one.committer.commits) == 2)
    commits = [(keys(outputs), offsets[TASKS].offset) for outputs, offsets in one.committer.commits]
    assert commits == [(["a"], 1), (["b"], 2)]


async def test_whoever_waits_for_a_commit_is_told_of_its_own_and_of_no_other(rig: MakeRig) -> None:
    """After it, not when it begins; what comes while one is under way waits for the next; also for the handler's own changes."""
    one = rig().open()
    told: list[str] = []
    one.track(0, 1)
    one.committer.gate.clear()
    one.partition.complete("tasks", 0, [out("a")])
    one.partition.afterwards(lambda: told.append("a"))
    await until(lambda: one.committer.attempts)
    one.partition.complete("tasks", 1, [out("b")])
    one.partition.afterwards(lambda: told.append(f"b after {len(one.committer.commits)}"))
    await settle()
    assert told == []
    one.committer.gate.set()
    await until(lambda: len(told) == 2)
    assert told == ["a", "b after 2"]


async def test_nobody_is_told_of_a_commit_that_failed(rig: MakeRig) -> None:
    """The next owner does it again, and tells."""
    one = rig([CommitFailed("another owner")]).open()
    told: list[str] = []
    one.track(0)
    one.partition.afterwards(lambda: told.append("a"))
    one.partition.complete("tasks", 0, [out("a")])
    await until(lambda: one.lost)
    await one.partition.drain(1)
    assert told == []


async def test_fenced_is_told_once_and_nothing_is_accepted_after(rig: MakeRig) -> None:
    """Closed, told once, later answers ignored: their epoch is over."""
    one = rig([CommitFailed("another owner")]).open()
    one.track(0, 1)
    one.partition.complete("tasks", 0, [out("a")])
    await until(lambda: one.lost)
    assert one.partition.closed
    one.partition.complete("tasks", 1, [out("b")])
    await settle()
    assert one.partition.ledgers["tasks"].in_flight == 1
    await one.partition.drain(1)
    assert [str(error) for error in one.lost] == ["another owner"]
    assert len(one.committer.attempts) == 1
    assert one.committer.commits == []


async def test_a_bug_while_committing_ends_the_processor_and_is_reported(rig: MakeRig) -> None:
    """A partition whose commits ended without a word would look ready for ever."""
    one = rig([ZeroDivisionError("a bug")]).open()
    one.track(0)
    one.partition.complete("tasks", 0, [out("a")])
    await until(lambda: one.lost)
    assert one.partition.closed
    assert "ZeroDivisionError" in str(one.lost[0])


async def test_nothing_is_committed_that_is_committed_already(rig: MakeRig) -> None:
    """Opening on what is committed, map and all, writes nothing; nor does a record that is taken and not finished."""
    one = rig().open(10, offset_map.encode("t.tasks", 0, 10, [(12, 20), (30, 31)]))
    await asyncio.sleep(0.02)
    assert one.committer.attempts == []
    one.track(10)
    await settle()
    assert one.committer.attempts == []


async def test_a_group_without_commits_says_where_it_begins(rig: MakeRig) -> None:
    """So that its lag can be seen: the first commit holds the log's beginning, of that topic alone, and it is the only one."""
    one = rig().open(7, committed=False)
    await until(lambda: one.committer.commits)
    await settle()
    assert [(outputs, list(offsets)) for outputs, offsets in one.committer.commits] == [([], [TASKS])]
    assert one.committer.last() == (7, "")


async def test_records_that_are_skipped_make_no_commit_of_their_own_at_once(
    rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They go with the next commit, or after a while; they are not in flight meanwhile."""
    monkeypatch.setattr(module, "SKIP_COMMIT_S", 1.5)
    made = rig().open()
    await settle()
    made.track(0, 1, 2)
    made.partition.skip("tasks", 0)
    made.partition.skip("tasks", 1)
    assert made.partition.ledgers["tasks"].in_flight == 1
    await settle()
    assert made.committer.last("tasks") is None
    made.partition.complete("tasks", 2, [out("r")])
    await until(lambda: made.committer.last("tasks") == (3, ""))
    made.track(3)
    made.partition.skip("tasks", 3)
    made.partition.passed({"tasks": 6})
    await settle()
    assert made.committer.last("tasks") == (3, "")
    await until(lambda: made.committer.last("tasks") == (6, ""))
    await made.partition.close()
    made.partition.skip("tasks", 4)


async def slowly_committing(rig: MakeRig) -> PartitionRig:
    """A partition that has just committed a record: the next commit comes with a full batch, else in ten minutes."""
    one = rig(interval_max_s=600.0).open()
    one.committer.pace.ended(asyncio.get_running_loop().time() - 1000.0, 100)
    await asyncio.sleep(1000.0)
    one.track(*range(FULL_BATCH + 1))
    one.partition.complete("tasks", 0, [out("first")])
    await until(lambda: one.committer.last() == (1, ""))
    return one


async def test_commits_keep_their_distance_until_a_batch_is_full(rig: MakeRig) -> None:
    """The first comes at once; the next only after a while that grows with what commits cost, or with a full batch."""
    one = await slowly_committing(rig)
    for offset in range(1, FULL_BATCH):
        one.partition.complete("tasks", offset, [])
    await settle()
    assert one.committer.last() == (1, "")
    one.partition.complete("tasks", FULL_BATCH, [])
    await until(lambda: one.committer.last() == (FULL_BATCH + 1, ""))


async def test_closing_ends_the_commit_loop_in_the_turn_in_which_a_batch_is_full(rig: MakeRig) -> None:
    """Its cancellation must not be lost to what it was waiting for: the rebalance would wait for it for ever."""
    one = await slowly_committing(rig)
    one.partition.complete("tasks", 1, [])
    await settle()
    for offset in range(2, FULL_BATCH + 1):
        one.partition.complete("tasks", offset, [])
    closing = asyncio.create_task(one.partition.close())
    await asyncio.wait([closing], timeout=5)
    assert closing.done()


async def test_what_an_unblock_finishes_is_committed_with_what_the_handler_remembers_of_it(
    rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relocated task's id is answered here from then on: if its new record came a commit later, a crash would lose it."""
    monkeypatch.setattr(ledger, "RELIEF", 0.0)
    one = rig().open()

    def unblock(source: str, offsets: Sequence[int]) -> None:
        for offset in offsets:
            one.partition.complete(source, offset, [out("moved")])
            one.handler.news.append(out("remembered"))

    monkeypatch.setattr(one.handler, "unblock", unblock)
    one.track(0, 1)
    one.partition.complete("tasks", 1, [out("answer")])
    await until(lambda: one.committer.last() == (2, ""))
    [first] = [keys(outputs) for outputs, _ in one.committer.commits if "remembered" in keys(outputs)]
    assert sorted(first) == ["answer", "moved", "remembered"]
