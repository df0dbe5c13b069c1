"""Whether an agent has become slow or expensive: its execution time or cost is a multiple of the former one. Pure.

In: buckets of execution times, costs or tokens (`sketch.time_bucket`), in order. Out: the anomalies `slow` and
`costly`, firing and resolved. The rank test on values in steps of 10 % finds a lasting rise with its proven run length;
a rise smaller than `factor` is learnt without an alarm. For costs, a single answer far above all before it is an alarm
too: the tail of the distances from the usual cost (`tail.py`) sets the threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from schemas.messages import Anomaly, AnomalyDetails, Severity
from streams.rules.detection.alarms import Alarms, Key, Moment
from streams.rules.detection.ranks import BINS, RISE, RankTest
from streams.rules.detection.ring import RING, Ring
from streams.rules.detection.tail import Tail
from streams.rules.windows import sketch

PER_BIN = 5
SETTLED = 20
SPIKE_SETTLED = 5
CALM = 10
REBASE_POINTS = 200
SPIKE_BINS = 14
"""A single value that is less than about four times the usual one is no spike."""
SPIKE_BEYOND = 1.1
LOG_BIN = PER_BIN * math.log((1 + sketch.ACCURACY) / (1 - sketch.ACCURACY))
_TAIL_UNIT = 10.0
"""Bins are kept in tenths, to fit the tail's histogram."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The measured quantity. `key`: of its episodes; `least`: smallest rise that matters, in `unit`; `spikes`: single
    values alarm.

    `scale`: factor applied before values are put into buckets.
    """

    name: str
    key: Key
    unit: str
    least: float
    scale: float = 1.0
    spikes: bool = False


EXECUTION = Subject("time", "slow", " ms", 100.0)
"""A smaller rise is as likely caused by the pipeline, or a busy machine, as by the agent."""
COST = Subject("cost", "costly", "", 0.0, scale=1e6, spikes=True)
TOKENS = Subject("tokens", "costly", " tokens", 100.0, spikes=True)


class Pace:
    """One quantity of one series."""

    __slots__ = ("_level", "_ring", "_tail", "factor", "subject")

    def __init__(self, factor: float, run_length: float, subject: Subject = EXECUTION) -> None:
        self.factor = factor
        self.subject = subject
        self._ring = Ring()
        self._level = RankTest(RISE, run_length)
        self._tail = Tail(1 / run_length, SPIKE_BEYOND) if subject.spikes else None

    def observe(self, bucket: int, at: Moment, alarms: Alarms, confidence: float) -> list[Anomaly]:
        """Add a value. `alarms`: the series'; `confidence`: the point's, for the anomaly's details."""
        bin_ = min(bucket // PER_BIN, BINS - 1)
        ring, key = self._ring, self.subject.key
        episode = alarms.firing.get(key)
        if episode is None:
            spike = self._tail is not None and self._is_spike(bin_)
            ring.push(bin_)
            if self._level.observe(bin_):
                return self._risen(at, alarms, confidence)
            return self._spike(bin_, at, alarms, confidence) if spike else []
        ring.push(bin_)
        now = ring.mean(SPIKE_SETTLED if episode.side == "spike" else SETTLED)
        episode.calm = episode.calm + 1 if now - episode.baseline <= episode.shift / 2 else 0
        if episode.calm < CALM and episode.age < REBASE_POINTS:
            return []
        if episode.calm < CALM:
            self._level.restart(ring.newest(REBASE_POINTS))
            note = f"{episode.age} points at the new level: the new normal"
        else:
            self._level.reset()
            note = f"last {SETTLED} points: as before"
        how = "spike" if episode.side == "spike" else "rank"
        return alarms.resolve(key, at, self._details(now, episode.baseline, note, confidence, how))

    def _is_spike(self, bin_: int) -> bool:
        tail, count = self._tail, len(self._ring)
        if tail is None or not count:
            return False
        above = bin_ - self._ring.total / count
        return tail.push(max(above, 0.0) / _TAIL_UNIT) and above >= SPIKE_BINS

    def _spike(self, bin_: int, at: Moment, alarms: Alarms, confidence: float) -> list[Anomaly]:
        others = len(self._ring) - 1
        before = (self._ring.total - bin_) / others
        if self._tail is not None:
            self._tail.forget_newest()
        if self._value(bin_) - self._value(before) < self.subject.least:
            return []
        why = self._details(bin_, before, f"one point against the last {others}", confidence, "spike")
        return alarms.fire(self.subject.key, at, "medium", before, why, bin_ - before, "spike")

    def _risen(self, at: Moment, alarms: Alarms, confidence: float) -> list[Anomaly]:
        level, ring = self._level, self._ring
        count = min(level.run, RING)
        level.reset()
        now, (before, _) = ring.mean(count), level.moments()
        if level.count > count:
            before += (before - now) * count / (level.count - count)
        rise = (now - before) * LOG_BIN
        if rise < math.log(self.factor) or self._value(now) - self._value(before) < self.subject.least:
            return []
        severity: Severity = "high" if rise >= math.log(4 * self.factor) else "medium"
        why = self._details(now, before, f"last {count} of {level.count} points", confidence)
        return alarms.fire(self.subject.key, at, severity, before, why, now - before, "up")

    def _value(self, bin_: float) -> float:
        """The value of a mean of bins: a geometric mean."""
        log = (bin_ * PER_BIN + (PER_BIN - 1) / 2 - 1) * LOG_BIN / PER_BIN
        return sketch.time_of(1) * math.exp(log) / self.subject.scale

    def _details(self, now: float, before: float, note: str, confidence: float, how: str = "rank") -> AnomalyDetails:
        """Values in words. The confidence fields do not apply; `deviation` is the factor."""
        unit = self.subject.unit
        return AnomalyDetails(
            current_confidence=round(confidence, 6),
            deviation=round(math.exp((now - before) * LOG_BIN), 3),
            threshold=self.factor,
            window=f"{note}; {self._value(now):.4g}{unit}, before {self._value(before):.4g}{unit}",
            detector=f"{how}-{self.subject.name}",
        )

    def to_json(self) -> list[Any]:
        kept = [self._ring.to_json(), self._level.to_json()]
        return kept if self._tail is None else [*kept, self._tail.to_json()]

    @classmethod
    def from_json(cls, data: list[Any], factor: float, run_length: float, subject: Subject = EXECUTION) -> Pace:
        pace = cls(factor, run_length, subject)
        ring, level, *tail = data
        pace._ring = Ring.from_json(ring)
        pace._level = RankTest.from_json(level, RISE, run_length)
        if pace._tail is not None and tail:
            pace._tail = Tail.from_json(tail[0], pace._tail.rate, pace._tail.beyond)
        return pace
