"""Tasks that wait on their topic, as places: nothing is lost; each comes in its turn, at its deadline or when it is wanted."""

from __future__ import annotations

import sys
from array import array

from streams.rules.dispatch.backlog import Backlog, BacklogEntry, id_hash
from tests.support.memory import held

NEVER = float("inf")


def waiting(offset: int, **fields: object) -> BacklogEntry:
    """A task without a deadline whose order is its offset."""
    found = {"source": "tasks", "offset": offset, "order": float(offset), "priority": 0, "deadline": NEVER}
    return BacklogEntry(**{**found, "task_hash": offset, **fields})  # type: ignore[arg-type]


def offsets(tasks: list[BacklogEntry]) -> list[int]:
    """Of these records."""
    return [task.offset for task in tasks]


def test_what_is_put_in_comes_out_unchanged() -> None:
    """Every field of it, whichever way it leaves."""
    tasks = [
        waiting(1, source="tasks", deadline=5.0, task_hash=2**64 - 1),
        waiting(2**62, source="parked", order=-1.5, priority=-7),
        waiting(0, source="dispatch", priority=2**40, task_hash=0),
    ]
    for leave in (
        lambda backlog, task: backlog.take_records(task.source, frozenset((task.offset,))),
        lambda backlog, task: backlog.take_tasks({task.task_hash}),
    ):
        backlog = Backlog()
        for task in tasks:
            backlog.add(task)
        assert [leave(backlog, task) for task in tasks] == [[task] for task in tasks]
        assert (len(backlog), backlog.highest_priority(), backlog.take(9)) == (0, None, [])


def test_the_same_offset_on_two_topics_is_two_tasks() -> None:
    """Only the one meant is taken out."""
    backlog = Backlog()
    for source in ("tasks", "parked"):
        backlog.add(waiting(7, source=source))
    assert not backlog.holds("dispatch", 7)
    assert backlog.take_records("dispatch", frozenset((7,))) == []
    assert [task.source for task in backlog.take_records("parked", frozenset((7, 8)))] == ["parked"]
    assert (backlog.holds("tasks", 7), backlog.holds("parked", 7)) == (True, False)


def test_one_that_comes_late_takes_its_place_by_its_order() -> None:
    """A record that was moved to the end of another topic keeps its turn; equal ones come by arrival."""
    backlog = Backlog()
    for offset in (5, 6, 7):
        backlog.add(waiting(offset))
    backlog.add(waiting(100, source="parked", order=5.5))
    backlog.add(waiting(101, source="parked", order=6.0))
    backlog.add(waiting(102, source="parked", order=1.0))
    assert offsets(backlog.take(9)) == [102, 5, 100, 6, 101, 7]


def test_deadlines_in_any_order_are_each_found_once() -> None:
    """Also after those that had the earliest ones left in another way."""
    backlog = Backlog()
    for offset, deadline in ((1, 30.0), (2, 10.0), (3, NEVER), (4, 20.0), (5, 10.0)):
        backlog.add(waiting(offset, deadline=deadline, priority=offset % 2))
    assert backlog.take_expired(9.9) == []
    assert sorted(offsets(backlog.take_expired(10.0))) == [2, 5]
    assert backlog.take_expired(10.0) == []
    assert offsets(backlog.take_tasks({4})) == [4]
    assert backlog.take_expired(29.0) == []
    backlog.add(waiting(6, deadline=29.5))
    assert sorted(offsets(backlog.take_expired(31.0))) == [1, 6]
    assert backlog.take_expired(1e12) == []
    assert offsets(backlog.take(9)) == [3]


def test_a_long_backlog_keeps_its_order_and_little_memory() -> None:
    """A hundred thousand in, in pieces out, and in again; what was taken out is let go of."""
    backlog = Backlog()
    for offset in range(100_000):
        backlog.add(waiting(offset))
    taken: list[int] = []
    for number in range(0, 99_000, 250):
        taken += offsets(backlog.take(250))
        backlog.add(waiting(200_000 + number))
    assert taken == list(range(99_000))
    assert sum(map(sys.getsizeof, held(backlog, array))) < 40 * 4 * len(backlog) + 200_000
    assert len(backlog) == 1000 + 396
    assert offsets(backlog.take(1001))[-2:] == [99_999, 200_000]


def test_a_hash_is_the_same_for_the_same_id_only() -> None:
    """As far as 64 bits go; any text has one."""
    ids = ["t", "T", "", "ü", "\ud800", "t" * 256, *map(str, range(10_000))]
    assert len({id_hash(task_id) for task_id in ids}) == len(ids)
    assert id_hash("t1") == id_hash("t1") < 2**64
