"""When an agent's confidence is not what it was: four detectors over one series. Pure (river's ADWIN draws no random numbers).

In: confidences in the order of their offsets (late points never come here). Out: anomalies, firing or resolved.
  sudden_drop     mean of the last 5 points, or of one check interval, >= 0.3 below what went before
  low_confidence  mean of the last 20 points, or of one check interval, < 0.5
  high_variance   standard deviation of one check interval (at least 30 points, else of the last 100) > 0.2
  drift           ADWIN (river) cuts the last 100 to 200 points into two levels at least 0.05 apart
State is numbers and a ring of the last 200 confidences (to 1/10000); everything else follows from these, so a restart continues
exactly. Check intervals are event time; their boundaries do not depend on the wall clock unless the series is idle.
"""

from __future__ import annotations

import math
from array import array
from base64 import b64decode, b64encode
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Any

from river.drift import ADWIN

from schemas.messages import Anomaly, AnomalyDetails, Severity
from schemas.times import format_time
from streams.rules.alarms import Alarms, Moment, SeriesId

_ADWIN: Any = ADWIN  # untyped

SCALE = 10_000
RING = 200
RECENT = 5
HISTORY_MIN = 50
SIGNIFICANT = 4.0
"""A drop must also be this many standard errors: agents that scatter widely do not alarm on five unlucky points."""
LOW_POINTS = 20
CHECK_MIN = 5
VARIANCE_MIN = 30
VARIANCE_RING = 100
CALM = 10
REBASE_POINTS = 200
"""A drop that lasts this long is the new normal."""
DRIFT_DELTA = 0.9
DRIFT_ARMED = 100
DRIFT_SHIFT = 0.05
DRIFT_KEEP = 100
DRIFT_STABLE = 100
HISTORY_DECAY = 0.9
SHOWN = 20
"""How many confidences an anomaly shows."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What is abnormal. `check_interval_ms`: event time between two looks at the points in between."""

    sudden_drop: float = 0.3
    low_confidence: float = 0.5
    high_variance: float = 0.2
    check_interval_ms: int = 60_000


