"""How long a worker may rely on its membership of the group: a group reassigns a member's partitions no sooner than a
session after it last heard from it.

Two clocks are used: during a stop of the process both advance, during a suspension of the machine only the wall clock.
"""

from __future__ import annotations

import time

Instant = tuple[float, float]
"""Monotonic and wall clock, seconds."""


def now() -> Instant:
    """The instant on both clocks; take it before asking the group."""
    return time.monotonic(), time.time()


class MembershipLease:
    """Valid for `seconds` after it was last renewed."""

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
        """Whether it is valid at that instant; a wall clock that was set back ends it, which costs one question.

        >>> lease = MembershipLease(5.0)
        >>> lease.renew((100.0, 1000.0))
        >>> [lease.holds(at) for at in ((104.0, 1004.0), (106.0, 1006.0), (101.0, 4000.0), (101.0, 900.0))]
        [True, False, False, False]
        """
        if self._from is None:
            return False
        return all(0 <= there - here < self._seconds for here, there in zip(self._from, at, strict=True))
