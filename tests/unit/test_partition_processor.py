"""One partition with a committer and a handler that are fakes: what is committed with what, and what happens when it fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

import pytest
from aiokafka.structs import TopicPartition

from streams.engine import partition_processor as module
from streams.engine.commit import CommitFailed
from streams.engine.kept_offsets import KeptOffsets
from streams.engine.partition_processor import Head, PartitionProcessor
from streams.rules.engine import ledger, offset_map
from streams.rules.engine.pacing import FULL_BATCH
from streams.rules.records import Output
from tests.support.partition_fakes import FakeCommitter, FakeHandler, intake, partitions
from tests.support.wait import settle, until

pytestmark = pytest.mark.virtual_time

TASKS = TopicPartition("t.tasks", 0)


def out(name: str, size: int = 1, fallback: Output | None = None) -> Output:
    """An output told apart by its key."""
    return Output("results", name.encode(), b"x" * size, fallback=fallback)


def keys(outputs: Iterable[Output]) -> list[str]:
    """The outputs' names."""
    return [(output.key or b"").decode() for output in outputs]


class Rig:
    """A partition and everything around it."""

    def __init__(self, script: Iterable[BaseException | None] = (), interval_max_s: float = 0.01) -> None:
        self.committer = FakeCommitter(script, interval_max_s)
        self.handler = FakeHandler()
        self.lost: list[CommitFailed] = []
        self.room = 0
        self.partition = PartitionProcessor(
            0,
            self.committer,
            partitions(),
            on_room=self._on_room,
            on_lost=lambda partition, error: self.lost.append(error),
        )

    def _on_room(self, partition: PartitionProcessor) -> None:
        self.room += 1

    def open(self, head: int = 0, text: str = "", committed: bool = True) -> Rig:
        """Open with `tasks` at `head`, the other topics at 0; all committed unless told otherwise."""
        heads = {"tasks": Head(head, text, committed), "dispatch": Head(0, "", True), "parked": Head(0, "", True)}
        self.partition.open(heads, self.handler)
        return self

    def track(self, *offsets: int, source: str = "tasks") -> None:
        """These records are in flight."""
        for offset in offsets:
            assert self.partition.ledgers[source].track(offset)


MakeRig = Callable[..., Rig]


@pytest.fixture
async def rig() -> AsyncIterator[MakeRig]:
    """Makes rigs and closes them."""
    made: list[Rig] = []

    def make(script: Iterable[BaseException | None] = (), interval_max_s: float = 0.01) -> Rig:
        made.append(Rig(script, interval_max_s))
        return made[-1]

    yield make
    for one in made:
        await one.partition.close()


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


