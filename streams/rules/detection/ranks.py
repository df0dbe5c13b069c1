"""Whether the level of a stream has changed: a rank test whose mean time between false alarms is proven, not tuned.
Pure.

In: bins (0..255) of values in the order of their offsets. Out: True when the evidence for a change reaches the wanted
run length.

A value's rank among all earlier ones is uniform for any stable (exchangeable) stream, whatever its distribution. Each
bet pays P(rank | changed) / P(rank | stable), so it pays 1 on average while nothing has changed. M = (M + 1) x payment,
averaged over the bets, has a mean of at most t after t points; hence the mean number of points to M >= A is at least A
(e-detectors: Shin, Ramdas, Rinaldo 2024).

The bets shift, raise or spread the normal scores of the ranks. Ties share their payment, less a small discount, so a
constant stream never alarms. All earlier values stay in the histogram: a sliding reference would void the proof.

The proof does not cover neighbouring points that resemble each other. The correlation of their scores, with the last
one and with a slow mean, is measured; what is significant (two standard errors) is subtracted before betting.
Independent streams are left exact.
"""

from __future__ import annotations

import math
import statistics
from array import array
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

from river.base import DriftDetector

BINS = 256
SMALL = 65_535
RESOLUTION = 200
"""Bins from 0 to 1 for `update`."""
WARM = 20
"""No bets before this many points."""
DISCOUNT = 0.1
MEMORY = 1000
"""Points over which correlations are measured."""
MAX_PHI = 0.7
SLOW_RATE = 0.03
SLOW_MOST = 1.0
"""At most this much (in standard deviations) is attributed to slow swings: a level that stays away is a change."""
SIGNIFICANT = 2.0
UNDERFLOW = 1e-3
EDGE = 15.0
"""Beyond every score."""
BEGUN = 5.0
"""A change is dated from when the evidence was last below this."""

Side = Literal["down", "up", "spread"]

_ROOT = math.sqrt(0.5)
_inverse: Callable[[float, float, float], float] = getattr(
    statistics, "_normal_dist_inv_cdf", lambda chance, _mean, _deviation: NormalDist().inv_cdf(chance)
)
"""Called by NormalDist.inv_cdf after it checks its arguments, which takes as long again; four times a point."""
_erfc = math.erfc


@dataclass(frozen=True, slots=True)
class Bets:
    """Where the stake lies: (size, weight) per bet, in standard deviations of the scores; weights sum to 1."""

    down: tuple[tuple[float, float], ...] = ()
    up: tuple[tuple[float, float], ...] = ()
    spread: tuple[tuple[float, float], ...] = ()


LEVEL = Bets(down=((1.2, 0.4), (2.8, 0.45)), up=((1.2, 0.1),), spread=((1.8, 0.05),))
"""For confidences: falls matter most."""
RISE = Bets(up=((2.0, 1.0),))
"""For execution times."""

_Row = tuple[Side, float, float, float]
_ROWS: dict[Bets, tuple[_Row, ...]] = {}


def _rows(bets: Bets) -> tuple[_Row, ...]:
    """(side, shift, factor, weight): a bet's distribution function is Phi(score x factor + shift), scores over sqrt 2."""
    found = _ROWS.get(bets)
    if found is None:
        found = _ROWS[bets] = (
            *(("down", size * _ROOT, 1.0, weight) for size, weight in bets.down),
            *(("up", -size * _ROOT, 1.0, weight) for size, weight in bets.up),
            *(("spread", 0.0, 1 / size, weight) for size, weight in bets.spread),
        )
    return found


