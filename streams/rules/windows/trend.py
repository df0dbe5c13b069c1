"""Whether confidence rises or falls: a straight line through the means of windows, with its standard error. Pure.

In: windows' start, count, mean and variance. Out: slope per hour and its standard error. Each window is weighted by its
points; the error is the larger of the means' scatter around the line and the points' scatter within the windows.
Windows of several series that begin together count as one: differences between the series are scatter within it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.messages import Interval
from streams.rules.windows.windows import INTERVALS

HOUR_MS = 3_600_000
FEWEST = 3


@dataclass(frozen=True, slots=True)
class Mean:
    """One window's confidence."""

    start_ms: int
    count: int
    mean: float
    variance: float


class Means:
    """Windows of many series, combined.

    >>> both = Means()
    >>> both.add("hour", 0, 1, 0.25, 0.0)
    >>> both.add("hour", 0, 3, 0.75, 0.0)
    >>> both.finest()
    [Mean(start_ms=0, count=4, mean=0.625, variance=0.046875)]
    """

    __slots__ = ("_sums",)

    def __init__(self) -> None:
        self._sums: dict[Interval, dict[int, list[float]]] = {}  # interval -> start -> [points, sum, sum of squares]

    def add(self, interval: Interval, start_ms: int, count: int, mean: float, variance: float) -> None:
        """One window of one series."""
        self._add(interval, start_ms, count, count * mean, count * (variance + mean * mean))

    def _add(self, interval: Interval, start_ms: int, count: float, total: float, squares: float) -> None:
        row = self._sums.setdefault(interval, {}).setdefault(start_ms, [0, 0.0, 0.0])
        row[0] += count
        row[1] += total
        row[2] += squares

    def merge(self, other: Means) -> None:
        """Add all windows of `other`; it stays as it is."""
        for interval, starts in other._sums.items():
            for start, row in starts.items():
                self._add(interval, start, *row)

    def finest(self) -> list[Mean]:
        """Those of the finest interval that any of the series has: coarser ones would hide its details."""
        rows = next((self._sums[interval] for interval in INTERVALS if interval in self._sums), {})
        return [
            Mean(start, int(count), total / count, round(max(squares / count - (total / count) ** 2, 0.0), 15))
            for start, (count, total, squares) in sorted(rows.items())
            if count > 0
        ]


@dataclass(frozen=True, slots=True)
class Trend:
    """Confidence per hour (positive: improving) and its standard error."""

    slope: float
    error: float


def trend(means: Sequence[Mean]) -> Trend | None:
    """The line through at least three windows with points that begin at different times; None otherwise.

    >>> trend([Mean(0, 5, 0.9, 0.01), Mean(HOUR_MS, 5, 0.8, 0.01), Mean(2 * HOUR_MS, 5, 0.7, 0.01)]).slope
    -0.1
    """
    rows = [(row.start_ms / HOUR_MS, row.count, row.mean, row.variance) for row in means if row.count > 0]
    if len({x for x, *_ in rows}) < FEWEST:
        return None
    total = sum(count for _, count, _, _ in rows)
    centre = math.fsum(count * x for x, count, _, _ in rows) / total
    middle = math.fsum(count * y for _, count, y, _ in rows) / total
    spread = math.fsum(count * (x - centre) ** 2 for x, count, _, _ in rows)
    slope = math.fsum(count * (x - centre) * (y - middle) for x, count, y, _ in rows) / spread
    around = math.fsum(count * (y - middle - slope * (x - centre)) ** 2 for x, count, y, _ in rows) / (len(rows) - 2)
    within = math.fsum(count * (x - centre) ** 2 * variance for x, count, _, variance in rows) / spread
    return Trend(round(slope, 9), round(math.sqrt(max(around, within) / spread), 9))
