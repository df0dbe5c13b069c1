"""Does confidence rise or fall: a straight line through the means of windows, and how sure that is. Pure.

In: windows' start, count, mean and variance. Out: slope per hour and its standard error. Each window weighs as much as it has
points; the error is the larger of what the means scatter around the line and what the points scatter within the windows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

HOUR_MS = 3_600_000
FEWEST = 3


@dataclass(frozen=True, slots=True)
class Mean:
    """One window's confidence."""

    start_ms: int
    count: int
    mean: float
    variance: float


@dataclass(frozen=True, slots=True)
class Trend:
    """Confidence per hour (positive: improving) and its standard error; `windows` it rests on."""

    slope: float
    error: float
    windows: int


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
    return Trend(round(slope, 9), round(math.sqrt(max(around, within) / spread), 9), len(rows))
