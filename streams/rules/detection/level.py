"""Where a series' confidence lies, and the alarms about it: a sudden drop, a drift, a wider spread, one point off. Pure.

In: confidences in units of 1/10000, in order. Out: anomalies through the series' alarms. While an alarm about the level is on its
rank test does not learn; the episode ends when the level is back, or after 200 points as the new normal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from schemas.messages import Anomaly, AnomalyDetails, AnomalyType, Severity
from streams.rules.detection.alarms import Alarms, Episode, Moment
from streams.rules.detection.ranks import LEVEL, RankTest
from streams.rules.detection.ring import RING, Ring
from streams.rules.detection.specs import DetectorSpec

SCALE = 10_000
PER_BIN = 50
"""Confidences to 1/10000 in the ring, to 1/200 in the rank test."""
RECENT = 5
SETTLED = 20
HISTORY_MIN = 50
SIGNIFICANT = 6.0
"""A drop over 5 points must also be this many standard errors: agents that scatter widely do not alarm on five unlucky points."""
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
    chosen: tuple[DetectorSpec, ...] = ()
    """Detectors a user has switched on besides the default ones, for whichever series they concern."""


class Level:
    """Ring and rank test of one series. `rebased`: set when a new normal was taken up, for the caller to see and clear."""

    __slots__ = ("alarms", "limits", "rebased", "ring", "test")

    def __init__(self, alarms: Alarms, limits: Thresholds) -> None:
        self.alarms = alarms
        self.limits = limits
        self.ring = Ring()
        self.test = RankTest(LEVEL, limits.run_length)
        self.rebased = False

    def change(self, at: Moment) -> list[Anomaly]:
        """The rank test has its evidence: say what changed, unless it is too small to matter."""
        level, side = self.test, self.test.side
        count = min(level.run, RING)
        level.reset()
        now, newest = self.ring.mean(count) / SCALE, self.ring.spread(count) / SCALE
        mean, spread = level.moments()
        before, spread = mean * PER_BIN / SCALE, spread * PER_BIN / SCALE
        if level.count > count:
            before += (before - now) * count / (level.count - count)  # without the changed points themselves
        shift = newest - spread if side == "spread" else now - before
        if (side == "spread" and shift < LEAST_SPREAD) or (side != "spread" and abs(shift) < LEAST_SHIFT):
            return []
        kind: AnomalyType = "sudden_drop" if side == "down" and -shift >= self.limits.sudden_drop else "drift"
        severity: Severity = "low" if shift > 0 else drop_severity(-shift)
        why = self.details(f"rank-{side}", now, before, self.limits.run_length, f"last {count} of {level.count} points")
        if side == "spread":
            why, before = why.model_copy(update={"deviation": round(shift, 6)}), spread
        return self.alarms.fire(kind, at, severity, before, why, shift, side)

    def drop(self, recent: int, at: Moment) -> list[Anomaly]:
        """The original's rule: the mean of five against all before them in the ring."""
        count = len(self.ring) - RECENT
        current = recent / (RECENT * SCALE)
        if count < HISTORY_MIN or "sudden_drop" in self.alarms.firing:
            return []
        before = (self.ring.total - recent) / (count * SCALE)
        if before - current < self.limits.sudden_drop or not self._significant(before, current, count):
            return []
        why = self.details("recent5", current, before, self.limits.sudden_drop, f"last {RECENT} points")
        return self.alarms.fire(
            "sudden_drop", at, drop_severity(before - current), before, why, current - before, "down"
        )

    def _significant(self, before: float, current: float, count: int) -> bool:
        squares = self.ring.squares - sum(value * value for value in self.ring.newest(RECENT))
        spread = math.sqrt(max(squares / (count * SCALE * SCALE) - before * before, 0.0))
        return before - current >= SIGNIFICANT * spread / math.sqrt(RECENT)

    def changed(self, recent: int, at: Moment) -> list[Anomaly]:
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
            current = self.ring.mean(count) / SCALE
            window = f"last {count} points: as before"
            if episode.calm < CALM:
                window, settled = f"{episode.age} points at the new level: the new normal", episode.age
            before = None if episode.side == "spread" else episode.baseline
            found += self.alarms.resolve(kind, at, self.details("level", current, before, None, window))
        if settled:
            self.rebased = True
            values = self.ring.newest(settled)
            self.test.restart((value + PER_BIN // 2) // PER_BIN for value in values)
        elif not any(kind in self.alarms.firing for kind in LEVELS):
            self.test.reset()
        return found

    def _back(self, kind: AnomalyType, episode: Episode) -> bool:
        if episode.side == "spread":
            return self.ring.spread(SETTLED) / SCALE <= episode.baseline + episode.shift / 2
        current = self.ring.mean(RECENT if kind == "sudden_drop" else SETTLED) / SCALE
        least = self.limits.sudden_drop if kind == "sudden_drop" else LEAST_SHIFT
        return abs(current - episode.baseline) <= max(abs(episode.shift), least) / 2

    def _worse(self, drift: Episode, recent: int, at: Moment) -> list[Anomaly]:
        current = recent / (RECENT * SCALE)
        fall = drift.baseline - current
        if drift.age < RECENT or fall < self.limits.sudden_drop:
            return []
        why = self.details("recent5", current, drift.baseline, self.limits.sudden_drop, f"last {RECENT} points")
        return self.alarms.fire("sudden_drop", at, drop_severity(fall), drift.baseline, why, -fall, "down")

    def outlier(self, value: int, bin_: int, at: Moment) -> list[Anomaly]:
        """Looked at before the point enters the ring."""
        alarms = self.alarms
        episode = alarms.firing.get("outlier")
        if episode is not None:
            if episode.age < CALM:
                return []
            return alarms.resolve("outlier", at, self.details("single", value / SCALE, None, None, "normal again"))
        low, high = self.test.range
        if low - OUTLIER_BINS <= bin_ <= high + OUTLIER_BINS or self.test.count < OUTLIER_MIN:
            return alarms.due(at) if alarms.pending else []
        count, total = len(self.ring), self.ring.total
        mean = total / count
        spread = max(math.sqrt(max(self.ring.squares / count - mean * mean, 0.0)), 0.02 * SCALE)
        if abs(value - mean) < max(OUTLIER_SPREADS * spread, OUTLIER_LEAST * SCALE):
            return alarms.due(at) if alarms.pending else []
        if "outlier" in alarms.pending:
            alarms.withdraw("outlier")  # two of them: the level is changing, and others tell that
            return []
        current, before = value / SCALE, mean / SCALE
        why = self.details("single", current, before, OUTLIER_SPREADS, f"one point against the last {count}")
        alarms.pend("outlier", OUTLIER_HOLD, Episode("", "low", before, current - before), why)
        return []

    def details(
        self,
        detector: str,
        current: float,
        before: float | None,
        threshold: float | None,
        window: str,
        deviation: float | None = None,
    ) -> AnomalyDetails:
        """The numbers of an alarm with the newest points; confidences in [0, 1]."""
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
        return [value / SCALE for value in self.ring.newest(SHOWN)]


def drop_severity(by: float) -> Severity:
    """How bad a fall of the mean is."""
    return "high" if by >= 0.4 else "medium" if by >= 0.15 else "low"
