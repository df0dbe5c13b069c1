"""For how long a worker may take its membership of the group for granted: a group gives a member's partitions away no sooner than
a session after it last heard of it.

Two clocks are asked: a process that is stopped sees both go on, a machine that is suspended only the wall clock.
"""

from __future__ import annotations

import time

Instant = tuple[float, float]
"""Monotonic and wall clock, seconds."""


def now() -> Instant:
    """Taken before the group is asked."""
    return time.monotonic(), time.time()


class Lease:
    """Holds for `seconds` after it was last renewed."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._from: Instant | None = None

    def renew(self, asked: Instant) -> None:
        """The group answered a question that was asked then."""
        self._from = asked

    def end(self) -> None:
        """The partitions are gone."""
        self._from = None

    def holds(self, at: Instant) -> bool:
        """Whether it holds at that instant; a wall clock that was set back ends it, which costs a question.

        >>> lease = Lease(5.0)
        >>> lease.renew((100.0, 1000.0))
        >>> [lease.holds(at) for at in ((104.0, 1004.0), (106.0, 1006.0), (101.0, 4000.0), (101.0, 900.0))]
        [True, False, False, False]
        """
        if self._from is None:
            return False
        return all(0 <= there - here < self._seconds for here, there in zip(self._from, at, strict=True))
