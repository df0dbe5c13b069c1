"""The usual values of a series by time of day or week. Pure.

In: values with their times, epoch ms, UTC. Out: the expected value, once enough whole periods were seen and it has
proved better than the slow mean. Bounded: one mean for each bin of the period.
"""

from __future__ import annotations

import math
from array import array
from base64 import b64decode, b64encode
from typing import Any

DAY_MS = 86_400_000
WEEK_MS = 7 * DAY_MS
RATE = 0.3
"""How fast a bin's mean follows its newest period."""
BETTER = 0.7
"""The profile is used when its mean error is at most this share of the slow mean's."""
FORGET = 1 / 500


class Profile:
    """One period. `errors`: mean absolute error of the profile and of the alternative, since the first period ended."""

    __slots__ = ("_begun_ms", "_bins", "_means", "_period", "_slot", "_sum", "errors", "ready_ms")

    def __init__(self, period_ms: int, bins: int, periods: float) -> None:
        self._period, self._bins = period_ms, bins
        self._means = array("f", [math.nan] * bins)
        self._slot = -1  # number of the bin since the epoch whose values are being averaged
        self._sum = [0.0, 0.0]
        self._begun_ms = -1
        self.ready_ms = periods * period_ms
        self.errors = [0.0, 0.0]

    def expect(self, time_ms: int) -> float | None:
        """The usual value at this time, linearly interpolated between the middles of bins."""
        place = time_ms % self._period * self._bins / self._period - 0.5
        index = int(place // 1)
        part = place - index
        low, high = self._means[index % self._bins], self._means[(index + 1) % self._bins]
        usual = low + (high - low) * part
        return None if usual != usual else usual

    def observe(self, value: float, expected: float | None, other: float, time_ms: int) -> None:
        """Learn a value. `expected`: this profile's expectation; `other`: the slow mean's."""
        if self._begun_ms < 0:
            self._begun_ms = time_ms
        if expected is not None:
            errors = self.errors
            errors[0] += (abs(value - expected) - errors[0]) * FORGET
            errors[1] += (abs(value - other) - errors[1]) * FORGET
        slot = time_ms * self._bins // self._period
        if slot > self._slot:
            if self._sum[0]:
                index, mean = self._slot % self._bins, self._sum[1] / self._sum[0]
                held = self._means[index]
                self._means[index] = round(mean if held != held else held + RATE * (mean - held), 6)
            self._slot, self._sum = slot, [0.0, 0.0]
        self._sum[0] += 1
        self._sum[1] += value

    def shift(self, by: float) -> None:
        """The level has moved, and the usual values with it."""
        for index, mean in enumerate(self._means):
            self._means[index] = round(mean + by, 6)
        self._sum[1] += self._sum[0] * by

    def trusted(self, time_ms: int) -> bool:
        """Whether it has seen enough periods and predicts better than the slow mean."""
        return (
            self._begun_ms >= 0
            and time_ms - self._begun_ms >= self.ready_ms
            and self.errors[0] < BETTER * self.errors[1]
        )

    def to_json(self) -> list[Any]:
        means = b64encode(self._means.tobytes()).decode() if self.errors[1] or self._slot >= 0 else ""
        return [means, self._slot, self._sum, self._begun_ms, self.errors]

    def load(self, data: list[Any]) -> None:
        means, self._slot, total, self._begun_ms, errors = data
        if isinstance(means, list):  # as version 5 of the series' state had them
            self._means = array("f", (math.nan if mean is None else mean for mean in means))
        elif means:
            self._means = array("f", b64decode(means))
        self._sum, self.errors = list(total), list(errors)
