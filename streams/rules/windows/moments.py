"""The statistics of a window: exact, mergeable, independent of the order of points. Pure.

In: samples (a data point's numbers, prepared once). Out: counts, mean, variance, quantiles, Brier score, calibration
error, and for the measures of some points (`measures.py`) count, sum, mean and a quantile.

Sums are integers, scaled by 2^52, so adding commutes bit for bit and a merge of parts equals one pass. (Welford's and
Chan's updates are stable but depend on the order in their last bits.)
"""

from __future__ import annotations

from typing import Any

from schemas.messages import ConfidenceDataPoint
from streams.rules.windows import measures, sketch

CONFIDENCE_SHIFT = 52
TIME_SHIFT = 52
CONFIDENCE_ONE = 1 << CONFIDENCE_SHIFT
TIME_ONE = 1 << TIME_SHIFT
BINS = 10
MAX_TIME_MS = sketch.MAX_TIME_MS
"""Longer execution times count as this long."""


class PointSample:
    """The numbers of one data point, scaled and binned once for all its windows."""

    __slots__ = ("bin", "confidence", "fixed", "hist_bin", "measures", "square", "success", "time_bucket", "time_fixed")

    def __init__(self, point: ConfidenceDataPoint) -> None:
        confidence = point.confidence
        self.confidence = confidence
        self.fixed = fixed = int(confidence * CONFIDENCE_ONE)
        self.square = fixed * fixed
        self.success = 1 if point.success else 0
        self.bin = min(int(confidence * BINS), BINS - 1)
        self.hist_bin = sketch.confidence_bin(confidence)
        time_ms = min(point.execution_time, MAX_TIME_MS)
        self.time_bucket = sketch.time_bucket(time_ms)
        self.time_fixed = int(time_ms * TIME_ONE)
        self.measures = measures.readings(point)


