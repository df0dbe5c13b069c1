"""The queue of one agent, and the limits between a waiting item and its call. Pure.

In: items with a deadline, a priority and the time one attempt may take; outcomes of calls; the time (monotonic seconds,
never going back). Out: the attempts that begin now, the items that expired, and the one time at which to ask again.

The caller asks after every push, finish, remove and timer: `expired(now)`, then `poll(now)`, then sets a timer for
`next_wakeup(now)`.

An item leaves the queue exactly once: by `poll`, `expired`, `remove` or `drain`. The queue never calls an agent, never
retries by itself and never looks inside an item. Only its deadline ends a waiting item; it waits for a closed circuit,
a free slot, a turn of the rate limit and the end of a backoff as long as that takes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from math import isinf
from typing import Generic, Literal, TypeVar

from agents_io.calling.rules.adaptive import AimdLimit
from agents_io.calling.rules.breaker import Breaker, BreakerConfig, Outcome, Permit, Transition
from agents_io.calling.rules.budget import RetryBudget
from agents_io.calling.rules.limiter import SlidingWindow
from agents_io.calling.rules.waiting_items import QueueEntry, WaitingItems

T = TypeVar("T", bound=Hashable)
Block = Literal["concurrency", "circuit_open", "rate_limited", "retry_after", "backoff"]

PROBE_SLACK_S = 5.0
"""A probe keeps its place in the half-open circuit this much longer than its attempt may take."""
BUDGET_RECHECK_S = 0.5
"""A retry that found the retry budget empty is checked again after this time."""
_NEVER = float("inf")


@dataclass(slots=True, eq=False)
class Attempt(Generic[T]):
    """One call that begins. Give it back with `AgentQueue.finish`, whatever its outcome.

    `timeout_s`: what it may take; less than the item's own timeout (`cut`) if the item's deadline comes first.
    """

    item: T
    permit: Permit
    started_at: float
    timeout_s: float
    cut: bool = False
    place: int = 0
    """The item's place in the queue; a retry that is pushed with it keeps its turn."""
    failed_probes: int = 0
    """Calls of the item that have failed as probes since the circuit opened."""
    finished: bool = False


