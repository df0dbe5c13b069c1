"""Has an agent become slow: are execution times a multiple of what they were? Pure.

In: buckets of execution times (`sketch.time_bucket`), in order. Out: the anomaly `slow`, firing and resolved. The rank test on
times in steps of 10 % tells the change with its proven run length; one that is smaller than `factor` is learnt without a word.
"""

from __future__ import annotations

import math
from typing import Any

from schemas.messages import Anomaly, AnomalyDetails, Severity
from streams.rules.detection.alarms import Alarms, Moment
from streams.rules.detection.ranks import RISE, RankTest
from streams.rules.detection.ring import RING, Ring
from streams.rules.windows import sketch

PER_BIN = 5
SETTLED = 20
CALM = 10
REBASE_POINTS = 200
LEAST_MS = 100.0
"""A smaller rise is as likely the pipeline's own, or a busy machine's, as the agent's."""
_LOG_BIN = PER_BIN * math.log((1 + sketch.ACCURACY) / (1 - sketch.ACCURACY))


class Pace:
    """One series' execution times."""

    __slots__ = ("_level", "_ring", "factor")

    def __init__(self, factor: float, run_length: float) -> None:
        self.factor = factor
        self._ring = Ring()
        self._level = RankTest(RISE, run_length)

    def observe(self, bucket: int, at: Moment, alarms: Alarms, confidence: float) -> list[Anomaly]:
        """One more time. `alarms`: the series'; `confidence`: the point's, to be shown."""
        bin_ = bucket // PER_BIN
        ring = self._ring
        ring.push(bin_)
        episode = alarms.firing.get("slow")
        if episode is None:
            return self._risen(at, alarms, confidence) if self._level.observe(bin_) else []
        now = ring.mean(SETTLED)
        episode.calm = episode.calm + 1 if now - episode.baseline <= episode.shift / 2 else 0
        if episode.calm < CALM and episode.age < REBASE_POINTS:
            return []
        if episode.calm < CALM:
            self._level.restart(ring.newest(REBASE_POINTS))
            note = f"{episode.age} points at the new pace: the new normal"
        else:
            self._level.reset()
            note = f"last {SETTLED} points: as before"
        return alarms.resolve("slow", at, self._details(now, episode.baseline, note, confidence))

    def _risen(self, at: Moment, alarms: Alarms, confidence: float) -> list[Anomaly]:
        level, ring = self._level, self._ring
        count = min(level.run, RING)
        level.reset()
        now, (before, _) = ring.mean(count), level.moments()
        if level.count > count:
            before += (before - now) * count / (level.count - count)
        if (now - before) * _LOG_BIN < math.log(self.factor) or _time(now) - _time(before) < LEAST_MS:
            return []
        severity: Severity = "high" if (now - before) * _LOG_BIN >= math.log(4 * self.factor) else "medium"
        why = self._details(now, before, f"last {count} of {level.count} points", confidence)
        return alarms.fire("slow", at, severity, before, why, now - before, "up")

    def _details(self, now: float, before: float, note: str, confidence: float) -> AnomalyDetails:
        """Times in words; the numbers of confidence mean nothing here, `deviation` is how many times as long."""
        return AnomalyDetails(
            current_confidence=round(confidence, 6),
            deviation=round(math.exp((now - before) * _LOG_BIN), 3),
            threshold=self.factor,
            window=f"{note}; {_time(now):.4g} ms, before {_time(before):.4g} ms",
            detector="rank-time",
        )

    def to_json(self) -> list[Any]:
        """A JSON-able form."""
        return [self._ring.to_json(), self._level.to_json()]

    @classmethod
    def from_json(cls, data: list[Any], factor: float, run_length: float) -> Pace:
        """The inverse of `to_json`."""
        pace = cls(factor, run_length)
        pace._ring = Ring.from_json(data[0])
        pace._level = RankTest.from_json(data[1], RISE, run_length)
        return pace


def _time(bin_: float) -> float:
    """Milliseconds of a mean of bins: a geometric mean of times."""
    return sketch.time_of(1) * math.exp((bin_ * PER_BIN + (PER_BIN - 1) / 2 - 1) * _LOG_BIN / PER_BIN)
