"""Which windows answer for a range of time: the coarsest that fit. Pure.

In: the range, and from when on windows of each interval are kept. Out: windows that tile the range without gap or
overlap: days inside, hours and minutes at its edges. Where finer windows are no longer kept, the range grows outwards
to the edges of coarser ones; the tiles show what is covered.
"""

from __future__ import annotations

from collections.abc import Mapping

from schemas.messages import Interval
from streams.rules.windows.windows import COARSEST, FINEST, INTERVALS, SIZES_MS, WindowId, start_of

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
    begin_ms = max(begin_ms, floors[COARSEST])
    found: list[WindowId] = []
    at = begin_ms
    for interval in INTERVALS:
        at = start_of(begin_ms, interval)
        if at >= floors[interval]:
            break
    while at < end_ms and len(found) < MOST:
        interval = _coarsest(at, end_ms, floors)
        found.append((interval, at))
        at += SIZES_MS[interval]
    return found


def _coarsest(at: int, end_ms: int, floors: Mapping[Interval, int]) -> Interval:
    """The largest window that starts here and ends in the range; a larger one if the smaller is no longer kept."""
    for place, interval in enumerate(COARSEST_FIRST[:-1]):
        finer = COARSEST_FIRST[place + 1]
        if at % SIZES_MS[interval] == 0 and (at + SIZES_MS[interval] <= end_ms or at < floors[finer]):
            return interval
    return FINEST


def covered(found: list[WindowId]) -> tuple[int, int]:
    """Begin and end of the tiles; (0, 0) without any."""
    if not found:
        return 0, 0
    interval, last = found[-1]
    return found[0][1], last + SIZES_MS[interval]
