"""Compares an agent's stated confidence with true outcomes, and calibrates it. Pure.

In: confidences with their true outcomes, in any order. Out: Brier score, log loss, gap with its interval, reliability
bins, the debiased calibration error, and a table from stated to calibrated confidence. State is sums in 21 bins around
the multiples of 0.05, which models prefer; sums of integers, so parts merge exactly.

The table: below 100 outcomes a logistic curve (Platt) whose prior is "as stated"; from 100 on each bin's own success
rate, shrunk towards that curve with the weight of ten outcomes. It is non-decreasing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

BINS = 21
SCALE = 10_000
MOST = 4000
"""Beyond this many outcomes, all counts are halved."""
ENOUGH = 10
"""Fewer outcomes give no table."""
BY_BINS = 100
STRENGTH = 10.0
PRIOR_SLOPE = 4.0
PRIOR_SHIFT = 1.0
"""Precisions of the curve's prior: slope 1 and shift 0."""
CLIP = 1e-6
Z95 = 1.959964


def bin_of(confidence: float) -> int:
    """The bin of a confidence: 0..20.

    >>> bin_of(0.0), bin_of(0.93), bin_of(1.0)
    (0, 19, 20)
    """
    return round(confidence * (BINS - 1))


@dataclass(frozen=True, slots=True)
class Bin:
    """One reliability bin: outcomes, mean confidence, success rate and its 95 % interval (Wilson)."""

    count: int
    confidence: float
    rate: float
    low: float
    high: float


class Calibration:
    """Outcomes by stated confidence.

    >>> c = Calibration()
    >>> for success in (True, False):
    ...     c.add(0.9, success)
    >>> c.count, round(c.brier(), 6), c.gap()[0], Calibration.from_json(c.to_json()) == c
    (2, 0.41, 0.4, True)
    """

    __slots__ = ("losses", "rows", "squares", "successes")

    def __init__(self) -> None:
        self.rows: dict[int, list[int]] = {}  # bin -> [outcomes, successes, sum of confidence]
        self.squares = 0
        self.successes = 0  # sum of the successes' confidences
        self.losses = 0

    def add(self, confidence: float, success: bool) -> None:
        """Add one outcome."""
        value = round(confidence * SCALE)
        row = self.rows.setdefault(bin_of(confidence), [0, 0, 0])
        row[0] += 1
        row[2] += value
        if success:
            row[1] += 1
            self.successes += value
        self.squares += value * value
        self.losses += _loss(value, success)

    def correct(self, confidence: float, success: bool) -> None:
        """An outcome that was added is the opposite: it is `success`. Nothing if `fade` has dropped it."""
        row = self.rows.get(bin_of(confidence), [0, 0, 0])
        if row[1] == (row[0] if success else 0):
            return
        value, step = round(confidence * SCALE), 1 if success else -1
        row[1] += step
        self.successes += step * value
        self.losses += _loss(value, success) - _loss(value, not success)

    def merge(self, other: Calibration) -> None:
        """Add all outcomes of `other`."""
        for index, row in other.rows.items():
            mine = self.rows.setdefault(index, [0, 0, 0])
            for place in range(3):
                mine[place] += row[place]
        self.squares += other.squares
        self.successes += other.successes
        self.losses += other.losses

    def fade(self) -> None:
        """Halve all counts: old outcomes weigh less. Means stay as they are."""
        count, wins = self.count, self.wins
        self.rows = {
            index: [n // 2, w // 2, total * (n // 2) // n] for index, (n, w, total) in self.rows.items() if n > 1
        }
        self.squares = self.squares * self.count // max(count, 1)
        self.losses = self.losses * self.count // max(count, 1)
        self.successes = self.successes * self.wins // max(wins, 1)

    @property
    def count(self) -> int:
        return sum(row[0] for row in self.rows.values())

    @property
    def wins(self) -> int:
        """The successes among the outcomes."""
        return sum(row[1] for row in self.rows.values())

    @property
    def rate(self) -> float:
        """Share of successes; 0 when empty."""
        count = self.count
        return self.wins / count if count else 0.0

    def brier(self) -> float:
        """Mean of (confidence - success)^2; 0 when empty."""
        count, unit = self.count, SCALE * SCALE
        total = self.squares - 2 * SCALE * self.successes + self.wins * unit
        return max(total / (count * unit), 0.0) if count else 0.0  # halved counts are rounded

    def log_loss(self) -> float:
        """Mean negative log likelihood, natural logarithm, confidences clipped to 1e-6; 0 when empty."""
        return max(self.losses / (self.count * SCALE), 0.0) if self.count else 0.0

    def gap(self) -> tuple[float, float, float]:
        """Mean confidence less success rate, and its 95 % interval; positive: overconfident."""
        count = self.count
        if not count:
            return 0.0, -1.0, 1.0
        mean = sum(row[2] for row in self.rows.values()) / (count * SCALE)
        gap = mean - self.rate
        # One outcome of each kind is added to those seen: otherwise a few equal ones would look certain.
        spread = math.sqrt(max(self.brier() - gap * gap, 0.0) + 1 / (count + 2)) / math.sqrt(count)
        return gap, max(gap - Z95 * spread, -1.0), min(gap + Z95 * spread, 1.0)

    def error(self) -> float:
        """Root mean square calibration error over the bins, less what chance alone would show: near 0 for an honest agent."""
        total, squares = 0, 0.0
        for count, wins, stated in self._full():
            rate = wins / count
            if count > 1:
                squares += count * ((stated / (count * SCALE) - rate) ** 2 - rate * (1 - rate) / (count - 1))
                total += count
        return math.sqrt(max(squares / total, 0.0)) if total else 0.0

    def _full(self) -> Iterator[list[int]]:
        return (self.rows[index] for index in sorted(self.rows) if self.rows[index][0] > 0)

    def bins(self) -> list[Bin]:
        """The reliability bins that hold outcomes, by confidence."""
        return [
            Bin(count, stated / (count * SCALE), wins / count, *wilson(wins, count))
            for count, wins, stated in self._full()
        ]

    def table(self) -> list[float] | None:
        """Calibrated confidence at the stated 0, 0.05, ... 1; None while there are fewer than ten outcomes."""
        count = self.count
        if count < ENOUGH:
            return None
        slope, shift = self._curve()
        knots = [_logistic(slope * _logit(index / (BINS - 1)) + shift) for index in range(BINS)]
        if count < BY_BINS:
            return [round(min(max(knot, 0.0), 1.0), 6) for knot in knots]
        weights = [STRENGTH] * BINS
        for index, (held, wins, _) in self.rows.items():
            knots[index] = (wins + STRENGTH * knots[index]) / (held + STRENGTH)
            weights[index] += held
        return [round(min(max(knot, 0.0), 1.0), 6) for knot in _never_falling(knots, weights)]

    def _curve(self) -> tuple[float, float]:
        """Slope and shift of the logistic curve: the most likely one under the prior, by Newton's method."""
        slope, shift = 1.0, 0.0
        data = [(_logit(stated / (count * SCALE)), count, wins) for count, wins, stated in self._full()]
        for _ in range(25):
            first, second = PRIOR_SLOPE * (slope - 1), PRIOR_SHIFT * shift
            a, b, c = PRIOR_SLOPE, 0.0, PRIOR_SHIFT
            for x, count, wins in data:
                chance = _logistic(slope * x + shift)
                miss, weight = count * chance - wins, count * chance * (1 - chance)
                first += miss * x
                second += miss
                a += weight * x * x
                b += weight * x
                c += weight
            determinant = a * c - b * b
            down, left = (c * first - b * second) / determinant, (a * second - b * first) / determinant
            scale = min(1.0, 2.0 / max(abs(down), abs(left), 1e-12))
            slope, shift = slope - scale * down, shift - scale * left
            if abs(down) + abs(left) < 1e-9:
                break
        return max(slope, 0.0), shift

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Calibration) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]

    def to_json(self) -> list[Any]:
        rows = [[index, *self.rows[index]] for index in sorted(self.rows) if any(self.rows[index])]
        return [rows, self.squares, self.successes, self.losses]

    @classmethod
    def from_json(cls, data: list[Any]) -> Calibration:
        found = cls()
        rows, found.squares, found.successes, found.losses = data
        # Earlier versions could write more (or fewer) successes than outcomes.
        found.rows = {index: [n, min(max(w, 0), n), min(total, n * SCALE)] for index, n, w, total in rows if n > 0}
        return found


