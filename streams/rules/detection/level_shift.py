"""The level of a series' confidence, and its alarms: a sudden drop, a drift, a wider spread, a single low point. Pure.

In: confidences in units of 1/10000, in order. Out: anomalies through the series' alarms. While an alarm about the level
fires, its rank test does not learn; the episode ends when the level is back, or after 200 points, which make the new
level normal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from schemas.messages import Anomaly, AnomalyDetails, AnomalyType, Severity
from streams.rules.detection.alarms import Alarms, Episode, Key, Moment, episode_key
from streams.rules.detection.deviation import Deviation
from streams.rules.detection.flat import Flat
from streams.rules.detection.ranks import LEVEL, RankTest
from streams.rules.detection.ring import RING, Ring
from streams.rules.detection.specs import DetectorSpec
from streams.rules.detection.verdict import Verdict, Vote, at_least, at_most

SCALE = 10_000
PER_BIN = 50
"""Confidences to 1/10000 in the ring, to 1/200 in the rank test."""
RECENT = 5
SETTLED = 20
HISTORY_MIN = 15
LEAST_CHANGED = 2
RETURN_POINTS = 500
SIGNIFICANT = 6.0
"""A drop over 5 points must also be this many standard errors: widely scattering agents do not alarm on five unlucky
points.
"""
CALM = 10
REBASE_POINTS = 200
"""A change that lasts this many points is the new normal."""
LEAST_SHIFT = 0.05
LEAST_SPREAD = 0.03
RANKS_SHARE = 1.25
"""Of the false alarms that the run length allows, the rank test may raise four fifths, the others the rest."""
LEAST_DEVIATION = 0.03
QUIET_POINTS = 50
"""After an alarm about the level, an alarm about a deviation waits this many points: most are the same incident."""
RISE_SPREADS = 3.0
SINGLE_MIN = 10
SINGLE_SPREADS = 7.0
SINGLE_BINS = 10
SHOWN = 20
"""How many confidences an anomaly shows."""
LEVELS: tuple[AnomalyType, ...] = ("sudden_drop", "drift")
STUCK = episode_key("drift", "/stuck")
"""A user's detector cannot have that name."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What counts as abnormal. `check_interval_ms`: event time between two checks.

    `run_length`: mean points between false alarms that the proven tests keep (for execution times ten times as many);
    `overconfidence`: how far mean confidence may lie above the success rate; `slow_factor`: times the usual execution
    time; `cost_factor`: times the usual cost; `silent_after_ms`: the shortest silence reported.
    """

    sudden_drop: float = 0.3
    low_confidence: float = 0.5
    high_variance: float = 0.2
    check_interval_ms: int = 60_000
    run_length: float = 10_000.0
    overconfidence: float = 0.1
    slow_factor: float = 2.0
    cost_factor: float = 2.0
    silent_after_ms: int = 600_000
    chosen: tuple[DetectorSpec, ...] = ()
    """Detectors that a user switched on besides the default ones, for any series."""


class LevelShiftDetector:
    """Ring and rank test of one series. `rebased`: set when a new level became normal; the caller clears it."""

    __slots__ = (
        "alarms",
        "deviation",
        "flat",
        "left",
        "limits",
        "quiet",
        "rebased",
        "ring",
        "test",
        "verdict",
        "waiting",
    )

    def __init__(self, alarms: Alarms, limits: Thresholds) -> None:
        self.alarms = alarms
        self.limits = limits
        self.ring = Ring()
        self.test = RankTest(LEVEL, RANKS_SHARE * limits.run_length)
        self.deviation = Deviation(limits.run_length)
        self.flat = Flat(limits.run_length)
        self.rebased = False
        self.verdict = Verdict()
        self.waiting: tuple[float, float, int] | None = None
        self.left: tuple[float, float, int] | None = None
        """The level before the newest normal, how far that is away, and until how many points of the rank test this matters."""
        self.quiet = 0  # points until a deviation may be reported again

    @property
    def is_away(self) -> bool:
        """Whether an alarm about the level fires, or the value is stuck."""
        firing = self.alarms.firing
        return bool(firing) and ("drift" in firing or "sudden_drop" in firing or STUCK in firing)

    def deviations(self, value: int, at: Moment) -> list[Anomaly]:
        """Add one point, before it enters the ring: check it, and the newest ones, against all earlier deviations.

        While an alarm about the level fires nothing is learnt, since the next one would then look usual; but alarms
        that keep returning are usual.
        """
        on = self.is_away
        learn = not on or self.alarms.often(LEVELS)
        finding = self.deviation.observe(value / SCALE, at.time_ms, learn)
        if self.flat.observe(value):
            # Not a new level: it is reported beside one, and after any number of them.
            return self._stuck(value, at)
        if on:
            self.quiet = QUIET_POINTS
            self.verdict.clear()
            return []
        if self.quiet:
            self.quiet -= 1
        elif finding is not None and abs(finding.current - finding.expected) >= LEAST_DEVIATION:
            name = f"deviation-{finding.kind}"
            self.verdict.add(
                Vote(name, finding.ratio, finding.score, finding.threshold, finding.current, finding.expected)
            )
        return self._decide(value, at) if self.verdict and self.verdict.step() else []

    def _stuck(self, value: int, at: Moment) -> list[Anomaly]:
        firing, run = self.alarms.firing, self.flat.run
        if any(kind in firing and firing[kind].age <= run + RECENT for kind in LEVELS):
            return []  # the fall to this value has been reported
        before = self.ring.mean(RING) / SCALE
        why = self.details("flat-line", value / SCALE, before, None, f"last {self.flat.run} points are equal")
        why = why.model_copy(update={"score": float(self.flat.run), "parameters": self._parameters()})
        return self.alarms.fire(STUCK, at, "medium", before, why, 0.0, "flat")

    def _parameters(self) -> dict[str, float | int | str]:
        return {"run_length": self.limits.run_length}

    def _decide(self, value: int, at: Moment) -> list[Anomaly]:
        """Count the votes: one alarm, of the type of the strongest."""
        verdict, best = self.verdict, self.verdict.strongest()
        severity, names = verdict.severity(), verdict.agreeing
        verdict.clear()
        shift = best.current - best.expected
        spread = best.detector.endswith("-spread")
        if spread:
            shift = best.score - self.deviation.step
        elif -shift >= self.limits.sudden_drop:
            severity = at_least(severity, "medium")
        if best.detector.startswith("rank-"):
            severity = "low"
        elif shift > 0 and self.deviation.steady and best.detector in ("deviation-short", "deviation-long"):
            # A rise of confidence is not urgent, and reported only if it leaves the range of single points.
            severity = at_most(severity, "medium" if shift >= RISE_SPREADS * self.deviation.spread else "low")
        why = self.details(
            best.detector,
            best.current,
            None if spread else best.expected,
            round(best.threshold, 6),
            f"this series' own past; agreed: {', '.join(names)}",
            shift,
        ).model_copy(update={"score": round(best.score, 6), "parameters": self._parameters()})
        if self._is_return(best.current, shift):
            severity = "low"
        if not self.alarms.often(("outlier", *LEVELS)):
            self.deviation.forget_newest()
        if (
            best.detector in ("deviation-spike", "deviation-short")
            and abs(value / SCALE - best.expected) <= abs(shift) / 2
        ):
            return self.alarms.fire("outlier", at, severity, best.expected, why, shift)
        if best.detector == "deviation-spike" and shift > 0 and self.deviation.steady:
            severity = "low"  # it is a rise that began with its highest point
        if spread:
            return self.alarms.fire("drift", at, severity, self.ring.spread(RING) / SCALE, why, shift, "spread")
        kind: AnomalyType = "sudden_drop" if -shift >= self.limits.sudden_drop else "drift"
        return self.alarms.fire(kind, at, severity, best.expected, why, shift, "down" if shift < 0 else "up")

    def single(self, value: int, bin_: int, at: Moment) -> list[Anomaly]:
        """The original's rule for one point, before it enters the ring: far below the mean, and below every one before
        it.

        Reported with the next point, or at the next check if none comes before.
        """
        found = self.single_due(at) if self.waiting is not None else []
        low, _ = self.test.range
        if (
            bin_ > low - SINGLE_BINS
            or len(self.ring) < SINGLE_MIN
            or any(kind in self.alarms.firing for kind in LEVELS)
        ):
            return found
        count = len(self.ring)
        before, current = self.ring.mean(count) / SCALE, value / SCALE
        spread = self.ring.spread(count) / SCALE
        if before - current >= max(self.limits.sudden_drop, SINGLE_SPREADS * spread * (1 + 1 / count)):
            self.waiting = (current, before, count)
        return found

    def single_due(self, at: Moment) -> list[Anomaly]:
        """Report the single low point that waits, unless an alarm about the level fires already."""
        if self.waiting is None:
            return []
        current, before, count = self.waiting
        self.waiting = None
        if any(kind in self.alarms.firing for kind in LEVELS):
            return []
        why = self.details("single", current, before, self.limits.sudden_drop, f"one point against the last {count}")
        severity = at_most(drop_severity(before - current), "medium")
        return self.alarms.fire("sudden_drop", at, severity, before, why, current - before, "down")

    def change(self, at: Moment) -> list[Anomaly]:
        """The rank test has enough evidence: report the change, unless it is too small."""
        level, side = self.test, self.test.side
        count = min(level.run, RING)
        mean, _ = level.moments()
        if side != "spread":
            count = self._changed_points(count, round(mean * PER_BIN))
        level.reset()
        if not (self.deviation.even if side == "spread" else self.deviation.steady):
            return []  # outside the rank test's promise: the series' own past decides what is unusual
        now, newest = self.ring.mean(count) / SCALE, self.ring.spread(count) / SCALE
        mean, spread = level.moments()
        before, spread = mean * PER_BIN / SCALE, spread * PER_BIN / SCALE
        if level.count > count:
            before += (before - now) * count / (level.count - count)  # without the changed points themselves
        shift = newest - spread if side == "spread" else now - before
        if side != "spread":
            side = "down" if shift < 0 else "up"  # a slow fall can look like a rise from what was expected of it
        if (side == "spread" and shift < LEAST_SPREAD) or (side != "spread" and abs(shift) < LEAST_SHIFT):
            return []
        if side != "down":
            usual = 0.0 if side == "spread" else before
            self.verdict.add(
                Vote(f"rank-{side}", 1.0, newest if side == "spread" else now, level.run_length, now, usual)
            )
            return []
        kind: AnomalyType = "sudden_drop" if -shift >= self.limits.sudden_drop else "drift"
        severity = drop_severity(-shift)
        if kind == "drift" and self._is_return(now, shift):
            severity = "low"
        why = self.details(f"rank-{side}", now, before, self.limits.run_length, f"last {count} of {level.count} points")
        return self.alarms.fire(kind, at, severity, before, why, shift, side)

    def _is_return(self, current: float, shift: float) -> bool:
        """Whether the change undoes the last one, which had become normal: that incident has been reported."""
        if self.left is None:
            return False
        before, moved, ends = self.left
        return self.test.count < ends and shift * moved < 0 and abs(current - before) <= abs(moved) / 2

    def _changed_points(self, most: int, before: int) -> int:
        """How many of the newest points have changed: the number whose mean is the most standard errors off."""
        best, count, total = 0.0, min(most, LEAST_CHANGED), 0
        for number, value in enumerate(reversed(self.ring.newest(most)), 1):
            total += value - before
            off = abs(total) / math.sqrt(number)
            if number >= LEAST_CHANGED and off > best:
                best, count = off, number
        return count

    def drop(self, recent: int, at: Moment) -> list[Anomaly]:
        """The original's rule: the mean of five against all before them in the ring."""
        count = len(self.ring) - RECENT
        current = recent / (RECENT * SCALE)
        if count < HISTORY_MIN or "sudden_drop" in self.alarms.firing:
            return []
        before = (self.ring.total - recent) / (count * SCALE)
        if before - current < self.limits.sudden_drop or not self._significant(before, current, count):
            return []
        if self.deviation.ordinary:
            return []  # it falls this far every night
        why = self.details("recent5", current, before, self.limits.sudden_drop, f"last {RECENT} points")
        return self.alarms.fire(
            "sudden_drop", at, drop_severity(before - current), before, why, current - before, "down"
        )

    def _significant(self, before: float, current: float, count: int) -> bool:
        squares = self.ring.squares - sum(value * value for value in self.ring.newest(RECENT))
        spread = math.sqrt(max(squares / (count * SCALE * SCALE) - before * before, 0.0))
        return before - current >= SIGNIFICANT * spread / math.sqrt(RECENT)

    def changed(self, recent: int, at: Moment) -> list[Anomaly]:
        """Add one point while the level is abnormal: has it returned, become worse, or become normal?"""
        found: list[Anomaly] = []
        drift = self.alarms.firing.get("drift")
        if drift is not None and drift.side == "down" and "sudden_drop" not in self.alarms.firing:
            found += self._worse(drift, recent, at)
        settled, left = 0, None
        for kind in (*LEVELS, STUCK):
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
                if episode.shift and episode.side != "spread":
                    left = (episode.baseline, episode.shift, settled + RETURN_POINTS)
            before = None if episode.side == "spread" else episode.baseline
            found += self.alarms.resolve(kind, at, self.details("level", current, before, None, window))
        if settled:
            self.rebased, self.left = True, left
            self.deviation.rebase(self.ring.mean(settled) / SCALE, settled)
            values = self.ring.newest(settled)
            self.test.restart((value + PER_BIN // 2) // PER_BIN for value in values)
        elif not self.is_away:
            self.test.reset()
        return found

    def _back(self, kind: Key, episode: Episode) -> bool:
        if episode.side == "flat":
            return self.flat.run == 1 or episode.calm > 0
        if episode.side == "spread":
            return self.ring.spread(SETTLED) / SCALE <= episode.baseline + episode.shift / 2
        off = self.ring.mean(RECENT if kind == "sudden_drop" else SETTLED) / SCALE - episode.baseline
        residual = self.deviation.residual
        if residual is not None:
            off = residual  # normal is another level at another time of the day
        least = self.limits.sudden_drop if kind == "sudden_drop" else LEAST_SHIFT
        return abs(off) <= max(abs(episode.shift), least) / 2

    def _worse(self, drift: Episode, recent: int, at: Moment) -> list[Anomaly]:
        current = recent / (RECENT * SCALE)
        fall, residual = drift.baseline - current, self.deviation.residual
        if residual is not None:
            fall = min(fall, -residual)
        if drift.age < RECENT or fall < self.limits.sudden_drop:
            return []
        why = self.details("recent5", current, drift.baseline, self.limits.sudden_drop, f"last {RECENT} points")
        return self.alarms.fire("sudden_drop", at, drop_severity(fall), drift.baseline, why, -fall, "down")

    def outlier(self, value: int, at: Moment) -> list[Anomaly]:
        """Add one point after a spike, whose episode ends soon."""
        alarms = self.alarms
        episode = alarms.firing.get("outlier")
        if episode is not None:
            if episode.age < CALM:
                return []
            return alarms.resolve("outlier", at, self.details("single", value / SCALE, None, None, "normal again"))
        return alarms.due(at) if alarms.pending else []

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
    """The severity of a fall of the mean."""
    return "high" if by >= 0.4 else "medium" if by >= 0.15 else "low"