class Detectors:
    """All detectors of one series."""

    __slots__ = ("_adwin", "_drift_n", "_history", "_ring", "_slot", "_squares", "_tally", "_total", "alarms", "limits")

    def __init__(self, series: SeriesId, limits: Thresholds) -> None:
        self.alarms = Alarms(series)
        self.limits = limits
        self._ring: deque[int] = deque(maxlen=RING)
        self._total = 0
        self._squares = 0
        self._slot = -1
        self._tally = [0, 0, 0]  # points, sum, sum of squares since the last look
        self._history = [0.0, 0.0]  # weight, mean of the intervals before
        self._drift_n = 0  # how many of the ring's newest points ADWIN has seen
        self._adwin: Any = None

    def observe(self, confidence: float, at: Moment) -> list[Anomaly]:
        """One more point, in order. Returns what begins or ends with it, usually nothing."""
        found: list[Anomaly] = []
        slot = at.time_ms // self.limits.check_interval_ms
        if slot > self._slot:
            if self._slot >= 0 and self._tally[0]:
                found += self._look(at)
            self._slot = slot
        value = round(confidence * SCALE)
        self._push(value)
        self.alarms.step()
        recent = sum(islice(reversed(self._ring), RECENT))
        found += self._drop(recent, at)
        if recent < self.limits.low_confidence * SCALE * RECENT or "low_confidence" in self.alarms.firing:
            found += self._low(at)
        found += self._drift(value / SCALE, at)
        return found

    def due_ms(self) -> int:
        """When, on an idle series' clock, the points since the last look should be looked at; -1: there are none."""
        return (self._slot + 1) * self.limits.check_interval_ms if self._tally[0] else -1

    def look(self, at: Moment) -> list[Anomaly]:
        """Look at the points since the last check boundary though no later point has come."""
        self._slot += 1
        return self._look(at) if self._tally[0] else []

    def _push(self, value: int) -> None:
        ring = self._ring
        if len(ring) == RING:
            old = ring[0]
            self._total -= old
            self._squares -= old * old
        ring.append(value)
        self._total += value
        square = value * value
        self._squares += square
        tally = self._tally
        tally[0] += 1
        tally[1] += value
        tally[2] += square

    def _drop(self, recent: int, at: Moment) -> list[Anomaly]:
        episode = self.alarms.firing.get("sudden_drop")
        current = recent / (RECENT * SCALE)
        if episode is not None:
            limit = episode.baseline - self.limits.sudden_drop / 2
            episode.calm = episode.calm + 1 if current >= limit else 0
            if episode.calm < CALM and episode.age < REBASE_POINTS:
                return []
            if episode.calm < CALM:
                self._history = [0.0, 0.0]
            why = self._details("recent5", current, episode.baseline, self.limits.sudden_drop, f"last {RECENT} points")
            return self.alarms.resolve("sudden_drop", at, why)
        count = len(self._ring) - RECENT
        if count < HISTORY_MIN:
            return []
        before = (self._total - recent) / (count * SCALE)
        if before - current < self.limits.sudden_drop or not self._significant(before, current, count):
            return []
        why = self._details("recent5", current, before, self.limits.sudden_drop, f"last {RECENT} points")
        return self.alarms.fire("sudden_drop", at, _drop_severity(before - current), before, why)

    def _significant(self, before: float, current: float, count: int) -> bool:
        squares = self._squares - sum(value * value for value in islice(reversed(self._ring), RECENT))
        spread = math.sqrt(max(squares / (count * SCALE * SCALE) - before * before, 0.0))
        return before - current >= SIGNIFICANT * spread / math.sqrt(RECENT)

    def _low(self, at: Moment) -> list[Anomaly]:
        count = min(len(self._ring), LOW_POINTS)
        threshold = self.limits.low_confidence
        mean = sum(islice(reversed(self._ring), count)) / (count * SCALE)
        if "low_confidence" in self.alarms.firing:
            if mean < min(threshold * 1.1, 1.0):
                return []
            return self.alarms.resolve(
                "low_confidence", at, self._details("recent20", mean, None, threshold, f"last {count} points")
            )
        if count < LOW_POINTS or mean >= threshold:
            return []
        why = self._details("recent20", mean, None, threshold, f"last {count} points")
        return self.alarms.fire("low_confidence", at, _low_severity(mean, threshold), mean, why)

    def _drift(self, value: float, at: Moment) -> list[Anomaly]:
        adwin = self._adwin
        if adwin is None or self._drift_n >= RING - 1:
            keep = self._drift_n if adwin is None else DRIFT_KEEP
            adwin = self._fed(min(keep, len(self._ring) - 1), skip_newest=1)
        adwin.update(value)
        self._drift_n += 1
        found: list[Anomaly] = []
        if adwin.drift_detected:
            found = self._cut(int(adwin.width), at)
        episode = self.alarms.firing.get("drift")
        if episode is not None and episode.age >= DRIFT_STABLE:
            current = self._mean_of_newest(DRIFT_STABLE)
            found += self.alarms.resolve(
                "drift", at, self._details("adwin", current, episode.baseline, None, f"last {DRIFT_STABLE} points")
            )
        return found

    def _cut(self, width: int, at: Moment) -> list[Anomaly]:
        """ADWIN dropped all but its newest `width` points: the level changed there."""
        seen = self._drift_n
        newest = list(islice(reversed(self._ring), seen))
        current, older = newest[:width], newest[width:]
        self._fed(width)
        if len(self._ring) < DRIFT_ARMED or not current or not older:
            return []
        now, before = sum(current) / (len(current) * SCALE), sum(older) / (len(older) * SCALE)
        if abs(now - before) < DRIFT_SHIFT:
            return []
        episode = self.alarms.firing.get("drift")
        if episode is not None:
            episode.age = 0
            return []
        severity: Severity = "low" if now > before else _drop_severity(before - now)
        why = self._details("adwin", now, before, DRIFT_SHIFT, f"{len(older)} points before, {len(current)} after")
        return self.alarms.fire("drift", at, severity, before, why)

    def _fed(self, count: int, skip_newest: int = 0) -> Any:
        """An ADWIN that has seen exactly the ring's newest `count` points (before the `skip_newest` newest)."""
        adwin: Any = _ADWIN(delta=DRIFT_DELTA, clock=1)
        end = len(self._ring) - skip_newest
        for value in islice(self._ring, max(end - count, 0), end):
            adwin.update(value / SCALE)
        self._adwin = adwin
        self._drift_n = count
        return adwin

    def _look(self, at: Moment) -> list[Anomaly]:
        count, total, squares = self._tally
        found = self._look_at_spread(count, total, squares, at)
        if count < CHECK_MIN:
            return found  # a slow agent's intervals are joined until they hold enough points
        self._tally = [0, 0, 0]
        mean = total / (count * SCALE)
        window = f"{count} points in {self.limits.check_interval_ms // 1000} s to " + format_time(
            max(self._slot + 1, 0) * self.limits.check_interval_ms
        )
        weight, before = self._history
        if weight >= HISTORY_MIN and before - mean >= self.limits.sudden_drop:
            why = self._details("window", mean, before, self.limits.sudden_drop, window)
            found += self.alarms.fire("sudden_drop", at, _drop_severity(before - mean), before, why)
        if mean < self.limits.low_confidence:
            why = self._details("window", mean, None, self.limits.low_confidence, window)
            severity = _low_severity(mean, self.limits.low_confidence)
            found += self.alarms.fire("low_confidence", at, severity, mean, why)
        if "sudden_drop" not in self.alarms.firing:
            kept = min(weight * HISTORY_DECAY, 10.0 * RING)
            self._history = [kept + count, (before * kept + mean * count) / (kept + count)]
        return found

    def _look_at_spread(self, count: int, total: int, squares: int, at: Moment) -> list[Anomaly]:
        window = f"{count} points of one check interval"
        if count < VARIANCE_MIN:
            newest = list(islice(reversed(self._ring), VARIANCE_RING))
            count, total, squares = len(newest), sum(newest), sum(value * value for value in newest)
            window = f"last {count} points"
            if count < VARIANCE_MIN:
                return []
        spread = math.sqrt(count * squares - total * total) / (count * SCALE)
        threshold = self.limits.high_variance
        episode = self.alarms.firing.get("high_variance")
        mean = total / (count * SCALE)
        why = self._details("window", mean, None, threshold, window, deviation=spread)
        if episode is not None:
            return self.alarms.resolve("high_variance", at, why) if spread < threshold * 0.9 else []
        if spread <= threshold:
            return []
        return self.alarms.fire("high_variance", at, "high" if spread >= 1.5 * threshold else "medium", spread, why)

    def _mean_of_newest(self, count: int) -> float:
        count = min(count, len(self._ring))
        return sum(islice(reversed(self._ring), count)) / (count * SCALE)

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
            deviation = round(current - before, 6)
        return AnomalyDetails(
            current_confidence=round(current, 6),
            historical_average=None if before is None else round(before, 6),
            deviation=None if deviation is None else round(deviation, 6),
            threshold=threshold,
            window=window,
            detector=detector,
            points=[value / SCALE for value in list(islice(reversed(self._ring), SHOWN))[::-1]],
        )

    def to_json(self) -> list[Any]:
        """A JSON-able form."""
        ring = b64encode(array("H", self._ring).tobytes()).decode()
        return [ring, self._slot, self._tally, self._history, self._drift_n, self.alarms.to_json()]

    @classmethod
    def from_json(cls, data: list[Any], series: SeriesId, limits: Thresholds) -> Detectors:
        """The inverse of `to_json`; continues exactly where the other was."""
        detectors = cls(series, limits)
        ring, detectors._slot, tally, history, detectors._drift_n, alarms = data
        detectors._tally, detectors._history = list(tally), list(history)
        values = array("H", b64decode(ring))
        detectors._ring.extend(values)
        detectors._total = sum(values)
        detectors._squares = sum(value * value for value in values)
        detectors.alarms = Alarms.from_json(alarms, series)
        return detectors


def _drop_severity(by: float) -> Severity:
    return "high" if by >= 0.4 else "medium" if by >= 0.15 else "low"


def _low_severity(mean: float, threshold: float) -> Severity:
    return "high" if mean < threshold / 2 else "medium"
