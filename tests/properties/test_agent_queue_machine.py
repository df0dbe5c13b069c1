"""An agent's queue against a naive model: same attempts, same ends, in the same order, at every moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agents_io.calling.rules.agent_queue import BUDGET_RECHECK_S, PROBE_SLACK_S, AgentQueue, Attempt
from agents_io.calling.rules.breaker import Breaker, BreakerConfig
from agents_io.calling.rules.budget import BudgetConfig, RetryBudget
from agents_io.calling.rules.limiter import SlidingWindow
from tests.support.agents import NaiveBreaker, NaiveWindow, Probe, most_in_any_window

BREAKER = BreakerConfig(
    failure_threshold=2, reset_timeout_s=5.0, monitoring_period_s=10.0, probes=2, successes_to_close=2
)
BUDGET = BudgetConfig(share=0.5, floor=1, window_s=10.0)
WINDOW_S = 6.0
NEVER = float("inf")
# Quarters are exact in binary: model and queue compare the very same numbers.
quarters = st.integers(0, 40).map(lambda n: n / 4)


@dataclass
class Waiting:
    """An item as the model keeps it. `owes`: a retry that has not drawn on the budget yet. `probes`: that failed."""

    item: int
    priority: int
    place: int
    deadline: float
    not_before: float
    timeout_s: float
    owes: bool = False
    probes: int = 0

    @property
    def order(self) -> tuple[int, int, int]:
        return self.probes, 0 if self.probes else -self.priority, self.place


class QueueMachine(RuleBasedStateMachine):
    """Every rule ends with `settle`: what the queue does must be what the model says."""

    @initialize(concurrency=st.integers(1, 4), limit=st.integers(1, 5), late=st.sampled_from([0.0, 0.25, 1.0]))
    def begin(self, concurrency: int, limit: int, late: float) -> None:
        self.now = 0.0
        self.queue: AgentQueue[int] = AgentQueue(
            max_concurrency=concurrency,
            limiter=SlidingWindow(limit, WINDOW_S, late),
            breaker=Breaker(BREAKER),
            budget=RetryBudget(BUDGET),
            max_pause_s=8.0,
        )
        self.limit = limit
        self.breaker = NaiveBreaker(BREAKER)
        self.window = NaiveWindow(limit, WINDOW_S, late)
        self.budget = RetryBudget(BUDGET)  # it has its own test against a log
        self.deferred = False
        self.begun: list[float] = []
        self.waiting: list[Waiting] = []
        self.running: list[tuple[Attempt[int], Probe, Waiting]] = []
        self.left: dict[int, str] = {}
        self.pushed = self.places = 0
        self.in_order: list[str] = []

    def leave(self, item: int, how: str) -> None:
        assert item not in self.left, f"{item} left twice"
        self.left[item] = how
        self.waiting = [entry for entry in self.waiting if entry.item != item]

    def draw(self) -> None:
        """Retries whose backoff is over draw on the budget, unless the circuit keeps them from the agent anyway."""
        self.deferred = False
        for entry in sorted(self.waiting, key=lambda e: (e.not_before, e.place)):
            if not entry.owes or entry.not_before > self.now:
                continue
            if self.breaker.mode == "closed" and not self.budget.spend(self.now):
                entry.not_before = self.now + BUDGET_RECHECK_S
                self.deferred = True
            else:
                entry.owes = False

    def due(self) -> list[Waiting]:
        return [e for e in self.waiting if e.not_before <= self.now < e.deadline and not e.owes]

    def settle(self) -> tuple[list[Any], list[int]]:
        """Do what can be done now. A call that begins may leave no turn for another item, which is given up then."""
        expired, started = self.step()
        more = bool(started)
        while more:
            found, begun = self.step()
            more = bool(found or begun)
            expired, started = expired + found, started + begun
        return expired, started

    def step(self) -> tuple[list[Any], list[int]]:
        now = self.now
        shut, full = self.breaker.shut_until(now), self.window.next_free(now)
        reason = "circuit_open" if shut >= full else "retry_after" if self.window.pause >= full else "rate_limited"
        expected = {
            entry.item: None if entry.deadline <= now else reason
            for entry in self.waiting
            if entry.deadline <= max(now, shut, full)
        }
        expired = self.queue.expired(now)
        assert dict(expired) == expected
        assert len(expired) == len(expected)
        for item, block in expired:
            self.leave(item, f"expired: {block}")
        attempts = self.queue.poll(now)
        if len(self.running) < self.queue.max_concurrency:
            self.draw()
        for attempt in attempts:
            entry = min(self.due(), key=lambda e: e.order)
            assert attempt.item == entry.item
            assert (attempt.place, attempt.failed_probes) == (entry.place, entry.probes)
            left_s = entry.deadline - now
            assert (attempt.timeout_s, attempt.cut) == (min(entry.timeout_s, left_s), left_s < entry.timeout_s)
            assert len(self.running) < self.queue.max_concurrency
            assert self.window.free(now)
            probe = self.breaker.acquire(now, entry.timeout_s + PROBE_SLACK_S)
            assert probe is not None
            assert attempt.permit.probe == (self.breaker.mode == "half_open")
            self.window.begin(now)
            self.begun.append(now)
            self.running.append((attempt, probe, entry))
            self.leave(attempt.item, "started")
        if self.due() and len(self.running) < self.queue.max_concurrency:
            assert not (self.window.free(now) and self.breaker.permits(now)), "a call could begin and did not"
        return expired, [attempt.item for attempt in attempts]

    @rule(
        priority=st.integers(0, 2),
        life=st.none() | quarters,
        delay=st.just(0.0) | quarters,
        timeout=st.sampled_from([0.5, 3.0, 20.0]),
    )
    def push(self, priority: int, life: float | None, delay: float, timeout: float) -> None:
        deadline = NEVER if life is None else self.now + life
        not_before = self.now + delay
        item = self.pushed
        self.pushed += 1
        self.queue.push(
            item, now=self.now, deadline=deadline, timeout_s=timeout, priority=priority, not_before=not_before
        )
        self.places += 1
        self.waiting.append(Waiting(item, priority, self.places, deadline, not_before, timeout))
        self.settle()

    @precondition(lambda self: self.running)
    @rule(
        which=st.integers(0, 3),
        outcome=st.sampled_from(["success", "failure", "failure", "neutral"]),
        pause=st.none() | st.sampled_from([-1.0, 0.0, 2.0, 100.0]),
        twice=st.booleans(),
        again=st.none() | quarters,
        draws=st.booleans(),
    )
    def finish(
        self, which: int, outcome: Any, pause: float | None, twice: bool, again: float | None, draws: bool
    ) -> None:
        """A call ends. `again`: another attempt follows after so long, at the item's old place."""
        attempt, probe, entry = self.running.pop(which % len(self.running))
        self.queue.finish(attempt, outcome, self.now, pause)
        if twice:
            self.queue.finish(attempt, "failure", self.now)
        self.breaker.record(probe, outcome, self.now)
        if self.breaker.mode == "closed":
            for one in self.waiting:
                one.probes = 0
        self.window.end(attempt.started_at, self.now)
        if pause is not None and pause > 0:
            self.window.pause = max(self.window.pause, self.now + min(pause, 8.0))
        if again is not None:
            entry.not_before, entry.owes = self.now + again, draws
            failed_probes = attempt.failed_probes + 1 if attempt.permit.probe and outcome == "failure" else 0
            entry.probes = 0 if self.breaker.mode == "closed" else failed_probes
            self.queue.push(
                entry.item,
                now=self.now,
                deadline=entry.deadline,
                timeout_s=entry.timeout_s,
                priority=entry.priority,
                not_before=entry.not_before,
                retry=draws,
                place=attempt.place,
                failed_probes=failed_probes,
            )
            del self.left[entry.item]
            self.waiting.append(entry)
        self.settle()

    @rule()
    def first_call_elsewhere(self) -> None:
        """What fills the budget; the caller counts it, not the queue."""
        self.queue.budget.first(self.now)
        self.budget.first(self.now)
        self.settle()

    @precondition(lambda self: self.pushed)
    @rule(which=st.integers(0, 50))
    def remove(self, which: int) -> None:
        item = which % self.pushed
        waits = item not in self.left
        assert self.queue.holds(item) == waits
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
        if wakeup == NEVER:
            assert len(self.running) >= self.queue.max_concurrency
            assert all(entry.deadline == NEVER for entry in self.waiting)
            return
        self.now = wakeup
        assert self.settle() != ([], []) or self.deferred, "woken for nothing"

    @rule(concurrency=st.integers(1, 4))
    def reconfigure(self, concurrency: int) -> None:
        self.queue.reconfigure(max_concurrency=concurrency)
        self.settle()

    @rule()
    def drain(self) -> None:
        assert self.queue.drain() == [entry.item for entry in sorted(self.waiting, key=lambda e: e.place)]
        for entry in list(self.waiting):
            self.leave(entry.item, "drained")

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "queue"):
            return
        assert self.queue.waiting == len(self.waiting)
        assert self.queue.in_flight == len(self.running)
        assert most_in_any_window(self.begun, WINDOW_S) <= self.limit
        assert (self.queue.blocked_by(self.now) is None) == (not self.waiting)
        if self.waiting:
            self.draw()  # being asked what blocks it the queue looks at what is due
        assert self.queue.kept <= 4 * (2 * len(self.waiting) + 66)

    @invariant()
    def transitions_agree(self) -> None:
        if hasattr(self, "queue"):
            kinds = {"open": "open", "half-open": "half_open", "close": "closed"}
            self.in_order += [kinds[transition.kind] for transition in self.queue.take_transitions()]
            assert self.in_order == [mode for mode, _ in self.breaker.log]

    def teardown(self) -> None:
        if hasattr(self, "queue"):
            waiting = {entry.item for entry in self.waiting}
            assert waiting | set(self.left) == set(range(self.pushed))
            assert not waiting & set(self.left)


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
