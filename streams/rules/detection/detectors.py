"""What is wrong with an agent: all detectors over one series. Pure.

In: confidence, outcome and execution time of points in the order of their offsets (late points never come here). Out: anomalies.
  sudden_drop     the level fell by at least 0.3: found by the rank test, the last 5 points, one check interval, or one point
                  that is below all before it and seven standard deviations off
  drift           the level or the spread changed (rank test; deviation from the series' own past), or the value is stuck
  low_confidence  mean of the last 20 points, or of one check interval, < 0.5; not while that is usual for the series
  high_variance   standard deviation of one check interval (else of the last 8 to 100 points, less what chance allows) > 0.2
  outlier         a spike, and the points after it are normal again (`deviation.py`, scored by river)
  miscalibrated   confidence above success by more than 0.1 on average: found by betting (`overconfidence.py`)
  slow            execution time at least twice what it was: found by the rank test; or tasks wait longer (`spending.py`)
  costly          cost (else tokens) at least twice what it was, or one answer far above all others (`spending.py`)
  silent          (`silence.py`; by the caller's clock)
and what the detectors find that a user has chosen (`chosen.py`). While a level alarm is on, nothing learns; the episode ends
when the level is back, or after 200 points as the new normal. State is numbers, so a restart continues exactly. Check intervals
are event time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from schemas.messages import Anomaly, AnomalyDetails, Severity
from schemas.times import format_time
from streams.rules.detection.alarms import Alarms, Moment, SeriesId
from streams.rules.detection.chosen import ChosenDetectors
from streams.rules.detection.deviation import Deviation
from streams.rules.detection.interval_checks import CHECK_MIN, VARIANCE_MIN, VARIANCE_RING, IntervalChecks, Sums
from streams.rules.detection.level_shift import (
    HISTORY_MIN,
    PER_BIN,
    RANKS_SHARE,
    RECENT,
    SCALE,
    SINGLE_BINS,
    LevelShiftDetector,
    drop_severity,
)
from streams.rules.detection.level_shift import Thresholds as Thresholds
from streams.rules.detection.overconfidence import Overconfidence
from streams.rules.detection.pace import Pace
from streams.rules.detection.port import Point
from streams.rules.detection.ranks import LEVEL, RankTest
from streams.rules.detection.ring import RING, Ring
from streams.rules.detection.specs import DetectorSpec
from streams.rules.detection.spending import Spending
from streams.rules.windows.measures import Reading

LOW_POINTS = 20
LOW_RATE = 1 / 500
WIDE_RATE = 1 / 200
LOW_USUAL = 0.1
"""A series that was low (or scattered) for this share of its newest points (checks) has been reported, or is always
so.
"""
LOW_ERRORS = 2.0
DROP_ERRORS = 4.0
VARIANCE_LEAST = 8
FEW_POINTS = 0.45
"""Of 8 to 29 points, a spread this much smaller (over the root of their number) still counts: they scatter by chance."""
MOST_BUCKET = 1152
"""The bucket of the longest execution time that is distinguished."""
PACE_RARER = 10
"""Slowness is less urgent than errors: its test keeps this many times the run length."""


class Detectors:
    """All detectors of one series."""

    __slots__ = (
        "_chosen",
        "_gap",
        "_half_drop",
        "_interval",
        "_level",
        "_low_share",
        "_low_sum",
        "_pace",
        "_spending",
        "_wide_share",
        "alarms",
        "limits",
    )

    def __init__(self, series: SeriesId, limits: Thresholds) -> None:
        self.alarms = Alarms(series)
        self.limits = limits
        self._interval = IntervalChecks(limits.check_interval_ms)
        self._level = LevelShiftDetector(self.alarms, limits)
        self._gap = Overconfidence(limits.overconfidence, limits.run_length)
        self._pace: Pace | None = None
        self._spending = Spending(limits.slow_factor, limits.cost_factor, PACE_RARER * limits.run_length)
        self._low_share = self._wide_share = 0.0
        self._low_sum = limits.low_confidence * SCALE * RECENT
        self._half_drop = limits.sudden_drop * SCALE / 2
        self._chosen = ChosenDetectors(self._configured(()), self.alarms)

    def _configured(self, registered: tuple[DetectorSpec, ...]) -> tuple[DetectorSpec, ...]:
        series = self.alarms.series
        found: dict[str, DetectorSpec] = {}
        for spec in (*self.limits.chosen, *registered):
            if spec.concerns(series.agent_id, series.pattern_name):
                found.setdefault(spec.name, spec)
        return tuple(found.values())

    def choose(self, registered: tuple[DetectorSpec, ...], at: Moment) -> list[Anomaly]:
        """Run these detectors of the agent's registration too; the settings' detectors win if names are equal. Returns
        the episodes that end because their detector is no longer chosen.
        """
        return self._chosen.choose(self._configured(registered), at)

    def observe(
        self,
        confidence: float,
        at: Moment,
        success: bool | None = None,
        time_bucket: int | None = None,
        readings: Sequence[Reading] = (),
    ) -> list[Anomaly]:
        """Add one point, in order. Returns what begins or ends with it, usually nothing.

        `success`, `time_bucket` (see `sketch.time_bucket`): None if they are not evaluated. `readings`: see
        `measures.py`.
        """
        found: list[Anomaly] = []
        interval = self._interval
        if interval.due(at.time_ms):
            found += self._evaluate(at)
        value = round(confidence * SCALE)
        bin_ = (value + PER_BIN // 2) // PER_BIN
        alarms = self.alarms
        firing = alarms.firing
        if alarms.busy:
            alarms.step()
            found += self._level.outlier(value, at)
        ring = self._level.ring
        level = self._level
        if level.waiting is not None or bin_ <= level.test.range[0] - SINGLE_BINS:
            found += level.single(value, bin_, at)
        found += level.deviations(value, at)
        ring.push(value)
        interval.add(value)
        recent = ring.sum_of(RECENT)
        if self._level.is_away:
            found += self._level.changed(recent, at)
            if self._level.rebased:
                self._level.rebased = False
                interval.forget()
        else:
            if self._level.test.observe(bin_):
                found += self._level.change(at)
            if recent < (ring.total / len(ring) - self._half_drop) * RECENT:
                found += self._level.drop(recent, at)
        low = recent < self._low_sum
        self._low_share += (low - self._low_share) * LOW_RATE
        if low or "low_confidence" in firing:
            found += self._low(at)
        if success is not None:
            found += self._calibration(confidence, success, at)
        if time_bucket is not None or readings:
            found += self._took(time_bucket, readings, at, confidence)
        return found + self._observe_chosen(value, success, time_bucket, at) if self._chosen else found

    def _took(
        self, time_bucket: int | None, readings: Sequence[Reading], at: Moment, confidence: float
    ) -> list[Anomaly]:
        """Evaluate the answer's time, wait and cost."""
        found: list[Anomaly] = []
        if time_bucket is not None:
            if self._pace is None:
                self._pace = Pace(self.limits.slow_factor, PACE_RARER * self.limits.run_length)
            found += self._pace.observe(time_bucket, at, self.alarms, confidence)
        if readings:
            found += self._spending.observe(readings, at, self.alarms, confidence)
        return found

    def _observe_chosen(self, value: int, success: bool | None, bucket: int | None, at: Moment) -> list[Anomaly]:
        time = 0.0 if bucket is None else min(bucket / MOST_BUCKET, 1.0)
        return self._chosen.observe(Point(value / SCALE, success, time), at, self._level.ring)

    def judge(self, confidence: float, success: bool, at: Moment) -> list[Anomaly]:
        """Add an outcome that was reported later: it only affects the calibration."""
        return self._calibration(confidence, success, at)

    # Further rules of the original

    def _low(self, at: Moment) -> list[Anomaly]:
        count = min(len(self._level.ring), LOW_POINTS)
        threshold = self.limits.low_confidence
        mean = self._level.ring.mean(count) / SCALE
        why = self._level.details("recent20", mean, None, threshold, f"last {count} points")
        if "low_confidence" in self.alarms.firing:
            return [] if mean < min(threshold * 1.1, 1.0) else self.alarms.resolve("low_confidence", at, why)
        if count < LOW_POINTS or mean >= threshold or self._low_share > LOW_USUAL:
            return []
        return self.alarms.fire("low_confidence", at, _low_severity(mean, threshold), mean, why)

    def due_ms(self) -> int:
        """When, by the clock of an idle series, the points since the last evaluation are due; -1 without any."""
        return self._interval.due_ms()

    def evaluate_idle(self, at: Moment) -> list[Anomaly]:
        """Evaluate the points since the last check boundary although no later point has come."""
        self._interval.close()
        return self._evaluate(at) if self._interval.count else []

    def _evaluate(self, at: Moment) -> list[Anomaly]:
        interval = self._interval
        sums = interval.sums()
        found = self._look_at_spread(sums, at)
        if self._level.waiting is not None:
            found = self._level.single_due(at) + found
        if sums.count < CHECK_MIN:
            return found  # a slow agent's intervals are joined until they hold enough points
        interval.empty()
        mean = sums.mean() / SCALE
        fall = interval.before - mean
        if interval.weight >= HISTORY_MIN and fall >= self.limits.sudden_drop and self._beyond_chance(fall, sums.count):
            why = self._level.details(
                "window", mean, interval.before, self.limits.sudden_drop, self._describe_interval(sums)
            )
            found += self.alarms.fire("sudden_drop", at, drop_severity(fall), interval.before, why, -fall, "down")
        if (
            mean < self.limits.low_confidence
            and self._low_share <= LOW_USUAL
            and mean < self.limits.low_confidence - self._chance(sums)
        ):
            why = self._level.details("window", mean, None, self.limits.low_confidence, self._describe_interval(sums))
            severity = _low_severity(mean, self.limits.low_confidence)
            found += self.alarms.fire("low_confidence", at, severity, mean, why)
        if "sudden_drop" not in self.alarms.firing:
            interval.remember(sums.count, mean)
        return found

    def _describe_interval(self, sums: Sums) -> str:
        return f"{sums.count} points to {format_time(self._interval.end_ms)}"

    def _beyond_chance(self, fall: float, count: int) -> bool:
        """Whether the points are lower than chance explains: a few points may be low where points scatter widely."""
        ring = self._level.ring
        if self._level.deviation.ordinary:
            return False
        return fall >= DROP_ERRORS * ring.spread(max(len(ring) - count, 1)) / SCALE / math.sqrt(count)

    def _chance(self, sums: Sums) -> float:
        """How far the mean of a few points may lie below the true one by chance; 0 for a new agent."""
        if sums.count >= LOW_POINTS or len(self._level.ring) < LOW_POINTS:
            return 0.0
        return LOW_ERRORS * self._level.ring.spread(RING) / SCALE / math.sqrt(sums.count)

    def _look_at_spread(self, sums: Sums, at: Moment) -> list[Anomaly]:
        window, threshold = "of one check interval", self.limits.high_variance
        on = "high_variance" in self.alarms.firing
        if sums.count < VARIANCE_MIN:
            ring = self._level.ring
            if len(ring) < VARIANCE_LEAST:
                return []
            if not on and ring.most_spread(VARIANCE_RING) <= threshold * SCALE:
                self._wide_share -= self._wide_share * WIDE_RATE
                return []  # the usual case: adding up the newest points is unnecessary
            newest = ring.newest(VARIANCE_RING)
            sums = Sums(len(newest), sum(newest), sum(value * value for value in newest))
            window = ""
        spread = sums.spread() / SCALE
        if sums.count < VARIANCE_MIN:
            spread *= 1 - FEW_POINTS / math.sqrt(sums.count)
        usual = self._wide_share > LOW_USUAL
        self._wide_share += ((spread > threshold) - self._wide_share) * WIDE_RATE
        if spread >= threshold * 0.9 if on else spread <= threshold or usual:
            return []
        window = f"{sums.count} points {window}" if window else f"last {sums.count} points"
        why = self._level.details("window", sums.mean() / SCALE, None, threshold, window, deviation=spread)
        if on:
            return self.alarms.resolve("high_variance", at, why)
        return self.alarms.fire("high_variance", at, "high" if spread >= 1.5 * threshold else "medium", spread, why)

    def _calibration(self, confidence: float, success: bool, at: Moment) -> list[Anomaly]:
        test = self._gap
        if "miscalibrated" in self.alarms.firing:
            if not test.ended(confidence, success):
                return []
            why = self._gap_details(test)
            test.reset()
            return self.alarms.resolve("miscalibrated", at, why)
        if not test.observe(confidence, success):
            return []
        mean, rate, _ = test.gap()
        why = self._gap_details(test)
        test.watch_end()
        if not self.alarms.ready("miscalibrated"):
            test.reset()
            return []
        severity: Severity = "high" if mean - rate >= 0.3 else "medium"
        return self.alarms.fire("miscalibrated", at, severity, rate, why, mean - rate)

    def _gap_details(self, test: Overconfidence) -> AnomalyDetails:
        mean, rate, count = test.gap()
        window = f"last {count} points: mean confidence {mean:.3f}, success rate {rate:.3f}"
        return self._level.details("betting", mean, rate, test.slack, window)

    def shown(self) -> list[float]:
        """The newest confidences, oldest first."""
        return self._level.shown()

    def to_json(self) -> list[Any]:
        pace = None if self._pace is None else self._pace.to_json()
        level = self._level
        parts = [level.ring.to_json(), self._interval.to_json(), self.alarms.to_json()]
        own = [
            level.deviation.to_json(),
            level.flat.to_json(),
            level.quiet,
            self._low_share,
            self._wide_share,
            level.verdict.to_json(),
            level.waiting,
            level.left,
        ]
        return [
            *parts,
            level.test.to_json(),
            self._gap.to_json(),
            pace,
            self._chosen.to_json(),
            own,
            self._spending.to_json(),
            self._interval.later(),
        ]

    @classmethod
    def from_json(cls, data: list[Any], series: SeriesId, limits: Thresholds) -> Detectors:
        """The inverse of `to_json`; continues exactly where the other one was."""
        detectors = cls(series, limits)
        ring, interval, alarms, level, gap, pace, *later = data
        detectors._level.ring = Ring.from_json(ring)
        detectors._interval = IntervalChecks.from_json(interval, limits.check_interval_ms, *later[3:4])
        detectors.alarms = detectors._level.alarms = Alarms.from_json(alarms, series)
        detectors._level.test = RankTest.from_json(level, LEVEL, RANKS_SHARE * limits.run_length)
        detectors._gap = Overconfidence.from_json(gap, limits.overconfidence, limits.run_length)
        detectors._chosen = ChosenDetectors(detectors._configured(()), detectors.alarms)
        if later:
            detectors._chosen.load(later[0])
            deviation, flat, quiet, detectors._low_share, detectors._wide_share, verdict, waiting, *left = later[1]
            detectors._level.quiet = quiet
            detectors._level.deviation = Deviation.from_json(deviation, limits.run_length)
            detectors._level.flat.load(flat)
            detectors._level.verdict.load(verdict)
            detectors._level.waiting = None if waiting is None else tuple(waiting)
            if left and left[0] is not None:
                detectors._level.left = tuple(left[0])
        if len(later) > 2:
            detectors._spending.load(later[2])
        if pace is not None:
            detectors._pace = Pace.from_json(pace, limits.slow_factor, PACE_RARER * limits.run_length)
        return detectors


def _low_severity(mean: float, threshold: float) -> Severity:
    return "high" if mean < threshold / 2 else "medium"