class Moments:
    """The mergeable state of one window.

    >>> from schemas.messages import ConfidenceDataPoint as P
    >>> m = Moments()
    >>> for c in (0.25, 0.75):
    ...     m.observe(PointSample(P(agent_id="a", confidence=c, success=True, timestamp=0, execution_time=8)))
    >>> m.count, m.mean(), m.variance(), Moments.from_json(m.to_json()) == m
    (2, 0.5, 0.0625, True)
    """

    __slots__ = (
        "bins",
        "confidences",
        "corrections",
        "count",
        "max",
        "measures",
        "min",
        "squares",
        "success_sum",
        "successes",
        "time_sum",
        "times",
        "total",
    )

    def __init__(self) -> None:
        self.bins: dict[int, list[int]] = {}  # reliability bin -> [points, successes, sum of confidence]
        self.count = self.successes = self.total = 0  # over the bins: points, successes, sum of confidence
        self.squares = 0
        self.success_sum = 0  # sum of the confidences of the successes
        self.min = 1.0
        self.max = 0.0
        self.time_sum = 0
        self.corrections = 0  # points whose success was reported again; each makes a revision
        self.confidences: sketch.Histogram = {}
        self.times: sketch.Histogram = {}
        self.measures: measures.Held = {}

    def observe(self, sample: PointSample) -> None:
        fixed = sample.fixed
        row = self.bins.get(sample.bin)
        if row is None:
            row = self.bins[sample.bin] = [0, 0, 0]
        row[0] += 1
        row[2] += fixed
        self.count += 1
        self.total += fixed
        if sample.success:
            row[1] += 1
            self.successes += 1
            self.success_sum += fixed
        self.squares += sample.square
        confidence = sample.confidence
        if confidence < self.min:
            self.min = confidence
        if confidence > self.max:
            self.max = confidence
        self.time_sum += sample.time_fixed
        index = sample.hist_bin
        self.confidences[index] = self.confidences.get(index, 0) + 1
        index = sample.time_bucket
        self.times[index] = self.times.get(index, 0) + 1
        if sample.measures:
            measures.add(self.measures, sample.measures)

    def correct(self, sample: PointSample, was: bool) -> bool:
        """Correct the success of a point that is counted here as `was`; False if there is no such point."""
        row = self.bins.get(sample.bin)
        if row is None or (row[1] == 0 if was else row[1] == row[0]):
            return False
        step = -1 if was else 1
        row[1] += step
        self.successes += step
        self.success_sum += step * sample.fixed
        self.corrections += 1
        return True

    def merge(self, other: Moments) -> None:
        """Add all points of `other`; it stays as it is."""
        for index, (count, successes, total) in other.bins.items():
            row = self.bins.setdefault(index, [0, 0, 0])
            row[0] += count
            row[1] += successes
            row[2] += total
        self.count += other.count
        self.successes += other.successes
        self.total += other.total
        self.squares += other.squares
        self.success_sum += other.success_sum
        self.corrections += other.corrections
        self.min = min(self.min, other.min)
        self.max = max(self.max, other.max)
        self.time_sum += other.time_sum
        sketch.merge(self.confidences, other.confidences)
        sketch.merge(self.times, other.times)
        measures.merge(self.measures, other.measures)

    def mean(self) -> float:
        """Mean confidence; 0 when empty."""
        count = self.count
        return self.total / (count << CONFIDENCE_SHIFT) if count else 0.0

    def variance(self) -> float:
        """Population variance of the confidence, never negative; 0 when empty."""
        count = self.count
        if not count:
            return 0.0
        total = self.total
        return (count * self.squares - total * total) / (count * count << 2 * CONFIDENCE_SHIFT)

    def mean_time_ms(self) -> float:
        """Mean execution time, ms; 0 when empty."""
        count = self.count
        return self.time_sum / (count << TIME_SHIFT) if count else 0.0

    def brier(self) -> float:
        """Mean of (confidence - success)^2; 0 when empty."""
        count = self.count
        if not count:
            return 0.0
        scaled = self.squares - (self.success_sum << CONFIDENCE_SHIFT + 1) + (self.successes << 2 * CONFIDENCE_SHIFT)
        return scaled / (count << 2 * CONFIDENCE_SHIFT)

    def ece(self) -> float:
        """Expected calibration error over ten equal bins: the mean of |confidence - success rate|, weighted by points."""
        count = self.count
        gap = sum(abs(total - (successes << CONFIDENCE_SHIFT)) for _, successes, total in self.bins.values())
        return gap / (count << CONFIDENCE_SHIFT) if count else 0.0

    def confidence_quantiles(self, *ranks: float) -> list[float]:
        """Confidences at the ranks (ascending), to 1/200, within [min, max]. Needs at least one point."""
        scale = sketch.CONFIDENCE_BINS - 1
        return [
            min(max(index / scale, self.min), self.max) for index in sketch.quantiles(self.confidences, tuple(ranks))
        ]

    def time_quantiles_ms(self, *ranks: float) -> list[float]:
        """Execution times at the ranks (ascending), ms, within 1 %. Needs at least one point."""
        return [sketch.time_of(bucket) for bucket in sketch.quantiles(self.times, tuple(ranks))]

    def to_json(self) -> list[Any]:
        """A JSON-able form; large integers are hexadecimal text, because JSON writers stop at 64 bits."""
        return [
            [[index, row[0], row[1], f"{row[2]:x}"] for index, row in self.bins.items()],
            f"{self.squares:x}",
            f"{self.success_sum:x}",
            self.min,
            self.max,
            f"{self.time_sum:x}",
            sketch.flat(self.confidences),
            sketch.flat(self.times),
            self.corrections,
            measures.to_json(self.measures),
        ]

    @classmethod
    def from_json(cls, data: list[Any]) -> Moments:
        moments = cls()
        bins, squares, success_sum, moments.min, moments.max, time_sum, confidences, times, *later = data
        moments.bins = {index: [count, successes, int(total, 16)] for index, count, successes, total in bins}
        for count, successes, total in moments.bins.values():
            moments.count += count
            moments.successes += successes
            moments.total += total
        moments.squares = int(squares, 16)
        moments.success_sum = int(success_sum, 16)
        moments.time_sum = int(time_sum, 16)
        moments.confidences = sketch.unflat(confidences)
        moments.times = sketch.unflat(times)
        moments.corrections = later[0] if later else 0
        moments.measures = measures.from_json(later[1]) if len(later) > 1 else {}
        return moments

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Moments):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]
