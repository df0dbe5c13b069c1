"""Everything that waits for one agent or is being called there: queue, backoff, concurrency, limiter, breaker, deadlines. Pure.

In: items with a deadline and a priority, outcomes of calls, the time (monotonic seconds, never going back). Out: which
calls begin now, which items are given up without one and why, and the one time at which to ask again.
The carrier's loop after every push, finish, remove and timer: `doomed(now)`, `poll(now)`, a timer for `next_wakeup(now)`.
An item pushed leaves the lane exactly once: by `poll`, `doomed`, `remove` or `drain`. The lane never calls an agent,
never retries by itself and never looks inside an item.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Generic, Literal, TypeVar

from agents_io.rules.adaptive import AimdLimit
from agents_io.rules.breaker import Breaker, BreakerConfig, Outcome, Permit, Transition
from agents_io.rules.limiter import SlidingWindow

T = TypeVar("T", bound=Hashable)
Doom = Literal["expired", "circuit_open", "rate_limited"]
Block = Literal["concurrency", "circuit_open", "rate_limited", "backoff"]

_SLACK = 64
_NEVER = float("inf")


class _Entry(Generic[T]):
    __slots__ = ("deadline", "item", "not_before", "priority", "sequence")

    def __init__(self, item: T, deadline: float, priority: int, not_before: float, sequence: int) -> None:
        self.item: T | None = item  # None once it has left the lane: heaps drop such entries lazily
        self.deadline = deadline
        self.priority = priority
        self.not_before = not_before
        self.sequence = sequence


@dataclass(slots=True, eq=False)
class Start(Generic[T]):
    """One call that may begin. Give it back with `Lane.finish`, whatever becomes of it."""

    item: T
    permit: Permit
    started_at: float
    deadline: float
    finished: bool = False


_Heap = list[tuple[float, int, _Entry[T]]]


class Lane(Generic[T]):
    """One agent's lane. Items are hashable and unlike each other while they wait.

    >>> lane = Lane(1, SlidingWindow(100, 60.0), Breaker(), depth=10)
    >>> lane.push("a", now=0.0, deadline=30.0), lane.push("b", now=0.0, deadline=30.0, priority=1)
    (True, True)
    >>> [start] = lane.poll(0.0)
    >>> start.item, lane.blocked_by(0.0), lane.next_wakeup(0.0)
    ('b', 'concurrency', 30.0)
    >>> lane.finish(start, "success", 1.0)
    >>> [start.item for start in lane.poll(1.0)]
    ['a']
    """

    __slots__ = (
        "_by_item",
        "_deadlines",
        "_delayed",
        "_in_flight",
        "_ranks",
        "_ready",
        "_sequence",
        "adaptive",
        "breaker",
        "depth",
        "ended",
        "limiter",
        "max_concurrency",
        "max_pause_s",
    )

    def __init__(
        self, max_concurrency: int, limiter: SlidingWindow, breaker: Breaker, depth: int, max_pause_s: float = 300.0
    ) -> None:
        """`depth`: how many items may wait. `max_pause_s`: the longest Retry-After that is obeyed, seconds."""
        self.max_concurrency = max_concurrency
        self.limiter = limiter
        self.breaker = breaker
        self.depth = depth
        self.max_pause_s = max_pause_s
        self.adaptive: AimdLimit | None = None
        """What the agent's concurrency is found to be, if that is asked for; `max_concurrency` is its ceiling."""
        self._by_item: dict[T, _Entry[T]] = {}
        self._ready: _Heap[T] = []  # by priority (highest first), then arrival
        self._delayed: _Heap[T] = []  # by not_before
        self._deadlines: _Heap[T] = []
        self._ranks: dict[int, int] = {}  # how many of each priority wait
        self._in_flight = 0
        self._sequence = 0
        self.ended = 0
        """Calls finished so far."""

    @property
    def waiting(self) -> int:
        """Items that wait, those in backoff included."""
        return len(self._by_item)

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
        depth: int | None = None,
        max_requests: int | None = None,
        window_s: float | None = None,
        breaker: BreakerConfig | None = None,
    ) -> None:
        """Change what is given, at once. Calls in flight and items that wait stay, even beyond a smaller limit."""
        if max_concurrency is not None:
            self.max_concurrency = max_concurrency
            if self.adaptive is not None:
                self.adaptive.reconfigure(max_concurrency)
        if depth is not None:
            self.depth = depth
        if max_requests is not None or window_s is not None:
            self.limiter.reconfigure(max_requests or self.limiter.max_requests, window_s or self.limiter.window_s)
        if breaker is not None and breaker != self.breaker.config:
            self.breaker.reconfigure(breaker)

    def push(
        self, item: T, *, now: float, deadline: float, priority: int = 0, not_before: float = 0.0, force: bool = False
    ) -> bool:
        """Queue an item; False when `depth` items wait already. `force`: a retry, which was accepted before.

        With forced items at most `depth` + `max_concurrency` wait. Raises ValueError if the item waits already.
        """
        if len(self._by_item) >= self.depth and not force:
            return False
        if item in self._by_item:
            raise ValueError("the item waits in this lane already")
        self._sequence += 1
        entry = _Entry(item, deadline, priority, not_before, self._sequence)
        self._by_item[item] = entry
        self._ranks[priority] = self._ranks.get(priority, 0) + 1
        if not_before > now:
            self._put(self._delayed, not_before, entry)
        else:
            self._put(self._ready, -priority, entry)
        self._put(self._deadlines, deadline, entry)
        return True

    def poll(self, now: float) -> list[Start[T]]:
        """Every call that may begin now; each holds a slot, a turn of the limiter and a permit of the breaker."""
        starts: list[Start[T]] = []
        if not self._by_item:
            return starts
        concurrency = self.concurrency
        while self._in_flight < concurrency:
            entry = self._next_ready(now)
            # The permit is taken last but for the limiter's turn, which is sure by then: neither can leak.
            if entry is None or self.limiter.available_at(now) > now:
                break
            permit = self.breaker.try_acquire(now)
            if permit is None:
                break
            self.limiter.try_acquire(now)
            heappop(self._ready)
            self._in_flight += 1
            starts.append(Start(self._leave(entry), permit, now, entry.deadline))
        return starts

    def start_beside(self, start: Start[T], now: float) -> Start[T] | None:
        """A second call of an item whose first is under way, if a slot, a turn and a permit are free for it now.

        What waits goes first: there is none while an item could begin. Give it back with `finish`, as every start.
        """
        if start.finished or self._in_flight >= self.concurrency or self._next_ready(now) is not None:
            return None
        if self.limiter.available_at(now) > now or self.breaker.state(now) != "closed":
            return None
        permit = self.breaker.try_acquire(now)
        if permit is None:
            return None
        self.limiter.try_acquire(now)
        self._in_flight += 1
        return Start(start.item, permit, now, start.deadline)

    def doomed(self, now: float) -> list[tuple[T, Doom]]:
        """Items to give up without a call: their deadline passed, or no call can begin before it does."""
        given_up: list[tuple[T, Doom]] = []
        if not self._by_item:
            return given_up
        shut_until = self.breaker.shut_until(now)
        full_until = self.limiter.available_at(now)
        horizon = max(now, shut_until, full_until)
        while (entry := _top(self._deadlines)) is not None and entry.deadline <= horizon:
            heappop(self._deadlines)
            reason: Doom = "rate_limited"
            if entry.deadline <= now:
                reason = "expired"
            elif entry.deadline <= shut_until:
                reason = "circuit_open"
            given_up.append((self._leave(entry), reason))
        return given_up

    def finish(self, start: Start[T], outcome: Outcome, now: float, pause_s: float | None = None) -> None:
        """A call ended. `pause_s`: the agent's Retry-After. A second finish of the same start changes nothing."""
        if start.finished:
            return
        start.finished = True
        if self.adaptive is not None and (outcome != "neutral" or pause_s is not None):
            self.adaptive.ended(
                overload=outcome == "failure" or pause_s is not None,
                began=start.started_at,
                now=now,
                in_flight=self._in_flight,
            )
        self._in_flight -= 1
        self.ended += 1
        self.breaker.record(start.permit, outcome, now, now - start.started_at)
        self.limiter.settle(start.started_at, now)
        if pause_s is not None and pause_s > 0:
            self.limiter.pause_until(now + min(pause_s, self.max_pause_s))

    def remove(self, item: T) -> bool:
        """Take an item out that waits; False if it does not (it was started, given up or never pushed)."""
        entry = self._by_item.get(item)
        if entry is None:
            return False
        self._leave(entry)
        return True

    def drain(self) -> list[T]:
        """Take out everything that waits, in order of arrival (the agent is gone, or the partition moves)."""
        items = list(self._by_item)
        for entry in self._by_item.values():
            entry.item = None
        self._by_item.clear()
        self._ranks.clear()
        for heap in (self._ready, self._delayed, self._deadlines):
            heap.clear()
        return items

    def next_wakeup(self, now: float) -> float | None:
        """The earliest time `poll` or `doomed` may have something new; None if only a push or a finish can change that."""
        first = _top(self._deadlines)
        if first is None:
            return None
        if first.deadline <= max(self.breaker.shut_until(now), self.limiter.available_at(now)):
            return now
        return min(first.deadline, max(now, self._next_start(now)))

    def holds(self, item: T) -> bool:
        """Whether the item waits here."""
        return item in self._by_item

    def last_below(self, priority: int) -> T | None:
        """Of the items of the lowest priority that waits, if it is below `priority`, the one that came last."""
        lowest = min(self._ranks, default=priority)
        if lowest >= priority:
            return None
        return next(item for item, entry in reversed(self._by_item.items()) if entry.priority == lowest)

    def blocked_by(self, now: float, item: T | None = None) -> Block | None:
        """What keeps the lane, or this item in it, from starting; None if nothing waits or a call may begin."""
        if not self._by_item:
            return None
        entry = self._by_item.get(item) if item is not None else None
        if item is not None and entry is None:
            return None
        if entry.not_before > now if entry else self._next_ready(now) is None:
            return "backoff"
        if self._in_flight >= self.concurrency:
            return "concurrency"
        if self.breaker.available_at(now) > now:
            return "circuit_open"
        return "rate_limited" if self.limiter.available_at(now) > now else None

    def take_transitions(self) -> list[Transition]:
        """The breaker's transitions since the last call."""
        return self.breaker.take_transitions()

    def _next_start(self, now: float) -> float:
        if self._in_flight >= self.concurrency:
            return _NEVER
        ready_at = now
        if self._next_ready(now) is None:
            delayed = _top(self._delayed)
            ready_at = _NEVER if delayed is None else delayed.not_before
        return max(ready_at, self.limiter.available_at(now), self.breaker.available_at(now))

    def _next_ready(self, now: float) -> _Entry[T] | None:
        """The entry whose turn it is. An expired one loses its turn here and is left to `doomed`."""
        while (delayed := _top(self._delayed)) is not None and delayed.not_before <= now:
            heappop(self._delayed)
            self._put(self._ready, -delayed.priority, delayed)
        while (entry := _top(self._ready)) is not None and entry.deadline <= now:
            heappop(self._ready)
        return entry

    def _leave(self, entry: _Entry[T]) -> T:
        item = entry.item
        assert item is not None  # noqa: S101 - only entries that wait get here
        del self._by_item[item]
        if self._ranks[entry.priority] == 1:
            del self._ranks[entry.priority]
        else:
            self._ranks[entry.priority] -= 1
        entry.item = None
        return item

    def _put(self, heap: _Heap[T], key: float, entry: _Entry[T]) -> None:
        heappush(heap, (key, entry.sequence, entry))
        # Entries that left stay behind in heaps. Sweeping when they outnumber the living costs O(1) a push.
        if len(heap) > 2 * len(self._by_item) + _SLACK:
            heap[:] = [element for element in heap if element[2].item is not None]
            heapify(heap)


def _top(heap: _Heap[T]) -> _Entry[T] | None:
    """The first entry that still waits."""
    while heap:
        entry = heap[0][2]
        if entry.item is not None:
            return entry
        heappop(heap)
    return None
