"""The ledger of one topic partition: which offsets are in flight, which are done, and what may be committed. Pure.

In: offsets as the consumer delivers them (ascending from the commit offset) and, in any order, the ones that are done.
Out: the commit offset (the smallest one not done) and the runs done beyond it, for the offset map.
Offsets that are never delivered between two that are (transaction markers, compaction) count as done.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence

from streams.rules.engine.offset_map import INTAKE_STOP, LIMIT_BYTES, Run, size_bound

RELIEF = 0.5
"""At this share of the map's limit, the records that hold back the commit are relocated; at `INTAKE_STOP` intake
stops.
"""
SPAN = 1024
_ONES = re.compile("1+")


class _Chunk:
    """`SPAN` offsets from `base` on. `pending`: bit i is set while offset `base + i` is in flight."""

    __slots__ = ("pending", "pending_runs")

    def __init__(self) -> None:
        self.pending = 0
        self.pending_runs: list[Run] | None = []
        """Of offsets in flight, relative to `base`; None: must be computed again."""

    def runs(self) -> list[Run]:
        if self.pending_runs is None:
            bits = f"{self.pending:b}"[::-1]
            self.pending_runs = [(run.start(), run.end() - 1) for run in _ONES.finditer(bits)]
        return self.pending_runs


class Ledger:
    """Offsets of one partition under one owner. A hundred thousand in flight cost 13 KiB, and a commit a few runs.

    >>> ledger = Ledger(10)
    >>> [ledger.track(offset) for offset in (10, 11, 14)]
    [True, True, True]
    >>> ledger.done(11); ledger.head, ledger.runs()
    (10, [(11, 13)])
    >>> ledger.done(10); ledger.head
    14
    """

    __slots__ = ("_chunks", "_in_flight", "_next", "_skip")

    def __init__(self, head: int, done: Sequence[Run] = ()) -> None:
        """`head`: the commit offset, >= 0. `done`: runs beyond it that an earlier owner finished, ascending and disjoint."""
        self._chunks: dict[int, _Chunk] = {}  # by base // SPAN, ascending; only those with offsets in flight
        self._in_flight = 0
        self._next = head
        self._skip: deque[Run] = deque(run for run in done if run[1] >= head)
        self._absorb()

    def _absorb(self) -> None:
        """Move past finished runs that begin at or before the next offset."""
        while self._skip and self._skip[0][0] <= self._next:
            self._next = max(self._next, self._skip.popleft()[1] + 1)

    @property
    def head(self) -> int:
        """The commit offset: the smallest offset that is not done."""
        for number, chunk in self._chunks.items():
            return number * SPAN + (chunk.pending & -chunk.pending).bit_length() - 1
        return self._next

    @property
    def next(self) -> int:
        """The smallest offset that was not delivered yet and is not known to be done."""
        return self._next

    @property
    def in_flight(self) -> int:
        """How many offsets were delivered and are not done."""
        return self._in_flight

    def track(self, offset: int) -> bool:
        """A record was delivered. False: it is done already or below what was delivered (drop it); True: it is now in flight."""
        if offset < self._next:
            return False
        skip = self._skip
        while skip and skip[0][1] < offset:
            skip.popleft()
        if skip and skip[0][0] <= offset:
            self._next = skip.popleft()[1] + 1
            self._absorb()
            return False
        number, bit = divmod(offset, SPAN)
        chunk = self._chunks.get(number)
        if chunk is None:
            chunk = self._chunks[number] = _Chunk()
        chunk.pending |= 1 << bit
        chunk.pending_runs = None
        self._in_flight += 1
        self._next = offset + 1
        self._absorb()
        return True

    def skip_to(self, offset: int) -> None:
        """The consumer's position: everything to deliver below it has been delivered (the rest are markers).

        >>> ledger = Ledger(10); ledger.skip_to(12); ledger.head
        12
        """
        if offset > self._next:
            self._next = offset
            self._absorb()

    def expire(self, first: int, end: int) -> int:
        """The log lost the records from `first` to before `end` before they were delivered. Returns how many of them
        were not done: an upper bound, since offsets of transaction markers and compacted records count too.

        They count as done from now on: the next owner must not count them again.

        >>> ledger = Ledger(10, [(12, 13)]); ledger.expire(10, 20), ledger.expire(10, 20), ledger.head
        (8, 0, 20)
        """
        first = max(first, self._next)
        if first >= end:
            return 0
        low, high, count = first, end - 1, end - first
        kept: list[Run] = []
        for run in self._skip:
            if run[1] < first - 1 or run[0] > end:
                kept.append(run)
                continue
            count -= max(0, min(run[1], end - 1) - max(run[0], first) + 1)
            low, high = min(low, run[0]), max(high, run[1])
        self._skip = deque(sorted([*kept, (low, high)]))
        self._absorb()
        return count

    def done(self, offset: int) -> None:
        """The work of this offset is finished and its outputs are in the commit that follows. Unknown offsets are ignored."""
        number, bit = divmod(offset, SPAN)
        chunk = self._chunks.get(number)
        if chunk is None or not chunk.pending >> bit & 1:
            return
        chunk.pending ^= 1 << bit
        chunk.pending_runs = None
        self._in_flight -= 1
        if not chunk.pending:
            del self._chunks[number]

    def runs(self) -> list[Run]:
        """The runs done beyond `head`, ascending, disjoint and not touching."""
        found: list[Run] = []
        at = self.head
        for number, chunk in self._chunks.items():
            base = number * SPAN
            for first, last in chunk.runs():
                if base + first > at:
                    found.append((at, base + first - 1))
                at = base + last + 1
        if self._next > at:
            found.append((at, self._next - 1))
        found.extend(self._skip)
        return found

    def full(self) -> bool:
        """Whether the offset map might exceed its intake limit: deliver no more until it shrinks.

        Never with nothing in flight: the next delivered offset is the lowest that is not done, and shrinks it.
        """
        return bool(self._in_flight) and self._bound() > LIMIT_BYTES * INTAKE_STOP

    def blocking_offsets(self, most: int) -> list[int]:
        """The first offsets in flight, if the map nears its limit; else none.

        >>> ledger = Ledger(0)
        >>> for offset in range(40_000):
        ...     if ledger.track(offset) and offset % 40:
        ...         ledger.done(offset)
        >>> ledger.blocking_offsets(3)
        [0, 40, 80]
        """
        if not self._in_flight or self._bound() <= LIMIT_BYTES * RELIEF:
            return []
        found: list[int] = []
        for number, chunk in self._chunks.items():
            for first, last in chunk.runs():
                found += range(number * SPAN + first, number * SPAN + last + 1)
                if len(found) >= most:
                    return found[:most]
        return found

    def _bound(self) -> int:
        end = self._skip[-1][1] + 1 if self._skip else self._next
        pending = sum(len(chunk.runs()) for chunk in self._chunks.values())
        return size_bound(pending, len(self._skip), end - self.head)
