"""The original's rules over one check interval of event time: mean and spread of its points. Pure.

In: confidences in units of 1/10000 with their times. Out: the result of an interval, from which `detectors.py` makes
alarms. Intervals with too few points are joined; their boundaries do not depend on the wall clock unless a series is
idle. Points are evaluated once: when an interval that was evaluated by the clock is joined, the next boundary counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CHECK_MIN = 5
VARIANCE_MIN = 30
VARIANCE_RING = 100
HISTORY_DECAY = 0.9
HISTORY_MOST = 2000.0


@dataclass(frozen=True, slots=True)
class Sums:
    """Points, their sum and the sum of their squares."""

    count: int
    total: int
    squares: int

    def mean(self) -> float:
        """Mean, in the points' own unit."""
        return self.total / self.count

    def spread(self) -> float:
        """Standard deviation, in the points' own unit.

        >>> Sums(2, 4, 10).spread()
        1.0
        """
        return math.sqrt(self.count * self.squares - self.total * self.total) / self.count


class IntervalChecks:
    """Points since the last check, and the results of earlier ones."""

    __slots__ = ("_evaluated", "_interval_ms", "_slot", "_squares", "_total", "before", "count", "end_ms", "weight")

    def __init__(self, interval_ms: int) -> None:
        self._interval_ms = interval_ms
        self._slot = -1
        self._evaluated = False  # by the clock, and no point came since
        self.end_ms = 0
        """Where the interval ended that is evaluated now."""
        self.count = 0
        self._total = 0
        self._squares = 0
        self.weight = 0.0
        self.before = 0.0

    def due(self, time_ms: int) -> bool:
        """Call it for each point before adding it: whether an interval must be evaluated first."""
        slot = time_ms // self._interval_ms
        if slot <= self._slot:
            return False
        self.end_ms = (self._slot + 1) * self._interval_ms
        first, self._slot = self._slot < 0, slot
        return not first and self.due_ms() >= 0

    def due_ms(self) -> int:
        """When the points of an idle series are due; -1 without any that were not evaluated."""
        return (self._slot + 1) * self._interval_ms if self.count and not self._evaluated else -1

    def close(self) -> None:
        """The series is idle: its points are evaluated now."""
        self.end_ms, self._evaluated = (self._slot + 1) * self._interval_ms, True

    def add(self, value: int) -> None:
        self._evaluated = False
        self.count += 1
        self._total += value
        self._squares += value * value

    def sums(self) -> Sums:
        """The points since the last check; at least one."""
        return Sums(self.count, self._total, self._squares)

    def empty(self) -> None:
        """Start the next interval."""
        self.count = self._total = self._squares = 0

    def remember(self, count: int, mean: float) -> None:
        """This interval was normal: later ones are compared with it too."""
        kept = min(self.weight * HISTORY_DECAY, HISTORY_MOST)
        self.weight, self.before = kept + count, (self.before * kept + mean * count) / (kept + count)

    def forget(self) -> None:
        """Forget what was normal."""
        self.weight = self.before = 0.0

    def to_json(self) -> list[Any]:
        return [self._slot, [self.count, self._total, self._squares], [self.weight, self.before]]

    def later(self) -> list[Any]:
        """What earlier versions did not write."""
        return [self._interval_ms, self._evaluated]

    @classmethod
    def from_json(cls, data: list[Any], interval_ms: int, later: Sequence[Any] = ()) -> IntervalChecks:
        """The inverse of `to_json` and `later`. The number of an interval of another length is converted; without that
        length the next point begins an interval.
        """
        interval = cls(interval_ms)
        slot, (interval.count, interval._total, interval._squares), (interval.weight, interval.before) = data
        if later:
            written_ms, interval._evaluated = later
            interval._slot = slot * written_ms // interval_ms
        return interval
