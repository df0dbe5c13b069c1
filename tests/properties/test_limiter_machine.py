"""The sliding window against the plain list of all calls."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agents_io.calling.rules import limiter
from agents_io.calling.rules.limiter import SlidingWindow
from tests.support.agents import NaiveWindow, most_in_any_window

quarters = st.integers(0, 40).map(lambda n: n / 4)


def known_before(begun: list[float], count: int) -> list[float]:
    """All but the youngest `count`."""
    return sorted(begun)[: len(begun) - count]


class WindowMachine(RuleBasedStateMachine):
    """Exact mode: limits below the number of entries kept."""

    @initialize(limit=st.integers(1, 6), window=st.sampled_from([1.0, 5.0, 8.5]), late=st.sampled_from([0.0, 0.5, 2.0]))
    def begin(self, limit: int, window: float, late: float) -> None:
        self.now = 0.0
        self.limiter = SlidingWindow(limit, window, late)
        self.model = NaiveWindow(limit, window, late)
        self.running: list[float] = []
        self.arrived: list[tuple[float, float]] = []

    @rule(step=quarters)
    def sleep(self, step: float) -> None:
        self.now += step

    @rule()
    def sleep_until_available(self) -> None:
        self.now = self.limiter.available_at(self.now)
        assert self.model.free(self.now)

    @rule()
    def acquire(self) -> None:
        free = self.model.free(self.now)
        assert self.limiter.try_acquire(self.now) == free
        if free:
            self.model.begin(self.now)
            self.running.append(self.now)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 5))
    def end(self, which: int) -> None:
        began = self.running.pop(which % len(self.running))
        self.limiter.settle(began, self.now)
        self.model.end(began, self.now)
        self.arrived.append((began, min(self.now, began + self.model.late_s)))

    @rule(length=quarters)
    def pause(self, length: float) -> None:
        self.limiter.pause_until(self.now + length)
        self.model.pause = max(self.model.pause, self.now + length)

    @rule()
    def move(self) -> None:
        """To another worker and back; calls may become up to a millisecond younger, never older."""
        paused, snapshot = self.limiter.paused_until > self.now, self.limiter.snapshot(self.now)
        self.limiter = SlidingWindow.restore(
            self.limiter.max_requests, self.limiter.window_s, snapshot, self.now, self.model.late_s
        )
        for began in self.running:  # the old owner's calls: they count from now, and their ends are heard of no more
            self.model.end(began, self.now)
        self.running.clear()
        if paused:
            assert self.limiter.paused_until >= self.model.pause
            self.model.pause = self.limiter.paused_until
        kept = sorted(self.now - age_ms / 1000 for age_ms, count in snapshot["log"] for _ in range(count))
        known = sorted(self.model.begun)[-len(kept) :] if kept else []
        assert all(0 <= new - old < 0.00101 for new, old in zip(kept, known, strict=True))
        self.model.begun = known_before(self.model.begun, len(kept)) + kept

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "limiter"):
            assert self.limiter.available_at(self.now) == self.model.next_free(self.now)
            assert most_in_any_window(self.model.begun, self.model.window_s) <= self.model.limit
            for latest in (False, True):  # as the agent sees it, wherever between begin and end a call arrived
                seen = [times[latest] for times in self.arrived]
                assert most_in_any_window(seen, self.model.window_s) <= self.model.limit


TestWindow = WindowMachine.TestCase
TestWindow.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


@given(steps=st.lists(st.floats(0, 0.4), min_size=20, max_size=400), limit=st.integers(9, 60))
@settings(max_examples=100, deadline=None)
def test_large_limit_is_never_exceeded_and_late_by_at_most_a_grain(steps: list[float], limit: int) -> None:
    """With shared entries: no window holds more than the limit, memory stays bounded, slots come back in time."""
    window_s, entries = 4.0, 8
    now = 0.0
    begun: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limiter, "MAX_ENTRIES", entries)
        window = SlidingWindow(limit, window_s)
        for step in steps:
            now += step
            if window.try_acquire(now):
                begun.append(now)
            else:
                exact = sorted(begun)[-limit] + window_s
                assert now < exact + window_s / entries + 1e-9
            assert len(window.snapshot(now)["log"]) <= entries + 2
    assert most_in_any_window(begun, window_s) <= limit


@given(steps=st.lists(st.floats(0, 2), min_size=1, max_size=300), limit=st.integers(1, 300))
@settings(max_examples=100, deadline=None)
def test_restored_window_is_never_more_permissive(steps: list[float], limit: int) -> None:
    """Whatever the snapshot rounds off, it rounds towards fewer calls, and it stays small."""
    now = 0.0
    window = SlidingWindow(limit, 60.0)
    for step in steps:
        now += step
        window.try_acquire(now)
    snapshot = window.snapshot(now)
    assert len(snapshot["log"]) <= limiter.SNAPSHOT_ENTRIES
    restored = SlidingWindow.restore(limit, 60.0, snapshot, now)
    for later in (now, now + 10, now + 59.9):
        assert restored.used(later) >= window.used(later)
    assert restored.used(now + 60.001) == 0