class RankTest(DriftDetector):
    """One stream's reference, evidence and measured correlations; one of river's drift detectors.

    >>> test = RankTest(LEVEL, 10_000)
    >>> any(test.observe(190) for _ in range(2000)), any(test.observe(60) for _ in range(20))
    (False, True)
    """

    def __init__(self, bets: Bets = LEVEL, run_length: float = 10_000.0) -> None:
        super().__init__()
        self.bets = bets
        self._rows = _rows(bets)
        self.run_length = run_length
        self.run = 0
        self.restart(())

    def restart(self, bins: Iterable[int]) -> None:
        """Forget everything and learn these."""
        self._counts = array("H", bytes(2 * BINS))
        self._blocks = array("I", bytes(4 * BINS // 16))
        self.count = 0
        self.range = (BINS, -1)  # lowest and highest bin seen
        self._products = array(
            "d", bytes(7 * 8)
        )  # last score, slow mean, and sums of squares and products (see `_measure`)
        self.reset()
        for index in bins:
            self._put(index, 1)

    def _put(self, index: int, held: int) -> None:
        if self._counts[index] + held > SMALL:
            self._counts = array("I", self._counts)  # two bytes are enough for most series
        self._counts[index] += held
        self._blocks[index >> 4] += held
        self.count += held
        low, high = self.range
        self.range = (min(low, index), max(high, index))

    def reset(self) -> None:
        """Forget the evidence, keep the reference."""
        self.evidence = [0.0] * len(self._rows)
        self.run = 0

    def update(self, x: float) -> None:
        """Add a value in [0, 1], as in river: then read `drift_detected`. After a drift the evidence starts again with
        the next value.
        """
        if self._drift_detected:
            self.reset()
        self._drift_detected = self.observe(round(x * RESOLUTION))

    @property
    def total(self) -> float:
        """The evidence: an alarm is due at `run_length`."""
        return sum(row[3] * held for row, held in zip(self._rows, self.evidence, strict=True))

    @property
    def side(self) -> Side:
        """Where most of the evidence points."""
        shares = [row[3] * held for row, held in zip(self._rows, self.evidence, strict=True)]
        return self._rows[shares.index(max(shares))][0]

    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation of the reference, in bins. The reference must not be empty."""
        count = self.count
        mean = sum(index * held for index, held in enumerate(self._counts)) / count
        square = sum((index - mean) ** 2 * held for index, held in enumerate(self._counts) if held) / count
        return mean, math.sqrt(square)

    def observe(self, index: int) -> bool:
        """Add a value; True when the evidence suffices. The caller then resets or restarts."""
        counts, blocks = self._counts, self._blocks
        if counts[index] == SMALL:
            counts = self._counts = array("I", counts)
        block = index >> 4
        below = sum(blocks[:block]) + sum(counts[block << 4 : index])
        counts[index] = same = counts[index] + 1
        blocks[block] += 1
        self.count = count = self.count + 1
        if same == 1:
            first, last = self.range
            self.range = (index if index < first else first, index if index > last else last)
        if count < WARM:
            return False
        upto = below + same
        low = _inverse(below / count, 0.0, 1.0) if below else -EDGE
        high = _inverse(upto / count, 0.0, 1.0) if upto < count else EDGE
        score = (low + high) / 2 if below and upto < count else _inverse((below + same / 2) / count, 0.0, 1.0)
        low *= _ROOT
        high *= _ROOT
        expected, deviation = self._measure(score, count)
        chance = same / count
        factor = (1 - DISCOUNT * chance) / 2
        if expected or deviation != 1.0:
            centre = expected * _ROOT
            if below:
                low = (low - centre) / deviation
            if upto < count:
                high = (high - centre) / deviation
            usual = _between(low, high) / 2
            chance = max(usual, UNDERFLOW * chance)
        factor /= chance
        total = 0.0
        evidence = self.evidence
        for place, (_, shift, scale, weight) in enumerate(self._rows):
            lower, upper = low * scale + shift, high * scale + shift
            paid = _erfc(lower) - _erfc(upper) if lower + upper > 0 else _erfc(-upper) - _erfc(-lower)
            held = evidence[place] = (evidence[place] + 1) * paid * factor
            total += weight * held
        self.run = self.run + 1 if total >= BEGUN else 0
        return total >= self.run_length

    def _measure(self, score: float, count: int) -> tuple[float, float]:
        """The expectation of this score and its spread; then learn from the score."""
        products = self._products
        last, slow, squares, left, lagged, slows, along = products
        expected, deviation = 0.0, 1.0
        if slows > 0 and along > 0 and along > SIGNIFICANT * math.sqrt(slows):
            expected = min(along / slows - SIGNIFICANT / math.sqrt(slows), 1.0) * slow
            expected = min(max(expected, -SLOW_MOST), SLOW_MOST)
            if squares > 0:
                deviation = math.sqrt(min(max(left / squares, 0.25), 1.0))
        rest = score - expected
        memory = count if count < MEMORY else MEMORY
        if lagged > 0 and left > 0:
            phi = lagged / left - SIGNIFICANT / math.sqrt(memory)
            if phi > 0:
                phi = min(phi, MAX_PHI)
                expected += phi * last
                deviation *= math.sqrt(1 - phi * phi)
        keep = 1 - 1 / memory
        products[0] = rest
        products[1] = slow + SLOW_RATE * (score - slow)
        products[2] = squares * keep + score * score
        products[3] = left * keep + rest * rest
        products[4] = lagged * keep + rest * last
        products[5] = slows * keep + slow * slow
        products[6] = along * keep + slow * score
        return expected, deviation

    def to_json(self) -> list[Any]:
        """A JSON-able form; of the histogram, the counts from the lowest to the highest bin seen, base64, and that lowest bin."""
        low, high = self.range
        counts = b64encode(self._counts[low : high + 1].tobytes()).decode()
        return [counts, list(self._products), self.evidence, self.run, low, self._counts.typecode]

    @classmethod
    def from_json(cls, data: list[Any], bets: Bets, run_length: float) -> RankTest:
        """The inverse of `to_json`. A changed `run_length` takes effect; changed bets drop the evidence."""
        test = cls(bets, run_length)
        counts, products, evidence, run, *how = data
        # Version 5 of the series' state had bins and counts in turn.
        pairs = (
            enumerate(array(how[1], b64decode(counts)), how[0]) if how else zip(counts[::2], counts[1::2], strict=True)
        )
        for index, held in pairs:
            if held:
                test._put(index, held)
        test._products = array("d", products)
        if len(evidence) == len(test._rows):
            test.evidence, test.run = list(evidence), run
        return test


def _between(low: float, high: float) -> float:
    """Twice the normal probability between two scores (over sqrt 2), exact in either tail."""
    return _erfc(low) - _erfc(high) if low + high > 0 else _erfc(-high) - _erfc(-low)
