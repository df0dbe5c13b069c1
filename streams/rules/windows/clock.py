"""What time it is in one partition's events, for series that get no points. Pure.

Event time goes on with the newest point of the partition, whoever's it is, and beside it as fast as the wall clock since the last
record was read. So a backlog, or an import of last week's points, is not taken for a fleet that fell silent. Where nothing more
comes, the wall clock decides.
"""

from __future__ import annotations

CAUGHT_UP_S = 2.0
"""A partition that brought nothing for this long has nothing more to bring at present."""


class EventClock:
    """The clock of one partition. `now_s`: monotonic seconds.

    >>> clock = EventClock(now_s=100.0)
    >>> clock.read(5_000, now_s=101.0)
    >>> [clock.time_ms(now_s, now_ms=900_000) for now_s in (101.0, 102.5, 103.0)]
    [5000, 6500, 900000]
    """

    __slots__ = ("read_s", "watermark_ms")

    def __init__(self, now_s: float) -> None:
        self.read_s = now_s
        self.watermark_ms = 0

    def read(self, time_ms: int, now_s: float) -> None:
        """A record was read; `time_ms` is the largest event time of its series."""
        self.read_s = now_s
        self.watermark_ms = max(self.watermark_ms, time_ms)

    def time_ms(self, now_s: float, now_ms: int) -> int:
        """The events' own time, epoch ms; never ahead of the wall clock `now_ms`."""
        waited_s = now_s - self.read_s
        return now_ms if waited_s >= CAUGHT_UP_S else min(now_ms, self.watermark_ms + int(waited_s * 1000))

    def lag_s(self, now_s: float, now_ms: int) -> float:
        """How far event time lies behind the wall clock, seconds; 0 before the first event.

        >>> clock = EventClock(now_s=100.0)
        >>> before = clock.lag_s(100.0, now_ms=900_000)
        >>> clock.read(895_000, now_s=101.0)
        >>> before, clock.lag_s(101.5, now_ms=900_000), clock.lag_s(103.0, now_ms=900_000)
        (0.0, 4.5, 0.0)
        """
        return (now_ms - self.time_ms(now_s, now_ms)) / 1000 if self.watermark_ms else 0.0
