"""The waiting items of one agent's queue, in the order of their turns. Pure.

In: distinct items with a deadline, a priority, a place and a time before which each must not begin. Out: the item with
the next turn, and the one with the earliest deadline. Operations cost O(log n), except those that return all items.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from heapq import heapify, heappop, heappush
from math import isinf
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)
_SLACK = 64


class QueueEntry(Generic[T]):
    """A waiting item. `place`: the order of arrival; `retry`: its turn draws on the retry budget."""

    __slots__ = ("deadline", "failed_probes", "item", "not_before", "place", "priority", "retry", "timeout_s")

    def __init__(
        self,
        item: T,
        deadline: float,
        timeout_s: float,
        priority: int,
        not_before: float,
        retry: bool,
        place: int,
        failed_probes: int,
    ) -> None:
        self.item: T | None = item  # None once it has left: heaps drop such entries lazily
        self.deadline = deadline
        self.timeout_s = timeout_s
        self.priority = priority
        self.not_before = not_before
        self.retry = retry
        self.place = place
        self.failed_probes = failed_probes  # 0 while the circuit is closed


_Heap = list[tuple[float, int, int, QueueEntry[T]]]


class WaitingItems(Generic[T]):
    """The items of one queue.

    >>> waiting = WaitingItems()
    >>> for item, priority in (("a", 0), ("b", 1)):
    ...     waiting.add(QueueEntry(item, 30.0, 5.0, priority, 0.0, False, 1, 0), is_ready=True)
    >>> waiting.first_ready(0.0).item, waiting.first_deadline().item, waiting.first_ready(30.0)
    ('b', 'a', None)
    """

    __slots__ = ("_deadlines", "_delayed", "_probed", "_ready", "_serial", "by_item")

    def __init__(self) -> None:
        self.by_item: dict[T, QueueEntry[T]] = {}
        self._ready: _Heap[T] = []  # by priority (highest first), then place
        self._probed: _Heap[T] = []  # items that have failed as probes, fewest failures first
        self._delayed: _Heap[T] = []  # by not_before
        self._deadlines: _Heap[T] = []
        self._serial = 0

    def add(self, entry: QueueEntry[T], *, is_ready: bool) -> None:
        """Add an item: ready, or delayed until its `not_before`."""
        if entry.item is None:
            raise ValueError("an entry without an item")
        self.by_item[entry.item] = entry
        if is_ready:
            self.put_ready(entry)
        else:
            self.delay(entry)
        if not isinf(entry.deadline):
            self._put(self._deadlines, entry.deadline, entry)

    def put_ready(self, entry: QueueEntry[T]) -> None:
        """Put an entry among those that are ready. Entries that failed as probes come after all others."""
        if entry.failed_probes:
            self._put(self._probed, entry.failed_probes, entry)
        else:
            self._put(self._ready, -entry.priority, entry)

    def delay(self, entry: QueueEntry[T]) -> None:
        """Put an entry among those that wait for their `not_before`."""
        self._put(self._delayed, entry.not_before, entry)

    def first_ready(self, now: float) -> QueueEntry[T] | None:
        """The entry with the next turn. Expired entries lose their turn here, and stay among the deadlines."""
        for heap in (self._ready, self._probed):
            while (entry := _top(heap)) is not None:
                if entry.deadline > now:
                    return entry
                heappop(heap)
        return None

    def first_delayed(self) -> QueueEntry[T] | None:
        """The entry with the earliest `not_before`."""
        return _top(self._delayed)

    def take_delayed(self, now: float) -> QueueEntry[T] | None:
        """Take out the entry with the earliest `not_before` if that has come. The caller puts it among the ready
        ones.
        """
        entry = _top(self._delayed)
        if entry is None or entry.not_before > now:
            return None
        heappop(self._delayed)
        return entry

    def first_deadline(self) -> QueueEntry[T] | None:
        """The entry with the earliest deadline; None if no entry has one."""
        return _top(self._deadlines)

    def forget_failed_probes(self) -> None:
        """Order all entries by priority and place alone again."""
        probed, self._probed = self._probed, []
        for entry in self.by_item.values():
            entry.failed_probes = 0
        for *_, entry in probed:
            if entry.item is not None:
                self.put_ready(entry)

    def leave(self, entry: QueueEntry[T]) -> T:
        item = entry.item
        assert item is not None  # noqa: S101 - only entries that wait get here
        del self.by_item[item]
        entry.item = None
        return item

    def drain(self) -> list[T]:
        """Take out everything, in order of arrival."""
        items = self.items()
        for entry in self.by_item.values():
            entry.item = None
        self.by_item.clear()
        for heap in (self._ready, self._probed, self._delayed, self._deadlines):
            heap.clear()
        return items

    @property
    def kept(self) -> int:
        """Entries in the heaps, also those of items that left: a bounded multiple of the items."""
        return sum(map(len, (self._ready, self._probed, self._delayed, self._deadlines)))

    def items(self) -> list[T]:
        """Everything that waits, in order of arrival."""
        return [item for item, _ in sorted(self.by_item.items(), key=lambda pair: pair[1].place)]

    def last(self, eligible: Callable[[T], bool]) -> T | None:
        """Of the eligible items, the one whose turn comes last."""
        waiting = ((-entry.priority, entry.place, item) for item, entry in self.by_item.items() if eligible(item))
        found = max(waiting, key=lambda row: row[:2], default=None)
        return None if found is None else found[2]

    def _put(self, heap: _Heap[T], key: float, entry: QueueEntry[T]) -> None:
        # A retry keeps its place, and its earlier entry may still be in the heap: the serial distinguishes them.
        self._serial += 1
        heappush(heap, (key, entry.place, self._serial, entry))
        # Entries that left stay in the heaps. Sweeping when they outnumber the others costs O(1) a push.
        if len(heap) > 2 * len(self.by_item) + _SLACK:
            heap[:] = [element for element in heap if element[3].item is not None]
            heapify(heap)


def _top(heap: _Heap[T]) -> QueueEntry[T] | None:
    """The first entry that still waits."""
    while heap:
        entry = heap[0][3]
        if entry.item is not None:
            return entry
        heappop(heap)
    return None