async def test_intake_stops_when_too_many_bytes_wait_for_their_commit(
    rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large answers behind a slow commit are bounded in bytes, and room is told once they are written."""
    monkeypatch.setattr(module, "MAX_OUTPUT_BYTES", 1000)
    one = rig().open()
    one.track(0, 1)
    one.committer.gate.clear()
    one.partition.complete("tasks", 0, [out("a", 600)])
    assert not one.partition.full("tasks")
    await until(lambda: one.committer.attempts)
    one.partition.complete("tasks", 1, [out("b", 600)])
    assert one.partition.full("tasks")
    one.committer.gate.set()
    await until(lambda: len(one.committer.commits) == 2)
    assert not one.partition.full("tasks")


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
    await until(lambda: one.committer.commits or one.partition._loop_task)
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


async def test_a_map_that_is_damaged_costs_redelivery_only(rig: MakeRig) -> None:
    """The head stands, everything beyond it is taken again, and the damaged text is replaced at once."""
    text = offset_map.encode("t.tasks", 0, 10, [(12, 20)])
    one = rig().open(10, text[:-6] + "AAAA==")
    assert one.partition.ledgers["tasks"].head == 10
    one.track(*range(10, 22))
    await until(lambda: one.committer.commits)
    assert one.committer.last() == (10, "")


async def test_what_an_earlier_owner_finished_is_skipped(rig: MakeRig) -> None:
    """Offsets of the map are not taken again, and the commit passes them once what lies before is done."""
    one = rig().open(10, offset_map.encode("t.tasks", 0, 10, [(11, 12), (14, 14)]))
    ledger = one.partition.ledgers["tasks"]
    assert [offset for offset in range(10, 17) if ledger.track(offset)] == [10, 13, 15, 16]
    one.partition.complete("tasks", 10, [out("a")])
    await until(lambda: one.committer.commits)
    head, text = one.committer.last() or (-1, "")
    assert head == 13
    assert offset_map.decode("t.tasks", 0, 13, text) == [(14, 14)]
    one.partition.complete("tasks", 13, [out("b")])
    await until(lambda: (one.committer.last() or (0,))[0] == 15)


async def test_transaction_markers_are_passed(rig: MakeRig) -> None:
    """The consumer's position beyond the last record is committed, without an output; never past a record that is open."""
    one = rig().open(10)
    one.track(10)
    one.partition.passed({"tasks": 13})
    await until(lambda: one.committer.commits)
    head, text = one.committer.last() or (-1, "")
    assert (head, offset_map.decode("t.tasks", 0, 10, text)) == (10, [(11, 12)])
    one.partition.complete("tasks", 10, [out("a")])
    await until(lambda: one.committer.last() == (13, ""))
    one.partition.passed({"tasks": 13})
    one.partition.passed({"tasks": 5})
    await settle()
    assert len(one.committer.commits) == 2


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


async def test_the_engine_is_told_of_room_only_when_records_wait(rig: MakeRig) -> None:
    """A completion wakes the fetch loop if there is something to feed."""
    one = rig().open()
    one.track(0, 1)
    one.partition.complete("tasks", 0, [])
    assert one.room == 0
    one.partition.inboxes["tasks"].append(intake(2))
    one.partition.complete("tasks", 1, [])
    assert one.room == 1


async def test_full_follows_the_ledgers(rig: MakeRig) -> None:
    """Every second record open over a long stretch: the map would outgrow a commit, until the holes close."""
    one = rig().open()
    assert not one.partition.full("tasks")
    ledger = one.partition.ledgers["tasks"]
    offset = 0
    while not one.partition.full("tasks"):
        one.track(offset)
        if offset % 2:
            ledger.done(offset)
        offset += 1
        assert offset < 100_000
    assert len(offset_map.encode("t.tasks", 0, ledger.head, ledger.runs())) < offset_map.LIMIT_BYTES
    for even in range(0, offset, 2):
        ledger.done(even)
    assert not one.partition.full("tasks")


async def test_blocking_names_the_oldest_record_in_flight(rig: MakeRig) -> None:
    """What holds the commit is asked of the handler by its place; nothing in flight, nothing to say."""
    one = rig().open(10)
    assert one.partition.blocking("tasks") is None
    one.track(10, 11, 12)
    assert one.partition.blocking("tasks") == {"offset": 10, "reason": "tasks/10"}
    one.partition.complete("tasks", 10, [])
    await until(lambda: one.committer.commits)
    assert one.partition.blocking("tasks") == {"offset": 11, "reason": "tasks/11"}
    assert one.partition.blocking("parked") is None


async def test_what_holds_the_commit_far_behind_is_asked_to_move_once(rig: MakeRig) -> None:
    """Few records in flight, thousands done after them: the first ones are to end; asked again only when they have."""
    one = rig().open()
    for offset in range(40_000):
        one.track(offset)
        if offset % 40:
            one.partition.ledgers["tasks"].done(offset)
    for _ in range(3):
        one.partition.full("tasks")
    [(source, first)] = one.handler.unblocked
    assert (source, first[:3], len(first)) == ("tasks", [0, 40, 80], module.UNBLOCK_BATCH)
    for offset in first:
        one.partition.complete(source, offset, [])
    await until(lambda: one.partition.ledgers["tasks"].head == first[-1] + 40)
    one.partition.full("tasks")
    assert one.handler.unblocked[1][1][0] == first[-1] + 40


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


async def test_commits_keep_their_distance_until_a_batch_is_full(rig: MakeRig) -> None:
    """The first comes at once; the next only after a while that grows with what commits cost, or with a full batch."""
    one = rig(interval_max_s=600.0).open()
    one.committer.pace.ended(asyncio.get_running_loop().time() - 1000.0, 100)
    await asyncio.sleep(1000.0)
    one.track(*range(FULL_BATCH + 1))
    one.partition.complete("tasks", 0, [out("first")])
    await until(lambda: one.committer.last() == (1, ""))
    for offset in range(1, FULL_BATCH):
        one.partition.complete("tasks", offset, [])
    await settle()
    assert one.committer.last() == (1, "")
    one.partition.complete("tasks", FULL_BATCH, [])
    await until(lambda: one.committer.last() == (FULL_BATCH + 1, ""))


async def test_closing_ends_the_commit_loop_in_the_turn_in_which_a_batch_is_full(rig: MakeRig) -> None:
    """Its cancellation must not be lost to what it was waiting for: the rebalance would wait for it for ever."""
    one = rig(interval_max_s=600.0).open()
    one.committer.pace.ended(asyncio.get_running_loop().time() - 1000.0, 100)
    await asyncio.sleep(1000.0)
    one.track(*range(FULL_BATCH + 1))
    one.partition.complete("tasks", 0, [out("first")])
    await until(lambda: one.committer.last() == (1, ""))
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


async def test_an_owner_has_caught_up_once_all_that_was_there_before_it_was_handed_over(rig: MakeRig) -> None:
    """Records, and markers after them; while it has not, the feed looks for markers whenever nothing of it came."""
    one = rig()
    heads = {source: Head(0, "", True) for source in ("tasks", "dispatch")} | {"parked": Head(4, "", True, log_end=7)}
    one.partition.open(heads, one.handler)
    assert one.partition.caught_up("tasks")
    assert not one.partition.caught_up("parked")
    assert one.partition.behind == {"parked"}
    one.track(4, 5, source="parked")
    assert not one.partition.caught_up("parked")
    one.partition.passed({"parked": 7})
    assert one.partition.caught_up("parked")
    assert one.partition.behind == set()
