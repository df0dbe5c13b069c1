"""What a partition takes: past what earlier owners finished and past markers, as far as commits and memory can hold it."""

from __future__ import annotations

import pytest

from streams.engine import partition_processor as module
from streams.engine.partition_processor import Head
from streams.rules.engine import offset_map
from tests.support.partition_fakes import intake
from tests.support.partition_rig import MakeRig, out
from tests.support.partition_rig import rig as rig
from tests.support.wait import settle, until

pytestmark = pytest.mark.virtual_time


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


async def test_a_map_that_is_damaged_costs_redelivery_only(rig: MakeRig) -> None:
    """The head stands, everything beyond it is taken again, and the damaged text is replaced at once."""
    text = offset_map.encode("t.tasks", 0, 10, [(12, 20)])
    one = rig().open(10, text[:-6] + "AAAA==")
    assert one.partition.ledgers["tasks"].head == 10
    one.track(*range(10, 22))
    await until(lambda: one.committer.commits)
    assert one.committer.last() == (10, "")


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
