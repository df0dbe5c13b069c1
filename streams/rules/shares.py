"""How the agents of a worker share its memory: how many tasks one lane may hold, and when what finds no room is put aside. Pure.

In: the worker's budget and what is left of it, a lane's concurrency and pace, the time (monotonic seconds). Out: a number
of tasks; whether a lane is stuck. A limit is asked for when a task arrives and never takes back what a lane holds, so
nothing can swing. A limit shrinks with what is left: a hog leaves four fifths, a second one four fifths of that.
"""

from __future__ import annotations

from math import ceil, exp

AHEAD_S = 1.0
"""A lane may hold what its agent gets done within this time, up to twice a fair share."""
SHY = 4
"""What an agent does not get done soon may fill a fourth of the budget that is left."""
RESERVE = 4
"""A fourth of the budget is kept for those that have little; lanes that are quick may use it too."""
PATIENCE_S = 0.25
"""A lane that is full for longer than this, without a break, is stuck."""
EASE = 0.75
"""Below this share of its limit a lane has room again."""
RECENT_S = 60.0
"""An agent that got no task for longer than this is not waited upon."""
_SAMPLE_S = 0.1
_MEMORY_S = 1.0
_NO_PACE = 0.01


def lane_limit(budget: int, free: int, lanes: int, holding: int, concurrency: int, pace: float) -> int:
    """How many tasks a lane may hold, those being called included; at least 1.

    `budget`, `free`: tasks the worker may hold in all, and how many of them are not taken. `lanes`: how many hold any.
    `pace`: calls ended a second. A lane may hold a part of what is left; and what its agent can be called with at once while a
    `RESERVE` is left, else its share of what there is of it; and, up to twice a fair share, what it gets done in `AHEAD_S`.

    >>> lane_limit(1000, 1000, 0, 0, 10, 0.0)  # an agent that does not answer, alone
    250
    >>> lane_limit(1000, 100, 19, 100, 10, 0.0), lane_limit(1000, 100, 19, 3, 10, 60.0)  # many agents, little left
    (25, 60)
    """
    reserve = budget // RESERVE
    at_once = min(concurrency, max(min(reserve, holding + free) // (lanes + 1), holding + free - reserve))
    soon = min(ceil(pace * AHEAD_S), 2 * budget // (lanes + 1), budget - reserve)
    return max(1, at_once, soon, free // SHY)


def hungry(holding: int, limit: int, concurrency: int, idle_s: float) -> bool:
    """Whether an agent could do much more than it has, and had something lately: tasks of it may lie behind others'.

    >>> hungry(0, 100, 10, 1.0), hungry(7, 100, 10, 1.0), hungry(0, 100, 10, 90.0)
    (True, False, False)
    """
    return idle_s < RECENT_S and 2 * holding < min(limit, concurrency)


class Flow:
    """A lane's pace, and whether it is stuck.

    >>> flow = Flow(now=0.0)
    >>> flow.count(50, now=1.0); flow.pace
    50.0
    >>> [flow.stuck(10, 10, now) for now in (1.0, 1.2, 1.3)], flow.stuck(7, 10, 1.4), flow.stuck(10, 10, 1.5)
    ([False, False, True], False, False)
    """

    __slots__ = ("_at", "_ended", "_full_since", "pace", "seen")

    def __init__(self, now: float) -> None:
        self.pace = 0.0
        self.seen = now
        """When the agent last got a task."""
        self._at = now
        self._ended: int | None = None
        self._full_since: float | None = None

    def count(self, ended: int, now: float) -> None:
        """How many calls have ended so far, in all."""
        passed = now - self._at
        if passed < _SAMPLE_S:
            return
        rate = (ended - (self._ended or 0)) / passed
        first = self._ended is None or self.pace == 0.0
        pace = rate if first else self.pace + (rate - self.pace) * (1 - exp(-passed / _MEMORY_S))
        self.pace = pace if pace > _NO_PACE else 0.0
        self._at, self._ended = now, ended

    def rests(self, ended: int) -> bool:
        """Whether there is nothing to count: no call has ended for long."""
        return self.pace == 0.0 and ended == self._ended

    def stuck(self, holding: int, limit: int, now: float) -> bool:
        """Tell what the lane holds and may hold; whether it has been full for long."""
        if holding < limit * EASE:
            self._full_since = None
        elif holding >= limit and self._full_since is None:
            self._full_since = now
        return self._full_since is not None and now - self._full_since > PATIENCE_S


def wanted_back(holding: int, limit: int) -> int:
    """How many of a lane's tasks that were put aside should come back now: enough to fill it, once it has run low.

    >>> wanted_back(10, 100), wanted_back(60, 100), wanted_back(0, 1)
    (65, 0, 1)
    """
    return ceil(limit * EASE) - holding if 2 * holding < limit else 0