def _loss(value: int, success: bool) -> int:
    """The negative log likelihood of an outcome; `value`: the stated confidence x `SCALE`."""
    chance = min(max(value / SCALE, CLIP), 1 - CLIP)
    return round(-math.log(chance if success else 1 - chance) * SCALE)


def calibrated(table: Sequence[float], confidence: float) -> float:
    """The calibrated value of a stated confidence, by linear interpolation of the table.

    >>> calibrated([index / 40 for index in range(21)], 0.9)
    0.45
    """
    place = min(max(confidence, 0.0), 1.0) * (BINS - 1)
    index = min(int(place), BINS - 2)
    part = place - index
    return round(table[index] * (1 - part) + table[index + 1] * part, 6)


def wilson(wins: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a success rate.

    >>> [round(edge, 3) for edge in wilson(8, 10)]
    [0.49, 0.943]
    """
    if count == 0:
        return 0.0, 1.0
    rate, square = wins / count, Z95 * Z95
    centre = (rate + square / (2 * count)) / (1 + square / count)
    half = Z95 * math.sqrt(rate * (1 - rate) / count + square / (4 * count * count)) / (1 + square / count)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def _never_falling(values: list[float], weights: list[float]) -> list[float]:
    """The nearest non-decreasing sequence: neighbours that fall are pooled."""
    pools: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights, strict=True):
        pool = (value, weight, 1)
        while pools and pools[-1][0] > pool[0]:
            before, heft, size = pools.pop()
            pool = ((before * heft + pool[0] * pool[1]) / (heft + pool[1]), heft + pool[1], size + pool[2])
        pools.append(pool)
    return [value for value, _, size in pools for _ in range(size)]


def _logit(chance: float) -> float:
    chance = min(max(chance, 0.005), 0.995)
    return math.log(chance / (1 - chance))


def _logistic(score: float) -> float:
    return 1 / (1 + math.exp(-min(max(score, -30.0), 30.0)))
