"""The event time of one partition, for series without new points. Pure.

A pause in the stream proves nothing: a recovery, a slow fetch and a frozen process look like a log that has ended. So
the clock advances by positions only. A caller asks where the log ends, notes the wall clock before asking, and reports
how far points have been counted. Once they are counted up to that end, everything written before the noted time is
known, and time up to it has passed. From its newest point on, a series' event time then advances as that time does,
counted from when the point was read: an import of last week's points, however slow, does not look like agents that fell
silent. After a while without points, windows close by the wall clock: this loses nothing, since a late point still
finds its window.
"""

from __future__ import annotations

PARTITION_SETTLED_MS = 5_000
SERIES_SETTLED_MS = 60_000
"""A partition, or a series, must certainly have had no point for this long before its windows close by the wall
clock.
"""


class EventClock:
    """The clock of one partition. Times are epoch ms; `position`: the offset up to which every point is counted.

    >>> clock = EventClock()
    >>> clock.observe_end(10, asked_ms=1000)
    >>> clock.advance(position=9); clock.caught_up_ms
    0
    >>> clock.advance(position=10); clock.caught_up_ms
    1000
    """

    __slots__ = ("_asked_ms", "_end", "arrived_ms", "caught_up_ms", "watermark_ms")

    def __init__(self) -> None:
        self._end = 0
        self._asked_ms = 0
        self.caught_up_ms = 0
        """Everything in the log at this time is counted; 0: unknown."""
        self.watermark_ms = 0
        """The newest event time of all series."""
        self.arrived_ms = 0
        """When the partition's last point was read."""

    @property
    def behind(self) -> bool:
        """Whether points are not counted yet that were in the log when its end was last read."""
        return self._asked_ms > 0

    def observe_end(self, end: int, asked_ms: int) -> None:
        """The log ended at `end` at some time after `asked_ms`. An older end that is not reached yet is kept, since
        under a steady load a newer one would never be reached; but not one beyond the log's new end.
        """
        if not self.behind or end < self._end:
            self._end, self._asked_ms = end, asked_ms

    def advance(self, position: int) -> None:
        """All points before `position` are counted."""
        if self.behind and position >= self._end:
            self.caught_up_ms = max(self.caught_up_ms, self._asked_ms)
            self._asked_ms = 0

    def observe_event(self, time_ms: int, arrived_ms: int = 0) -> None:
        """`time_ms`: the largest event time of a series; `arrived_ms`: when its last point was read."""
        self.watermark_ms = max(self.watermark_ms, time_ms)
        self.arrived_ms = max(self.arrived_ms, arrived_ms)

    def idle_ms(self, arrived_ms: int) -> int:
        """How long a series has certainly had no point; `arrived_ms`: when its last one was read."""
        return max(0, self.caught_up_ms - arrived_ms)

    def time_ms(self, watermark_ms: int, arrived_ms: int) -> int:
        """The event time of a series whose newest point has `watermark_ms`; never ahead of the wall clock.

        >>> clock = EventClock()
        >>> clock.observe_end(0, asked_ms=900_000); clock.advance(0)
        >>> clock.time_ms(5_000, arrived_ms=897_500), clock.time_ms(5_000, arrived_ms=901_000)
        (7500, 5000)
        """
        return min(self.caught_up_ms, watermark_ms + self.idle_ms(arrived_ms))

    def closing_ms(self, watermark_ms: int, arrived_ms: int) -> int:
        """The time by which a series' windows close: `time_ms`, or the wall clock after a while without points."""
        if self.idle_ms(self.arrived_ms) >= PARTITION_SETTLED_MS or self.idle_ms(arrived_ms) >= SERIES_SETTLED_MS:
            return self.caught_up_ms
        return self.time_ms(watermark_ms, arrived_ms)

    def lag_s(self, now_ms: int) -> float:
        """How far counted events are behind the wall clock, seconds; 0 before the first one, and when all are counted.

        >>> clock = EventClock()
        >>> clock.observe_event(895_000); clock.observe_end(10, asked_ms=899_000)
        >>> before = clock.lag_s(now_ms=900_000)
        >>> clock.advance(10); before, clock.lag_s(now_ms=900_000)
        (5.0, 0.0)
        """
        return max(0, now_ms - self.watermark_ms) / 1000 if self.watermark_ms and self.behind else 0.0
