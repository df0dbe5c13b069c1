"""How many calls an agent takes at once, found by trying: one more while it copes, a tenth less when it does not (AIMD). Pure.

In: the end of each call: whether it was a sign of overload, when it began, how many were under way. Out: a number of calls.
The agent's own limit is the ceiling and the beginning. A wave of failures is one sign: calls begun before the last cut are not
counted again. It grows only while it is used, so that an idle agent's limit does not drift.
"""

from __future__ import annotations

BACKOFF = 0.9
FLOOR = 1


class AimdLimit:
    """The concurrency of one agent, between 1 and `ceiling`.

    >>> limit = AimdLimit(10)
    >>> limit.ended(overload=True, began=0.0, now=1.0, in_flight=10), limit.now
    (None, 9)
    >>> limit.ended(overload=True, began=0.5, now=1.1, in_flight=9), limit.now  # of the same wave
    (None, 9)
    """

    __slots__ = ("_cut_at", "_limit", "ceiling")

    def __init__(self, ceiling: int, limit: float | None = None) -> None:
        """`limit`: what an earlier owner had found."""
        self.ceiling = ceiling
        self._limit = float(ceiling) if limit is None else min(max(limit, FLOOR), ceiling)
        self._cut_at = float("-inf")

    @property
    def now(self) -> int:
        """How many calls may be under way."""
        return max(FLOOR, int(self._limit))

    @property
    def exact(self) -> float:
        """What is kept for the next owner."""
        return self._limit

    def reconfigure(self, ceiling: int) -> None:
        """A new ceiling; what was found stays as far as it fits."""
        self.ceiling = ceiling
        self._limit = min(self._limit, ceiling)

    def ended(self, *, overload: bool, began: float, now: float, in_flight: int) -> None:
        """A call that began then ended now, one of `in_flight` under way. `overload`: it timed out or the like."""
        if overload:
            if began > self._cut_at:
                self._limit = max(FLOOR, self._limit * BACKOFF)
                self._cut_at = now
        elif 2 * in_flight >= self._limit:
            self._limit = min(float(self.ceiling), self._limit + 1 / self._limit)
