"""The sliding window's promises one by one."""

from __future__ import annotations

import pytest

from agents_io.calling.rules.limiter import MAX_ENTRIES, SNAPSHOT_ENTRIES, SlidingWindow
from tests.support.memory import held

pytestmark = pytest.mark.virtual_time


def test_no_double_burst_across_a_border() -> None:
    """A fixed window would let 200 through around t=60; the sliding one does not."""
    limit = SlidingWindow(100, 60.0)
    assert sum(limit.try_acquire(59.0) for _ in range(150)) == 100
    assert sum(limit.try_acquire(61.0) for _ in range(150)) == 0
    assert limit.available_at(61.0) == 119.0
    assert limit.try_acquire(119.0)


def test_a_call_counts_from_its_end_since_it_may_have_arrived_late() -> None:
    """Begun at 0 and answered at 0.4: the slot is free at 60.4; one that lasts is taken to have arrived after a second."""
    limit = SlidingWindow(2, 60.0, late_s=1.0)
    assert limit.try_acquire(0.0)
    assert limit.try_acquire(0.0)
    assert limit.available_at(0.1) == 61.0
    limit.settle(0.0, 0.4)
    assert limit.available_at(0.5) == 60.4
    limit.settle(0.0, 30.0)
    assert not limit.try_acquire(60.3)
    assert limit.try_acquire(60.4)
    assert limit.available_at(60.4) == 61.0


def test_calls_under_way_are_in_the_snapshot() -> None:
    """The next owner counts them from the moment of the snapshot; their ends, told to it, change nothing."""
    limit = SlidingWindow(2, 60.0, late_s=1.0)
    limit.try_acquire(10.0)
    limit.try_acquire(10.0)
    moved = SlidingWindow.restore(2, 60.0, limit.snapshot(10.5), 100.0, 1.0)
    moved.settle(10.0, 100.2)
    assert moved.available_at(100.2) == 160.0


def test_pause_holds_back_even_a_free_window_and_the_longest_wish_holds() -> None:
    """Retry-After 10, then Retry-After 1."""
    limit = SlidingWindow(5, 60.0)
    limit.pause_until(10.0)
    limit.pause_until(1.0)
    assert not limit.try_acquire(9.9)
    assert limit.available_at(2.0) == 10.0
    assert limit.try_acquire(10.0)


def test_full_window_and_pause_together_give_the_later_time() -> None:
    """Both must have passed."""
    limit = SlidingWindow(1, 60.0)
    limit.try_acquire(0.0)
    limit.pause_until(90.0)
    assert limit.available_at(1.0) == 90.0
    limit = SlidingWindow(1, 60.0)
    limit.try_acquire(0.0)
    limit.pause_until(30.0)
    assert limit.available_at(1.0) == 60.0


def test_smaller_limit_takes_effect_at_once() -> None:
    """With 8 calls in the window and room for 3, six must leave before the next."""
    limit = SlidingWindow(10, 60.0)
    for at in range(8):
        limit.try_acquire(float(at))
    limit.reconfigure(3, 60.0)
    assert limit.available_at(8.0) == 65.0
    assert not limit.try_acquire(64.9)
    assert limit.try_acquire(65.0)


def test_a_million_per_window_stays_small() -> None:
    """200,000 calls over two windows leave no more entries than the bound."""
    limit = SlidingWindow(1_000_000, 60.0)
    assert all(limit.try_acquire(at * 0.0006) for at in range(200_000))
    assert len(held(limit, float)) <= MAX_ENTRIES + SNAPSHOT_ENTRIES + 10


def test_snapshot_keeps_a_pause() -> None:
    """A Retry-After is not forgotten when the agent changes hands."""
    limit = SlidingWindow(5, 60.0)
    limit.pause_until(100.0)
    moved = SlidingWindow.restore(5, 60.0, limit.snapshot(40.0), 1000.0)
    assert moved.available_at(1000.0) == pytest.approx(1060.0, abs=0.002)
    assert moved.available_at(1000.0) >= 1060.0


def test_shared_entries_of_a_snapshot_are_as_young_as_their_youngest_call() -> None:
    """1,000 calls, one a second, in 63 entries: after the move none may be forgotten before its time."""
    limit = SlidingWindow(1000, 2000.0)
    for at in range(1000):
        limit.try_acquire(float(at))
    moved = SlidingWindow.restore(1000, 2000.0, limit.snapshot(1000.0), 1000.0)
    assert len(moved.snapshot(1000.0)["log"]) == 63
    assert moved.used(2000.0) == 1000
    assert moved.available_at(1000.0) == 2015.0
    assert moved.used(3000.0) == 0


@pytest.mark.parametrize(("calls", "window_s"), [(0, 60.0), (5, 0.0), (5, float("nan"))])
def test_limits_without_sense_are_refused(calls: int, window_s: float) -> None:
    """At once."""
    with pytest.raises(ValueError, match="at least 1"):
        SlidingWindow(calls, window_s)
