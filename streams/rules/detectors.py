"""What is wrong with an agent: all detectors over one series. Pure.

In: confidence, outcome and execution time of points in the order of their offsets (late points never come here). Out: anomalies.
  sudden_drop     the level fell by at least 0.3: told by the rank test, by the last 5 points or by one check interval
  drift           the level changed by at least 0.05 either way, or its spread grew: told by the rank test (`ranks.py`)
  low_confidence  mean of the last 20 points, or of one check interval, < 0.5
  high_variance   standard deviation of one check interval (at least 30 points, else of the last 100) > 0.2
  outlier         one point beyond all before it, 8 standard deviations and 0.25 off, and those after it are normal again
  miscalibrated   confidence above success by more than 0.1 on average: told by betting (`overconfidence.py`)
  slow            execution time at least twice what it was: told by the rank test
  silent          (`silence.py`; by the caller's clock)
While a level alarm is on, its rank test does not learn; the episode ends when the level is back, or after 200 points as the new
normal. State is numbers, so a restart continues exactly. Check intervals are event time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from schemas.messages import Anomaly, AnomalyDetails, AnomalyType, Severity
from schemas.times import format_time
from streams.rules.alarms import Alarms, Episode, Moment, SeriesId
from streams.rules.looks import CHECK_MIN, VARIANCE_MIN, VARIANCE_RING, Looks, Sums
from streams.rules.overconfidence import Overconfidence
from streams.rules.pace import Pace
from streams.rules.ranks import LEVEL, RankTest
from streams.rules.ring import RING, Ring

SCALE = 10_000
PER_BIN = 50
"""Confidences to 1/10000 in the ring, to 1/200 in the rank test."""
RECENT = 5
SETTLED = 20
HISTORY_MIN = 50
SIGNIFICANT = 6.0
"""A drop over 5 points must also be this many standard errors: agents that scatter widely do not alarm on five unlucky points."""
LOW_POINTS = 20
CALM = 10
REBASE_POINTS = 200
"""A change that lasts this long is the new normal."""
LEAST_SHIFT = 0.05
LEAST_SPREAD = 0.03
OUTLIER_MIN = 200
OUTLIER_BINS = 10
OUTLIER_SPREADS = 8.0
OUTLIER_LEAST = 0.25
OUTLIER_HOLD = 3
PACE_RARER = 10
"""Being slow is less urgent than being wrong: its test keeps to so many times the run length."""
SHOWN = 20
"""How many confidences an anomaly shows."""
LEVELS: tuple[AnomalyType, ...] = ("sudden_drop", "drift")


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What is abnormal. `check_interval_ms`: event time between two looks at the points in between.

    `run_length`: mean points between false alarms that the proven tests keep to (that of execution times: ten times as many);
    `overconfidence`: how far mean confidence may lie above the success rate; `slow_factor`: times the usual execution time;
    `silent_after_ms`: the shortest silence told.
    """

    sudden_drop: float = 0.3
    low_confidence: float = 0.5
    high_variance: float = 0.2
    check_interval_ms: int = 60_000
    run_length: float = 10_000.0
    overconfidence: float = 0.1
    slow_factor: float = 2.0
    silent_after_ms: int = 600_000


