"""Whether an active stream has stopped. Pure.

In: the times of its points, epoch ms. Out: from when on its silence is unusual. Idle streams are ignored: a stream is
armed once it has been active, without an unusual pause, for ten times as long as an unusual pause.
"""

from __future__ import annotations

from typing import Any

POINTS = 100
TIMES_USUAL = 20
TIMES_WIDEST = 5
ARMED_FOR = 10
FORGET = 0.999


class Silence:
    """The pace of one stream.

    >>> pace = Silence()
    >>> for second in range(0, 7000, 10):
    ...     pace.observe(second * 1000, 600_000)
    >>> pace.due_ms(600_000) - 6_990_000
    600000
    """

    __slots__ = ("count", "first_ms", "last_ms", "usual_ms", "widest_ms")

    def __init__(self) -> None:
        self.count = 0
        self.first_ms = 0
        self.last_ms = 0
        self.usual_ms = 0.0
        self.widest_ms = 0.0

    def observe(self, time_ms: int, at_least_ms: int) -> None:
        """Add a point; points out of order count as simultaneous."""
        gap = time_ms - self.last_ms
        if self.count == 0 or gap > max(at_least_ms, self._limit_ms()):
            self.count, self.first_ms, self.last_ms = 1, time_ms, max(time_ms, self.last_ms)
            return
        gap = max(gap, 0)
        self.count += 1
        self.last_ms = max(time_ms, self.last_ms)
        self.usual_ms += (gap - self.usual_ms) / min(self.count - 1, 200)
        self.widest_ms = max(float(gap), self.widest_ms * FORGET)

    def _limit_ms(self) -> float:
        return max(self.usual_ms * TIMES_USUAL, self.widest_ms * TIMES_WIDEST)

    def due_ms(self, at_least_ms: int) -> int:
        """From when on silence is unusual; -1 while not armed."""
        limit = max(at_least_ms, int(self._limit_ms()))
        if self.count < POINTS or self.last_ms - self.first_ms < ARMED_FOR * limit:
            return -1
        return self.last_ms + limit

    def to_json(self) -> list[Any]:
        return [self.count, self.first_ms, self.last_ms, self.usual_ms, self.widest_ms]

    @classmethod
    def from_json(cls, data: list[Any]) -> Silence:
        pace = cls()
        pace.count, pace.first_ms, pace.last_ms, pace.usual_ms, pace.widest_ms = data
        return pace
