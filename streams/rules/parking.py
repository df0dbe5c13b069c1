"""When a task waits outside memory, until when, and in which order those come back. Pure.

In: how long a task would have to wait, its deadline. Out: a due time, or None: wait in memory, or give up where you are.
`Parked` holds the records read back from the `parked` topic until they are due or wanted; bounded in number and bytes, so that
the rest stays on the topic. Parking is no attempt: a task keeps its deadline and the attempts it made.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

T = TypeVar("T")

MIN_WAIT_S = 1.0
"""A shorter wait is not worth a round trip through a topic."""
MAX_QUEUE_WAIT_S = 30.0
"""A task that found its agent's queue full is looked at after this time, should nobody have called it back before."""
AWAIT_S = 5.0
"""A task that waits for any agent is looked at this often, should nobody have called it back before."""
LAST_CHANCE_S = 0.5
"""A task whose deadline comes before its turn is brought back this much before the deadline, for a last look."""
MAX_HELD = 16_000
MAX_HELD_BYTES = 16 * 1024 * 1024
"""Of one home, with all that belongs to a record."""
_SLACK = 64


def park_until(now_s: float, free_at_s: float, deadline_s: float) -> float | None:
    """When a task whose agent takes no call before `free_at_s` should come back; None if it should not be parked.

    >>> park_until(0.0, 30.0, 60.0), park_until(0.0, 0.5, 60.0), park_until(0.0, 30.0, 20.0)
    (30.0, None, None)
    """
    if free_at_s - now_s < MIN_WAIT_S or deadline_s <= free_at_s:
        return None
    return free_at_s


def look_again_at(now_s: float, deadline_s: float, least_s: float) -> float:
    """When a task that found its agent's queue full is looked at again, should nobody want it before. `least_s`: not sooner.

    In time for its deadline; if there is none left, at its end.

    >>> look_again_at(0.0, 60.0, 1.0), look_again_at(0.0, 6.0, 1.0), look_again_at(0.0, 1.2, 1.0), look_again_at(0.0, 0.3, 0.0)
    (30.0, 5.5, 1.2, 0.3)
    """
    due = min(now_s + MAX_QUEUE_WAIT_S, deadline_s - LAST_CHANCE_S)
    return due if due - now_s > least_s else max(deadline_s, now_s + least_s)


def await_until(now_s: float, deadline_s: float) -> float | None:
    """When a task that waits for any agent is looked at again; None when there is no time left to wait.

    >>> await_until(0.0, 60.0), await_until(0.0, 3.0), await_until(0.0, 0.5)
    (5.0, 2.5, None)
    """
    due = min(now_s + AWAIT_S, deadline_s - LAST_CHANCE_S)
    return due if due > now_s else None


class _Entry(Generic[T]):
    __slots__ = ("due", "item", "key", "rank", "sequence", "size")

    def __init__(self, item: T, due: float, sequence: int, key: str, rank: int, size: int) -> None:
        self.item: T | None = item  # None once it was taken out: heaps drop such entries lazily
        self.due = due
        self.sequence = sequence
        self.key = key
        self.rank = rank
        self.size = size


_Heap = list[tuple[float, int, _Entry[T]]]


class Parked(Generic[T]):
    """Records that wait for their time, earliest first; `key` tells those that belong together, `rank` their order.

    >>> parked = Parked()
    >>> for rank, due in enumerate((9.0, 3.0, 5.0)):
    ...     parked.hold(f"due at {due}", due=due, size=10, key="a", rank=rank)
    >>> parked.next_due, parked.due(3.0), parked.next_due, parked.first("a", 1), parked.next_due
    (3.0, ['due at 3.0'], 5.0, ['due at 9.0'], 5.0)
    """

    __slots__ = ("_by_due", "_by_key", "_count", "_sequence", "bytes")

    def __init__(self) -> None:
        self._by_due: _Heap[T] = []
        self._by_key: dict[str, _Heap[T]] = {}
        self._sequence = 0
        self._count = 0
        self.bytes = 0

    def __len__(self) -> int:
        return self._count

    @property
    def room(self) -> bool:
        """Whether another record may be held."""
        return self._count < MAX_HELD and self.bytes < MAX_HELD_BYTES

    @property
    def next_due(self) -> float | None:
        """When the first of them is due."""
        entry = _first(self._by_due)
        return None if entry is None else entry.due

    def hold(self, item: T, *, due: float, size: int, key: str = "", rank: int = 0) -> None:
        """Keep a record of `size` bytes until `due`."""
        self._sequence += 1
        self._count += 1
        self.bytes += size
        entry = _Entry(item, due, self._sequence, key, rank, size)
        heappush(self._by_due, (due, entry.sequence, entry))
        heappush(self._by_key.setdefault(key, []), (rank, entry.sequence, entry))
        if len(self._by_due) > 2 * self._count + _SLACK:
            self._sweep()

    def due(self, now: float) -> list[T]:
        """Take out what is due, in order of due time."""
        found = []
        while (entry := _first(self._by_due)) is not None and entry.due <= now:
            found.append(self._leave(entry))
        return found

    def first(self, key: str, count: int) -> list[T]:
        """Take out the first `count` of those that belong together, due or not, in order of rank."""
        found: list[T] = []
        heap = self._by_key.get(key, [])
        while len(found) < count and (entry := _first(heap)) is not None:
            found.append(self._leave(entry))
        return found

    def holds(self, key: str) -> bool:
        """Whether any of those that belong together are held."""
        return _first(self._by_key.get(key, [])) is not None

    def take(self, wanted: Callable[[T], bool]) -> list[T]:
        """Take out those that are wanted, due or not."""
        entries = [entry for _, _, entry in self._by_due]
        return [self._leave(entry) for entry in entries if entry.item is not None and wanted(entry.item)]

    def clear(self) -> None:
        """Forget all of them."""
        self._by_due.clear()
        self._by_key.clear()
        self._count = self.bytes = 0

    def _leave(self, entry: _Entry[T]) -> T:
        item = entry.item
        assert item is not None  # noqa: S101 - only entries that are held get here
        entry.item = None
        self._count -= 1
        self.bytes -= entry.size
        return item

    def _sweep(self) -> None:
        """Drop what was taken out; costs O(1) a record, being done when half of a heap is gone."""
        living = [entry for _, _, entry in self._by_due if entry.item is not None]
        self._by_due = [(entry.due, entry.sequence, entry) for entry in living]
        self._by_key = {}
        for entry in living:
            self._by_key.setdefault(entry.key, []).append((entry.rank, entry.sequence, entry))
        for heap in (self._by_due, *self._by_key.values()):
            heapify(heap)


def _first(heap: _Heap[T]) -> _Entry[T] | None:
    """The first entry that is still held."""
    while heap and heap[0][2].item is None:
        heappop(heap)
    return heap[0][2] if heap else None
