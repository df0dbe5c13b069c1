"""Tasks that wait for their time: when each is due and where its record is, in the order of time. Pure.

In: a record's offset, its time and a hash of its task's id. Out: the offsets that are due. About 140 bytes a task: a
million take 140 MB, shared by all workers. The records stay on their topic.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush

_HASH_BITS = 64
_OFFSET_BITS = 44
_HASH_MASK = (1 << _HASH_BITS) - 1
_OFFSET_MASK = (1 << _OFFSET_BITS) - 1
SPARE = 1000
"""Entries of removed tasks before the heap is rebuilt."""


def _offset_of(entry: int) -> int:
    return (entry >> _HASH_BITS) & _OFFSET_MASK


def _due_of(entry: int) -> int:
    return entry >> (_HASH_BITS + _OFFSET_BITS)


class ScheduledTasks:
    """The waiting tasks of one partition. One integer is a task's entry: its time, its offset, its hash.

    >>> tasks = ScheduledTasks()
    >>> tasks.add(due_ms=2000, offset=7, task_hash=1), tasks.add(due_ms=1000, offset=8, task_hash=2)
    (True, True)
    >>> tasks.add(due_ms=500, offset=9, task_hash=1), tasks.next_due_ms, tasks.pop_due(1500, 10), len(tasks)
    (False, 1000, [8], 1)
    """

    def __init__(self) -> None:
        self._by_hash: dict[int, int] = {}
        self._heap: list[int] = []

    def __len__(self) -> int:
        return len(self._by_hash)

    def add(self, due_ms: int, offset: int, task_hash: int) -> bool:
        """Add a task. False: one with this hash waits already, and stays unchanged."""
        if task_hash in self._by_hash:
            return False
        entry = (due_ms << (_HASH_BITS + _OFFSET_BITS)) | (offset << _HASH_BITS) | task_hash
        self._by_hash[task_hash] = entry
        heappush(self._heap, entry)
        return True

    def offset_of(self, task_hash: int) -> int | None:
        """The offset of a waiting task's record."""
        entry = self._by_hash.get(task_hash)
        return None if entry is None else _offset_of(entry)

    def due_of(self, task_hash: int) -> int | None:
        """The time of a waiting task, epoch ms."""
        entry = self._by_hash.get(task_hash)
        return None if entry is None else _due_of(entry)

    def remove(self, task_hash: int) -> int | None:
        """Remove a waiting task; returns its record's offset."""
        entry = self._by_hash.pop(task_hash, None)
        if entry is None:
            return None
        # Its heap entry is skipped when it comes to the top, unless too many pile up.
        if len(self._heap) > 2 * len(self._by_hash) + SPARE:
            self._heap = list(self._by_hash.values())
            heapify(self._heap)
        return _offset_of(entry)

    def keep(self, wanted: Callable[[int], bool]) -> None:
        """Remove the tasks whose records' offsets are not `wanted`."""
        self._by_hash = {key: entry for key, entry in self._by_hash.items() if wanted(_offset_of(entry))}
        self._heap = list(self._by_hash.values())
        heapify(self._heap)

    @property
    def next_due_ms(self) -> int | None:
        """The earliest time, epoch ms; None without a task."""
        while self._heap and self._by_hash.get(self._heap[0] & _HASH_MASK) != self._heap[0]:
            heappop(self._heap)
        return _due_of(self._heap[0]) if self._heap else None

    def pop_due(self, now_ms: int, most: int) -> list[int]:
        """Remove and return the offsets of at most `most` tasks whose time has come, by time."""
        found: list[int] = []
        while len(found) < most and (due_ms := self.next_due_ms) is not None and due_ms <= now_ms:
            entry = heappop(self._heap)
            del self._by_hash[entry & _HASH_MASK]
            found.append(_offset_of(entry))
        return found