class Detectors:
    """All detectors of one series."""

    __slots__ = ("_gap", "_level", "_looks", "_pace", "_ring", "alarms", "limits")

    def __init__(self, series: SeriesId, limits: Thresholds) -> None:
        self.alarms = Alarms(series)
        self.limits = limits
        self._ring = Ring()
        self._looks = Looks(limits.check_interval_ms)
        self._level = RankTest(LEVEL, limits.run_length)
        self._gap = Overconfidence(limits.overconfidence, limits.run_length)
        self._pace: Pace | None = None

    def observe(
        self, confidence: float, at: Moment, success: bool | None = None, time_bucket: int | None = None
    ) -> list[Anomaly]:
        """One more point, in order. Returns what begins or ends with it, usually nothing.

        `success`, `time_bucket` (see `sketch.time_bucket`): None when they are not to be judged.
        """
        found: list[Anomaly] = []
        looks = self._looks
        if looks.due(at.time_ms):
            found += self._look(at)
        value = round(confidence * SCALE)
        bin_ = (value + PER_BIN // 2) // PER_BIN
        alarms = self.alarms
        firing = alarms.firing
        low, high = self._level.range
        if alarms.busy:
            alarms.step()
            found += self._outlier(value, bin_, at)
        elif bin_ < low - OUTLIER_BINS or bin_ > high + OUTLIER_BINS:
            found += self._outlier(value, bin_, at)
        ring = self._ring
        ring.push(value)
        looks.add(value)
        recent = ring.sum_of(RECENT)
        if "drift" in firing or "sudden_drop" in firing:
            found += self._changed(recent, at)
        else:
            if self._level.observe(bin_):
                found += self._change(at)
            if recent < (ring.total / len(ring) - self.limits.sudden_drop * SCALE / 2) * RECENT:
                found += self._drop(recent, at)
        if recent < self.limits.low_confidence * SCALE * RECENT or "low_confidence" in firing:
            found += self._low(at)
        if success is not None:
            found += self._calibration(confidence, success, at)
        if time_bucket is not None:
            if self._pace is None:
                self._pace = Pace(self.limits.slow_factor, PACE_RARER * self.limits.run_length)
            found += self._pace.observe(time_bucket, at, alarms, confidence)
        return found

    def judge(self, confidence: float, success: bool, at: Moment) -> list[Anomaly]:
        """An outcome that was told afterwards: only the calibration is concerned."""
        return self._calibration(confidence, success, at)

    @property
    def correlation(self) -> float:
        """Lag-1 correlation of the series, as measured."""
        return self._level.correlation

    # The level

    def _change(self, at: Moment) -> list[Anomaly]:
        """The rank test has its evidence: say what changed, unless it is too small to matter."""
        level, side = self._level, self._level.side
        count = min(level.run, RING)
        level.reset()
        now, newest = self._ring.mean(count) / SCALE, self._ring.spread(count) / SCALE
        mean, spread = level.moments()
        before, spread = mean * PER_BIN / SCALE, spread * PER_BIN / SCALE
        if level.count > count:
            before += (before - now) * count / (level.count - count)  # without the changed points themselves
        shift = newest - spread if side == "spread" else now - before
        if (side == "spread" and shift < LEAST_SPREAD) or (side != "spread" and abs(shift) < LEAST_SHIFT):
            return []
        kind: AnomalyType = "sudden_drop" if side == "down" and -shift >= self.limits.sudden_drop else "drift"
        severity: Severity = "low" if shift > 0 else _drop_severity(-shift)
        why = self._details(
            f"rank-{side}", now, before, self.limits.run_length, f"last {count} of {level.count} points"
        )
        if side == "spread":
            why, before = why.model_copy(update={"deviation": round(shift, 6)}), spread
        return self.alarms.fire(kind, at, severity, before, why, shift, side)

    def _drop(self, recent: int, at: Moment) -> list[Anomaly]:
        """The original's rule: the mean of five against all before them in the ring."""
        count = len(self._ring) - RECENT
        current = recent / (RECENT * SCALE)
        if count < HISTORY_MIN or "sudden_drop" in self.alarms.firing:
            return []
        before = (self._ring.total - recent) / (count * SCALE)
        if before - current < self.limits.sudden_drop or not self._significant(before, current, count):
            return []
        why = self._details("recent5", current, before, self.limits.sudden_drop, f"last {RECENT} points")
        return self.alarms.fire(
            "sudden_drop", at, _drop_severity(before - current), before, why, current - before, "down"
        )

    def _significant(self, before: float, current: float, count: int) -> bool:
        squares = self._ring.squares - sum(value * value for value in self._ring.newest(RECENT))
        spread = math.sqrt(max(squares / (count * SCALE * SCALE) - before * before, 0.0))
        return before - current >= SIGNIFICANT * spread / math.sqrt(RECENT)

    def _changed(self, recent: int, at: Moment) -> list[Anomaly]:
        """One more point while the level is not what it was: is it back, is it worse, is it here to stay?"""
        found: list[Anomaly] = []
        drift = self.alarms.firing.get("drift")
        if drift is not None and drift.side == "down" and "sudden_drop" not in self.alarms.firing:
            found += self._worse(drift, recent, at)
        settled = 0
        for kind in LEVELS:
            episode = self.alarms.firing.get(kind)
            if episode is None:
                continue
            episode.calm = episode.calm + 1 if self._back(kind, episode) else 0
            if episode.calm < CALM and episode.age < REBASE_POINTS:
                continue
            count = RECENT if kind == "sudden_drop" else SETTLED
            current = self._ring.mean(count) / SCALE
            window = f"last {count} points: as before"
            if episode.calm < CALM:
                window, settled = f"{episode.age} points at the new level: the new normal", episode.age
            before = None if episode.side == "spread" else episode.baseline
            found += self.alarms.resolve(kind, at, self._details("level", current, before, None, window))
        if settled:
            self._looks.forget()
            values = self._ring.newest(settled)
            self._level.restart((value + PER_BIN // 2) // PER_BIN for value in values)
        elif not any(kind in self.alarms.firing for kind in LEVELS):
            self._level.reset()
        return found

    def _back(self, kind: AnomalyType, episode: Episode) -> bool:
        if episode.side == "spread":
            return self._ring.spread(SETTLED) / SCALE <= episode.baseline + episode.shift / 2
        current = self._ring.mean(RECENT if kind == "sudden_drop" else SETTLED) / SCALE
        least = self.limits.sudden_drop if kind == "sudden_drop" else LEAST_SHIFT
        return abs(current - episode.baseline) <= max(abs(episode.shift), least) / 2

    def _worse(self, drift: Episode, recent: int, at: Moment) -> list[Anomaly]:
        current = recent / (RECENT * SCALE)
        fall = drift.baseline - current
        if drift.age < RECENT or fall < self.limits.sudden_drop:
            return []
        why = self._details("recent5", current, drift.baseline, self.limits.sudden_drop, f"last {RECENT} points")
        return self.alarms.fire("sudden_drop", at, _drop_severity(fall), drift.baseline, why, -fall, "down")

    def _outlier(self, value: int, bin_: int, at: Moment) -> list[Anomaly]:
        """Looked at before the point enters the ring."""
        alarms = self.alarms
        episode = alarms.firing.get("outlier")
        if episode is not None:
            if episode.age < CALM:
                return []
            return alarms.resolve("outlier", at, self._details("single", value / SCALE, None, None, "normal again"))
        low, high = self._level.range
        if low - OUTLIER_BINS <= bin_ <= high + OUTLIER_BINS or self._level.count < OUTLIER_MIN:
            return alarms.due(at) if alarms.pending else []
        count, total = len(self._ring), self._ring.total
        mean = total / count
        spread = max(math.sqrt(max(self._ring.squares / count - mean * mean, 0.0)), 0.02 * SCALE)
        if abs(value - mean) < max(OUTLIER_SPREADS * spread, OUTLIER_LEAST * SCALE):
            return alarms.due(at) if alarms.pending else []
        if "outlier" in alarms.pending:
            alarms.withdraw("outlier")  # two of them: the level is changing, and others tell that
            return []
        current, before = value / SCALE, mean / SCALE
        why = self._details("single", current, before, OUTLIER_SPREADS, f"one point against the last {count}")
        alarms.pend("outlier", OUTLIER_HOLD, Episode("", "low", before, current - before), why)
        return []

    # The original's other rules

    def _low(self, at: Moment) -> list[Anomaly]:
        count = min(len(self._ring), LOW_POINTS)
        threshold = self.limits.low_confidence
        mean = self._ring.mean(count) / SCALE
        why = self._details("recent20", mean, None, threshold, f"last {count} points")
        if "low_confidence" in self.alarms.firing:
            return [] if mean < min(threshold * 1.1, 1.0) else self.alarms.resolve("low_confidence", at, why)
        if count < LOW_POINTS or mean >= threshold:
            return []
        return self.alarms.fire("low_confidence", at, _low_severity(mean, threshold), mean, why)

    def due_ms(self) -> int:
        """When, on an idle series' clock, the points since the last look should be looked at; -1: there are none."""
        return self._looks.due_ms()

    def look(self, at: Moment) -> list[Anomaly]:
        """Look at the points since the last check boundary though no later point has come."""
        self._looks.slot += 1
        return self._look(at) if self._looks.count else []

    def _look(self, at: Moment) -> list[Anomaly]:
        looks = self._looks
        sums = looks.sums()
        found = self._look_at_spread(sums, at)
        if sums.count < CHECK_MIN:
            return found  # a slow agent's intervals are joined until they hold enough points
        end = format_time(looks.due_ms())
        looks.empty()
        mean = sums.mean() / SCALE
        window = f"{sums.count} points in {self.limits.check_interval_ms // 1000} s to {end}"
        fall = looks.before - mean
        if looks.weight >= HISTORY_MIN and fall >= self.limits.sudden_drop:
            why = self._details("window", mean, looks.before, self.limits.sudden_drop, window)
            found += self.alarms.fire("sudden_drop", at, _drop_severity(fall), looks.before, why, -fall, "down")
        if mean < self.limits.low_confidence:
            why = self._details("window", mean, None, self.limits.low_confidence, window)
            severity = _low_severity(mean, self.limits.low_confidence)
            found += self.alarms.fire("low_confidence", at, severity, mean, why)
        if "sudden_drop" not in self.alarms.firing:
            looks.remember(sums.count, mean)
        return found

    def _look_at_spread(self, sums: Sums, at: Moment) -> list[Anomaly]:
        window = f"{sums.count} points of one check interval"
        if sums.count < VARIANCE_MIN:
            newest = self._ring.newest(VARIANCE_RING)
            sums = Sums(len(newest), sum(newest), sum(value * value for value in newest))
            window = f"last {sums.count} points"
            if sums.count < VARIANCE_MIN:
                return []
        spread = sums.spread() / SCALE
        threshold = self.limits.high_variance
        why = self._details("window", sums.mean() / SCALE, None, threshold, window, deviation=spread)
        if "high_variance" in self.alarms.firing:
            return self.alarms.resolve("high_variance", at, why) if spread < threshold * 0.9 else []
        if spread <= threshold:
            return []
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
        return self._details("betting", mean, rate, test.slack, window)

    def _details(
        self,
        detector: str,
        current: float,
        before: float | None,
        threshold: float | None,
        window: str,
        deviation: float | None = None,
    ) -> AnomalyDetails:
        if deviation is None and before is not None:
            deviation = current - before
        return AnomalyDetails(
            current_confidence=round(current, 6),
            historical_average=None if before is None else round(before, 6),
            deviation=None if deviation is None else round(deviation, 6),
            threshold=threshold,
            window=window,
            detector=detector,
            points=self.shown(),
        )

    def shown(self) -> list[float]:
        """The newest confidences, oldest first."""
        return [value / SCALE for value in self._ring.newest(SHOWN)]

    def to_json(self) -> list[Any]:
        """A JSON-able form."""
        pace = None if self._pace is None else self._pace.to_json()
        parts = [self._ring.to_json(), self._looks.to_json(), self.alarms.to_json()]
        return [*parts, self._level.to_json(), self._gap.to_json(), pace]

    @classmethod
    def from_json(cls, data: list[Any], series: SeriesId, limits: Thresholds) -> Detectors:
        """The inverse of `to_json`; continues exactly where the other was."""
        detectors = cls(series, limits)
        ring, looks, alarms, level, gap, pace = data
        detectors._ring = Ring.from_json(ring)
        detectors._looks = Looks.from_json(looks, limits.check_interval_ms)
        detectors.alarms = Alarms.from_json(alarms, series)
        detectors._level = RankTest.from_json(level, LEVEL, limits.run_length)
        detectors._gap = Overconfidence.from_json(gap, limits.overconfidence, limits.run_length)
        if pace is not None:
            detectors._pace = Pace.from_json(pace, limits.slow_factor, PACE_RARER * limits.run_length)
        return detectors

    @classmethod
    def from_first(cls, data: list[Any], series: SeriesId, limits: Thresholds) -> Detectors:
        """What version 1 wrote: ring, looks and alarms are taken over; the new tests learn from the ring."""
        detectors = cls(series, limits)
        ring, slot, tally, history, _, alarms = data
        detectors._ring = Ring.from_json(ring)
        detectors._looks = Looks.from_json([slot, tally, history], limits.check_interval_ms)
        detectors.alarms = Alarms.from_first(alarms, series)
        detectors._level.restart((value + PER_BIN // 2) // PER_BIN for value in detectors._ring.newest(RING))
        return detectors


def _drop_severity(by: float) -> Severity:
    return "high" if by >= 0.4 else "medium" if by >= 0.15 else "low"


def _low_severity(mean: float, threshold: float) -> Severity:
    return "high" if mean < threshold / 2 else "medium"
