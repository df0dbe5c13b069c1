"""Adaptive concurrency by AIMD: one more call at once while the agent copes, a tenth less on a sign of overload. Pure.

In: the end of each call: whether it was a sign of overload, when it began, how many were under way. Out: a number of
calls.

It begins at the agent's own limit, which is also its ceiling. One wave of failures counts as one sign: calls begun
before the last cut are ignored. It grows only while it is used, so an idle agent's limit does not drift.
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
        """`limit`: the limit that an earlier owner found."""
        self.ceiling = ceiling
        self._limit = float(ceiling) if limit is None else min(max(limit, FLOOR), ceiling)
        self._cut_at = float("-inf")

    @property
    def now(self) -> int:
        """How many calls may be under way."""
        return max(FLOOR, int(self._limit))

    @property
    def exact(self) -> float:
        """The unrounded limit, for the next owner."""
        return self._limit

    def reconfigure(self, ceiling: int) -> None:
        """Set a new ceiling. The limit found so far stays if it is below."""
        self.ceiling = ceiling
        self._limit = min(self._limit, ceiling)

    def ended(self, *, overload: bool, began: float, now: float, in_flight: int) -> None:
        """Add a call that began then and ended now, with `in_flight` calls under way. `overload`: it timed out or
        failed in a similar way.
        """
        if overload:
            if began > self._cut_at:
                self._limit = max(FLOOR, self._limit * BACKOFF)
                self._cut_at = now
        elif 2 * in_flight >= self._limit:
            self._limit = min(float(self.ceiling), self._limit + 1 / self._limit)
