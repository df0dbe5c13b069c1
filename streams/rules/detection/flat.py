"""Whether a series is stuck at one value. Pure.

In: values that can be equal, in order. Out: True when a run of equal values becomes too long for this series: longer
than twice any run before it, and less probable than one in ten run lengths. A constant series never alarms.
"""

from __future__ import annotations

import math
from typing import Any

LEAST = 10
HISTORY = 50
RARER = 10


class Flat:
    """The runs of equal values of one series.

    >>> flat = Flat(10_000)
    >>> any(flat.observe(index * 37 % 101) for index in range(200)), [flat.observe(7) for _ in range(12)].index(True)
    (False, 9)
    """

    __slots__ = ("_count", "_equal", "_last", "_longest", "_needed", "_reported", "_stuck", "run")

    def __init__(self, run_length: float) -> None:
        self._needed = math.log(RARER * run_length)
        self._last = -1
        self.run = 0
        self._longest = 1
        self._count = 0  # points before the present run
        self._stuck = False  # the present run has been reported
        self._reported = False  # a run was reported: it is not learnt, later ones are
        self._equal = 0  # of these, points equal to the one before them

    def observe(self, value: int) -> bool:
        if value != self._last:
            run = self.run
            if not self._stuck or self._reported:
                if run > self._longest:
                    self._longest = run
                self._count += run
                self._equal += run - 1 if run else 0
            self._reported |= self._stuck
            self._stuck = False
            self._last, self.run = value, 1
            return False
        self.run = run = self.run + 1
        if run < LEAST or self._count < HISTORY or run < 2 * self._longest:
            return False
        chance = (self._equal + 1) / (self._count + 2)
        if -(run - 1) * math.log(chance) < self._needed:
            return False
        self._stuck = True
        return True

    def to_json(self) -> list[Any]:
        return [self._last, self.run, self._longest, self._count, self._equal, self._stuck, self._reported]

    def load(self, data: list[Any]) -> None:
        self._last, self.run, self._longest, self._count, self._equal, self._stuck, self._reported = data
