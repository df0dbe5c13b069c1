"""When a task waits outside memory, until when, and in which order those come back. Pure.

In: how long a task would have to wait, its deadline. Out: a due time, or None: wait in memory, or give up where you are.
`Parked` holds the records read back from the `parked` topic until they are due; bounded in number and bytes, so that the rest
stays on the topic. Parking is no attempt: a task keeps its deadline and the attempts it made.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

T = TypeVar("T")

MIN_WAIT_S = 1.0
"""A shorter wait is not worth a round trip through a topic."""
QUEUE_FULL_WAIT_S = 1.0
MAX_QUEUE_WAIT_S = 30.0
LAST_CHANCE_S = 0.5
"""A task whose deadline comes before its turn is brought back this much before the deadline, for a last look."""
MAX_HELD = 800
MAX_HELD_BYTES = 8 * 1024 * 1024


def park_until(now_s: float, free_at_s: float, deadline_s: float) -> float | None:
    """When a task whose agent takes no call before `free_at_s` should come back; None if it should not be parked.

    >>> park_until(0.0, 30.0, 60.0), park_until(0.0, 0.5, 60.0), park_until(0.0, 30.0, 20.0)
    (30.0, None, None)
    """
    if free_at_s - now_s < MIN_WAIT_S or deadline_s <= free_at_s:
        return None
    return free_at_s


def try_again_at(now_s: float, parks: int, deadline_s: float) -> float | None:
    """When a task that found its agent's queue full comes back: each time later; None if its deadline is too near.

    >>> try_again_at(0.0, 0, 60.0), try_again_at(0.0, 3, 60.0), try_again_at(0.0, 3, 6.0), try_again_at(0.0, 0, 1.2)
    (1.0, 8.0, 5.5, None)
    """
    due = now_s + min(QUEUE_FULL_WAIT_S * float(2 ** min(parks, 10)), MAX_QUEUE_WAIT_S)
    due = min(due, deadline_s - LAST_CHANCE_S)
    return due if due - now_s >= MIN_WAIT_S else None


class Parked(Generic[T]):
    """Records that wait for their time, earliest first.

    >>> parked = Parked()
    >>> parked.hold("late", due=9.0, size=10); parked.hold("soon", due=3.0, size=10)
    >>> parked.next_due, parked.due(3.0), parked.next_due
    (3.0, ['soon'], 9.0)
    """

    __slots__ = ("_heap", "_sequence", "bytes")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, int, T]] = []
        self._sequence = 0
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def room(self) -> bool:
        """Whether another record may be held."""
        return len(self._heap) < MAX_HELD and self.bytes < MAX_HELD_BYTES

    @property
    def next_due(self) -> float | None:
        """When the first of them is due."""
        return self._heap[0][0] if self._heap else None

    def hold(self, item: T, *, due: float, size: int) -> None:
        """Keep a record of `size` bytes until `due`."""
        self._sequence += 1
        self.bytes += size
        heappush(self._heap, (due, self._sequence, size, item))

    def due(self, now: float) -> list[T]:
        """Take out what is due, in order of due time."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            _, _, size, item = heappop(self._heap)
            self.bytes -= size
            found.append(item)
        return found

    def take(self, wanted: Callable[[T], bool]) -> list[T]:
        """Take out those that are wanted, due or not."""
        found = [item for _, _, _, item in self._heap if wanted(item)]
        if found:
            self._heap = [entry for entry in self._heap if not wanted(entry[3])]
            heapify(self._heap)
            self.bytes = sum(size for _, _, size, _ in self._heap)
        return found

    def clear(self) -> None:
        """Forget all of them."""
        self._heap.clear()
        self.bytes = 0
