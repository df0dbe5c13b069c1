"""Which windows answer for a range of time: the coarsest that fit. Pure.

In: the range, and from when on windows of each interval are kept. Out: windows that tile the range without gap or
overlap: days inside, hours and minutes at its edges. Where finer windows are no longer kept, the range grows outwards
to the edges of coarser ones; the tiles show what is covered.
"""

from __future__ import annotations

from collections.abc import Mapping

from schemas.messages import Interval
from streams.rules.windows.windows import INTERVALS, SIZES_MS, WindowId, start_of

COARSEST_FIRST = INTERVALS[::-1]
MOST = 2000
"""Tiles of one answer; 30 days, 24 hours and 60 minutes need less than 200."""


def tiles(begin_ms: int, end_ms: int, floors: Mapping[Interval, int]) -> list[WindowId]:
    """The windows for [begin, end), oldest first. `floors`: the oldest start that is kept, per interval.

    >>> hour = 3_600_000
    >>> tiles(24 * hour, 49 * hour, {"day": 0, "hour": 0, "minute": 0})
    [('day', 86400000), ('hour', 172800000)]
    >>> tiles(25 * hour, 26 * hour, {"day": 0, "hour": 40 * hour, "minute": 40 * hour})
    [('day', 86400000)]
    """
    begin_ms = max(begin_ms, min(floors.values()))
    found: list[WindowId] = []
    at = next(start for i in INTERVALS if (start := start_of(begin_ms, i)) >= floors[i])
    while at < end_ms and len(found) < MOST:
        # Where a kept window starts or ends, one at least is kept: floors are bounds of windows.
        kept = [i for i in INTERVALS if at % SIZES_MS[i] == 0 and at >= floors[i]]
        interval = next((i for i in reversed(kept) if at + SIZES_MS[i] <= end_ms), kept[0])
        found.append((interval, at))
        at += SIZES_MS[interval]
    return found


def covered(found: list[WindowId]) -> tuple[int, int]:
    """Begin and end of the tiles; (0, 0) without any."""
    if not found:
        return 0, 0
    interval, last = found[-1]
    return found[0][1], last + SIZES_MS[interval]
