"""The lane against a naive model: same starts, same dooms, in the same order, at every moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agents_io.rules.breaker import Breaker, BreakerConfig
from agents_io.rules.agent_queue import AgentQueue, Attempt
from agents_io.rules.limiter import SlidingWindow
from tests.support.agents import NaiveBreaker, NaiveWindow, Probe, most_in_any_window

BREAKER = BreakerConfig(
    failure_threshold=2,
    reset_timeout_s=5.0,
    monitoring_period_s=10.0,
    probes=2,
    successes_to_close=2,
    probe_lease_s=4.0,
)
WINDOW_S = 6.0
# Quarters are exact in binary: model and lane compare the very same numbers.
quarters = st.integers(0, 40).map(lambda n: n / 4)


@dataclass
class Waiting:
    """An item as the model keeps it."""

    item: int
    order: tuple[int, int]
    deadline: float
    not_before: float


class LaneMachine(RuleBasedStateMachine):
    """Every rule ends with `settle`: what the lane does must be what the model says."""

    @initialize(
        concurrency=st.integers(1, 4),
        limit=st.integers(1, 5),
        depth=st.integers(1, 6),
        late=st.sampled_from([0.0, 0.25, 1.0]),
    )
    def begin(self, concurrency: int, limit: int, depth: int, late: float) -> None:
        self.now = 0.0
        self.queue: AgentQueue[int] = AgentQueue(
            concurrency, SlidingWindow(limit, WINDOW_S, late), Breaker(BREAKER), depth, max_pause_s=8.0
        )
        self.limit = limit
        self.breaker = NaiveBreaker(BREAKER)
        self.window = NaiveWindow(limit, WINDOW_S, late)
        self.begun: list[float] = []
        self.waiting: list[Waiting] = []
        self.running: list[tuple[Attempt[int], Probe]] = []
        self.left: dict[int, str] = {}
        self.pushed = 0
        self.in_order: list[str] = []

    def leave(self, item: int, how: str) -> None:
        assert item not in self.left, f"{item} left twice"
        self.left[item] = how
        self.waiting = [entry for entry in self.waiting if entry.item != item]

    def settle(self) -> tuple[list[Any], list[int]]:
        """Do what can be done now. A call that begins may leave no turn for another item, which is given up then."""
        doomed, started = self.step()
        more = bool(started)
        while more:
            found, begun = self.step()
            more = bool(found or begun)
            doomed, started = doomed + found, started + begun
        return doomed, started

    def step(self) -> tuple[list[Any], list[int]]:
        now = self.now
        horizon = max(now, self.breaker.shut_until(now), self.window.next_free(now))
        expected_doomed = {}
        for entry in self.waiting:
            if entry.deadline <= now:
                expected_doomed[entry.item] = "expired"
            elif entry.deadline <= self.breaker.shut_until(now):
                expected_doomed[entry.item] = "circuit_open"
            elif entry.deadline <= horizon:
                expected_doomed[entry.item] = "rate_limited"
        doomed = self.queue.doomed(now)
        assert dict(doomed) == expected_doomed
        assert len(doomed) == len(expected_doomed)
        for item, reason in doomed:
            self.leave(item, reason)
        starts = self.queue.poll(now)
        for start in starts:
            entry = min((e for e in self.waiting if e.not_before <= now < e.deadline), key=lambda e: e.order)
            assert start.item == entry.item
            assert len(self.running) < self.queue.max_concurrency
            assert self.window.free(now)
            probe = self.breaker.acquire(now)
            assert probe is not None
            self.window.begin(now)
            self.begun.append(now)
            self.running.append((start, probe))
            self.leave(start.item, "started")
        can = any(e.not_before <= now < e.deadline for e in self.waiting)
        if can and len(self.running) < self.queue.max_concurrency:
            assert not (self.window.free(now) and self.breaker.permits(now)), "a call could begin and did not"
        return doomed, [start.item for start in starts]

    @rule(priority=st.integers(0, 2), life=quarters, delay=st.just(0.0) | quarters, force=st.booleans())
    def push(self, priority: int, life: float, delay: float, force: bool) -> None:
        item = self.pushed
        deadline, not_before = self.now + life, self.now + delay
        fits = len(self.waiting) < self.queue.depth
        accepted = self.queue.push(
            item, now=self.now, deadline=deadline, priority=priority, not_before=not_before, force=force
        )
        assert accepted == (fits or force)
        self.pushed += 1
        if accepted:
            self.waiting.append(Waiting(item, (-priority, item), deadline, not_before))
        else:
            self.left[item] = "refused"
        self.settle()

    @precondition(lambda self: self.running)
    @rule(
        which=st.integers(0, 3),
        outcome=st.sampled_from(["success", "failure", "failure", "neutral"]),
        pause=st.none() | st.sampled_from([-1.0, 0.0, 2.0, 100.0]),
        twice=st.booleans(),
    )
    def finish(self, which: int, outcome: Any, pause: float | None, twice: bool) -> None:
        start, probe = self.running.pop(which % len(self.running))
        self.queue.finish(start, outcome, self.now, pause)
        if twice:
            self.queue.finish(start, "failure", self.now)
        self.breaker.record(probe, outcome, self.now)
        self.window.end(start.started_at, self.now)
        if pause is not None and pause > 0:
            self.window.pause = max(self.window.pause, self.now + min(pause, 8.0))
        self.settle()

    @precondition(lambda self: self.pushed)
    @rule(which=st.integers(0, 50))
    def remove(self, which: int) -> None:
        item = which % self.pushed
        waits = item not in self.left
        assert self.queue.remove(item) == waits
        if waits:
            self.leave(item, "removed")
        self.settle()

    @rule(step=quarters)
    def sleep(self, step: float) -> None:
        wakeup = self.queue.next_wakeup(self.now)
        self.now += step
        changed = self.settle()
        if wakeup is None or self.now < wakeup:
            assert changed == ([], []), f"something could be done at {self.now}, before {wakeup}"

    @rule()
    def sleep_until_woken(self) -> None:
        wakeup = self.queue.next_wakeup(self.now)
        if wakeup is None:
            assert not self.waiting
            return
        assert wakeup > self.now, "nothing more could be done now"
        self.now = wakeup
        assert self.settle() != ([], []), "woken for nothing"

    @rule(concurrency=st.integers(1, 4), depth=st.integers(1, 6))
    def reconfigure(self, concurrency: int, depth: int) -> None:
        self.queue.reconfigure(max_concurrency=concurrency, depth=depth)
        self.settle()

    @rule()
    def drain(self) -> None:
        assert self.queue.drain() == [entry.item for entry in self.waiting]
        for entry in list(self.waiting):
            self.leave(entry.item, "drained")

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "lane"):
            return
        assert self.queue.waiting == len(self.waiting)
        assert self.queue.in_flight == len(self.running)
        assert most_in_any_window(self.begun, WINDOW_S) <= self.limit
        assert (self.queue.blocked_by(self.now) is None) == (not self.waiting)
        for heap in (self.queue._ready, self.queue._delayed, self.queue._deadlines):
            assert len(heap) <= 2 * len(self.waiting) + 66

    @invariant()
    def transitions_agree(self) -> None:
        if hasattr(self, "lane"):
            kinds = {"open": "open", "half-open": "half_open", "close": "closed"}
            self.in_order += [kinds[transition.kind] for transition in self.queue.take_transitions()]
            assert self.in_order == [mode for mode, _ in self.breaker.log]

    def teardown(self) -> None:
        if hasattr(self, "lane"):
            waiting = {entry.item for entry in self.waiting}
            assert waiting | set(self.left) == set(range(self.pushed))
            assert not waiting & set(self.left)


TestLane = LaneMachine.TestCase
TestLane.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