class AgentQueue(Generic[T]):
    """One agent's queue. Items must be hashable, and distinct while they wait.

    >>> queue = AgentQueue(max_concurrency=1, limiter=SlidingWindow(100, 60.0), breaker=Breaker())
    >>> queue.push("a", now=0.0); queue.push("b", now=0.0, priority=1, deadline=30.0, timeout_s=5.0)
    >>> [attempt] = queue.poll(0.0)
    >>> attempt.item, attempt.timeout_s, queue.blocked_by(0.0), queue.next_wakeup(0.0)
    ('b', 5.0, 'concurrency', inf)
    >>> queue.finish(attempt, "success", 1.0)
    >>> [attempt.item for attempt in queue.poll(1.0)]
    ['a']
    """

    __slots__ = (
        "_has_failed_probes",
        "_in_flight",
        "_places",
        "_waiting",
        "adaptive",
        "breaker",
        "budget",
        "ended",
        "limiter",
        "max_concurrency",
        "max_pause_s",
    )

    def __init__(
        self,
        *,
        max_concurrency: int,
        limiter: SlidingWindow,
        breaker: Breaker,
        budget: RetryBudget | None = None,
        max_pause_s: float = 300.0,
    ) -> None:
        """`budget`: how many calls may be retries. `max_pause_s`: the longest Retry-After that is obeyed, seconds."""
        self.max_concurrency = max_concurrency
        self.limiter = limiter
        self.breaker = breaker
        self.budget = budget or RetryBudget()
        self.max_pause_s = max_pause_s
        self.adaptive: AimdLimit | None = None
        """The agent's concurrency as measured, if its limits are adaptive; `max_concurrency` is the ceiling."""
        self._waiting: WaitingItems[T] = WaitingItems()
        self._has_failed_probes = False
        self._in_flight = 0
        self._places = 0
        self.ended = 0
        """Calls finished so far."""

    @property
    def waiting(self) -> int:
        """Items that wait, those in backoff included."""
        return len(self._waiting.by_item)

    @property
    def kept(self) -> int:
        """Entries held in memory, also those of items that left."""
        return self._waiting.kept

    @property
    def in_flight(self) -> int:
        """Calls begun and not finished."""
        return self._in_flight

    @property
    def concurrency(self) -> int:
        """How many calls may be under way now."""
        return self.max_concurrency if self.adaptive is None else min(self.adaptive.now, self.max_concurrency)

    def reconfigure(
        self,
        *,
        max_concurrency: int | None = None,
        max_requests: int | None = None,
        window_s: float | None = None,
        breaker: BreakerConfig | None = None,
    ) -> None:
        """Change the limits at once. Calls in flight and waiting items stay, even beyond a smaller limit."""
        if max_concurrency is not None:
            self.max_concurrency = max_concurrency
            if self.adaptive is not None:
                self.adaptive.reconfigure(max_concurrency)
        if max_requests is not None or window_s is not None:
            self.limiter.reconfigure(max_requests or self.limiter.max_requests, window_s or self.limiter.window_s)
        if breaker is not None and breaker != self.breaker.config:
            self.breaker.reconfigure(breaker)

    def push(
        self,
        item: T,
        *,
        now: float,
        deadline: float = _NEVER,
        timeout_s: float = 30.0,
        priority: int = 0,
        not_before: float = 0.0,
        retry: bool = False,
        place: int | None = None,
        failed_probes: int = 0,
    ) -> None:
        """Queue an item. `retry`: it draws on the retry budget. `place`: that of an earlier attempt of it.

        `failed_probes`: how many of its calls have failed as probes. Until the circuit closes, items with fewer go first.
        Raises ValueError if the item waits already.
        """
        if item in self._waiting.by_item:
            raise ValueError("the item waits in this queue already")
        if place is None:
            self._places += 1
            place = self._places
        if failed_probes:
            failed_probes = 0 if self.breaker.state(now) == "closed" else failed_probes
            self._has_failed_probes = failed_probes > 0 or self._has_failed_probes
        entry = QueueEntry(item, deadline, timeout_s, priority, not_before, retry, place, failed_probes)
        self._waiting.add(entry, is_ready=not (not_before > now or retry))

    def poll(self, now: float) -> list[Attempt[T]]:
        """All attempts that may begin now. Each holds a slot, a turn of the limiter and a permit of the breaker."""
        attempts: list[Attempt[T]] = []
        if not self._waiting.by_item:
            return attempts
        concurrency = self.concurrency
        while self._in_flight < concurrency:
            entry = self._next_ready(now)
            # The permit is taken before the limiter's turn, which is certain by then: neither can leak.
            if entry is None or self.limiter.available_at(now) > now:
                break
            permit = self.breaker.try_acquire(now, entry.timeout_s + PROBE_SLACK_S)
            if permit is None:
                break
            self.limiter.try_acquire(now)
            self._in_flight += 1
            attempts.append(self._attempt(entry, permit, now))
        return attempts

    def start_beside(self, attempt: Attempt[T], now: float) -> Attempt[T] | None:
        """Start a second call of an item whose first is under way, if a slot, a turn and a permit are free now; else
        None.

        Waiting items have precedence. Give the attempt back with `finish`, like every other.
        """
        if attempt.finished or self._in_flight >= self.concurrency or self._next_ready(now) is not None:
            return None
        if self.limiter.available_at(now) > now or self.breaker.state(now) != "closed":
            return None
        permit = self.breaker.try_acquire(now)
        if permit is None:
            return None
        self.limiter.try_acquire(now)
        self._in_flight += 1
        left_s = attempt.started_at + attempt.timeout_s - now
        return Attempt(attempt.item, permit, now, max(0.001, left_s), attempt.cut, attempt.place)

    def expired(self, now: float) -> list[tuple[T, Block | None]]:
        """Take out the items whose deadline passed, and those that cannot get a turn before it.

        Returned with each item: what it would have waited for beyond its deadline; None if the deadline has passed.
        """
        found: list[tuple[T, Block | None]] = []
        if self._waiting.first_deadline() is None:
            return found
        block, horizon = self._blocked_until(now)
        while (entry := self._waiting.first_deadline()) is not None and entry.deadline <= horizon:
            found.append((self._waiting.leave(entry), None if entry.deadline <= now else block))
        return found

    def finish(
        self, attempt: Attempt[T], outcome: Outcome, now: float, pause_s: float | None = None, answered: bool = True
    ) -> None:
        """A call ended. `pause_s`: the agent's Retry-After. A second finish of one attempt changes nothing.

        `answered`: the agent answered, so the call has reached it. A call that was cut off may reach the agent after it
        ended here.
        """
        if attempt.finished:
            return
        attempt.finished = True
        if self.adaptive is not None and (outcome != "neutral" or pause_s is not None):
            self.adaptive.ended(
                overload=outcome == "failure" or pause_s is not None,
                began=attempt.started_at,
                now=now,
                in_flight=self._in_flight,
            )
        self._in_flight -= 1
        self.ended += 1
        self.breaker.record(attempt.permit, outcome, now, now - attempt.started_at)
        if self._has_failed_probes and self.breaker.state(now) == "closed":
            self._has_failed_probes = False
            self._waiting.forget_failed_probes()
        if answered:
            self.limiter.settle(attempt.started_at, now)
        if pause_s is not None and pause_s > 0:
            self.limiter.pause_until(now + min(pause_s, self.max_pause_s))

    def remove(self, item: T) -> bool:
        """Take out a waiting item. False if it does not wait (started, expired or never pushed)."""
        entry = self._waiting.by_item.get(item)
        if entry is None:
            return False
        self._waiting.leave(entry)
        return True

    def drain(self) -> list[T]:
        """Take out all waiting items, in order of arrival: the partition moves."""
        return self._waiting.drain()

    def items(self) -> list[T]:
        """Everything that waits, in order of arrival."""
        return self._waiting.items()

    def last(self, eligible: Callable[[T], bool]) -> T | None:
        """Of the eligible items that wait, the one whose turn comes last."""
        return self._waiting.last(eligible)

    def next_wakeup(self, now: float) -> float | None:
        """The earliest time at which `poll` or `expired` may return something new. None: nothing waits. `inf`: only a
        push or a finish can change anything.
        """
        if not self._waiting.by_item:
            return None
        first = self._waiting.first_deadline()
        start = max(now, self._next_start(now))
        if first is None:
            return start
        return now if first.deadline <= self._blocked_until(now)[1] else min(first.deadline, start)

    def holds(self, item: T) -> bool:
        """Whether the item waits here."""
        return item in self._waiting.by_item

    def blocked_by(self, now: float, item: T | None = None) -> Block | None:
        """What keeps the queue, or this item in it, from starting; None if nothing waits or a call may begin."""
        if not self._waiting.by_item:
            return None
        entry = self._waiting.by_item.get(item) if item is not None else None
        if item is not None and entry is None:
            return None
        if entry.not_before > now if entry else self._next_ready(now) is None:
            return "backoff"
        if self._in_flight >= self.concurrency:
            return "concurrency"
        return self.closed_by(now)

    def closed_by(self, now: float) -> Block | None:
        """What keeps the agent from taking any call now, apart from the concurrency limit."""
        if self.breaker.available_at(now) > now:
            return "circuit_open"
        if self.limiter.paused_until > now:
            return "retry_after"
        return "rate_limited" if self.limiter.available_at(now) > now else None

    def open_at(self, now: float) -> float:
        """The earliest time at which circuit, pause and rate limit allow a call again; `now` if they do already."""
        return max(now, self.breaker.available_at(now), self.limiter.available_at(now))

    def closed_until(self, now: float) -> float:
        """No call can begin before this time; `now` if one may begin or if the time is unknown."""
        return self._blocked_until(now)[1]

    def shut_until(self, now: float) -> float:
        """The circuit lets no call through before this time. `now` if it may let one through, or if it is held open by
        hand, without a known end.
        """
        shut_until = self.breaker.shut_until(now)
        return now if isinf(shut_until) else shut_until

    def take_transitions(self) -> list[Transition]:
        """The breaker's transitions since the last call."""
        return self.breaker.take_transitions()

    def _attempt(self, entry: QueueEntry[T], permit: Permit, now: float) -> Attempt[T]:
        left_s = entry.deadline - now
        cut = left_s < entry.timeout_s
        timeout_s = left_s if cut else entry.timeout_s
        return Attempt(self._waiting.leave(entry), permit, now, timeout_s, cut, entry.place, entry.failed_probes)

    def _blocked_until(self, now: float) -> tuple[Block | None, float]:
        """The time before which no call can begin, and what prevents it; `now` if one may begin."""
        shut_until = self.shut_until(now)
        full_until = self.limiter.available_at(now)
        if max(shut_until, full_until) <= now:
            return None, now
        if shut_until >= full_until:
            return "circuit_open", shut_until
        return "retry_after" if self.limiter.paused_until >= full_until else "rate_limited", full_until

    def _next_start(self, now: float) -> float:
        if self._in_flight >= self.concurrency:
            return _NEVER
        ready_at = now
        if self._next_ready(now) is None:
            delayed = self._waiting.first_delayed()
            ready_at = _NEVER if delayed is None else delayed.not_before
        return max(ready_at, self.limiter.available_at(now), self.breaker.available_at(now))

    def _next_ready(self, now: float) -> QueueEntry[T] | None:
        """The entry with the next turn. Expired entries lose their turn here and are left to `expired`."""
        while (delayed := self._waiting.take_delayed(now)) is not None:
            # Behind an open circuit a retry reaches no agent, so it uses no budget.
            if delayed.retry and self.breaker.state(now) == "closed" and not self.budget.spend(now):
                delayed.not_before = now + BUDGET_RECHECK_S
                self._waiting.delay(delayed)
                continue
            delayed.retry = False
            self._waiting.put_ready(delayed)
        # Failed probes use up no attempt. If items that fail whatever the agent's health kept their turn, they alone would probe,
        # and the circuit of a healthy agent would stay open.
        return self._waiting.first_ready(now)
