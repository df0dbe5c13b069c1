"""The tasks of one ordering key at one agent: which of them is next. Pure.

In: arriving tasks, each with its position (topic, offset), and which of them are left on their topic. Out: one task at
a time. Within one topic the order is that of the log, in whatever order records are read. Two topics take turns: which
of their tasks is older is unknown, and neither may starve the other.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from math import inf
from typing import Generic, NamedTuple, TypeVar

from schemas.codec import header
from streams.rules.source_record import INTERNAL_SOURCES, ORDER_HEADER, SourceRecord

T = TypeVar("T")

TOPICS = ("tasks", *INTERNAL_SOURCES)
READING = -inf
"""In place of the first offset left on a topic: some are being read back, and which comes first is unknown."""


class LogPosition(NamedTuple):
    """The position of a task's first record in this partition. It stays the same when the record is relocated."""

    topic: str
    offset: int


def first_record_of(record: SourceRecord) -> LogPosition:
    """The position of the record before it was relocated.

    >>> first_record_of(SourceRecord("parked", 0, 2, None, b"", (("parallax-order", b"tasks/17"),))).offset
    17
    """
    if record.topic == "parked":
        topic, _, offset = (header(record.headers, ORDER_HEADER) or "").rpartition("/")
        if topic in TOPICS and offset.isdecimal():
            return LogPosition(topic, int(offset))
    return LogPosition(record.topic, record.offset)


class Next(NamedTuple, Generic[T]):
    """The task with the next turn: `item`; or `topic`, from which it must be read back first; or neither."""

    item: T | None = None
    topic: str | None = None


class Chain(Generic[T]):
    """The tasks of one key. `busy`: one has its turn, and no other begins before `release`.

    >>> chain = Chain()
    >>> for offset in (7, 3, 5):
    ...     chain.add(LogPosition("tasks", offset), f"t{offset}")
    >>> chain.next(lambda topic: None).item, chain.next(lambda topic: None)
    ('t3', Next(item=None, topic=None))
    >>> chain.release(); chain.next(lambda topic: 4 if topic == "tasks" else None)
    Next(item=None, topic='tasks')
    >>> chain.next(lambda topic: 6 if topic == "tasks" else None).item
    't5'
    """

    __slots__ = ("_first", "_waiting", "busy")

    def __init__(self) -> None:
        self.busy = False
        self._waiting: dict[str, list[tuple[int, T]]] = {}  # by topic, each in the order of the log
        self._first = 0  # of TOPICS, the one that is asked first

    def __len__(self) -> int:
        """Tasks that wait in memory."""
        return sum(map(len, self._waiting.values()))

    def add(self, position: LogPosition, item: T) -> None:
        """A task waits for its turn."""
        insort(self._waiting.setdefault(position.topic, []), (position.offset, item), key=lambda row: row[0])

    def remove(self, position: LogPosition, item: T) -> bool:
        """Remove the task; False if it did not wait."""
        waiting = self._waiting.get(position.topic, [])
        at = bisect_left(waiting, position.offset, key=lambda row: row[0])
        if at == len(waiting) or waiting[at][1] is not item:
            return False
        del waiting[at]
        if not waiting:
            del self._waiting[position.topic]
        return True

    def next(self, stored: Callable[[str], float | None]) -> Next[T]:
        """Give a turn. `stored`: returns the first offset of this key that is left on a topic, `READING`, or None."""
        if self.busy:
            return Next()
        for number in range(self._first, self._first + len(TOPICS)):
            topic = TOPICS[number % len(TOPICS)]
            waiting, left = self._waiting.get(topic), stored(topic)
            if left == READING:
                continue
            if waiting and (left is None or waiting[0][0] < left):
                offset, item = waiting[0]
                self.remove(LogPosition(topic, offset), item)
                self.busy, self._first = True, number + 1
                return Next(item)
            if left is not None:
                return Next(topic=topic)
        return Next()

    def release(self) -> None:
        """The task that had its turn has ended, or moved."""
        self.busy = False

    def before(self, position: LogPosition) -> Iterator[T]:
        """The tasks in memory that come before this one on its topic."""
        for offset, item in self._waiting.get(position.topic, ()):
            if offset >= position.offset:
                return
            yield item

    def last(self, topic: str) -> T | None:
        """Of the tasks of a topic that wait in memory, the one whose turn comes last."""
        waiting = self._waiting.get(topic)
        return waiting[-1][1] if waiting else None

    def count(self, topic: str) -> int:
        """How many tasks of a topic wait in memory."""
        return len(self._waiting.get(topic, ()))
