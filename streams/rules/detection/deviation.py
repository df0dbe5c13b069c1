"""How far a series is from its usual values, compared with its past deviations. One of river's anomaly detectors. Pure.

In: values in [0, 1] in order, with their times. Out: the most unusual deviation of a point, if any exceeds its
threshold:

    spike   the point against the newest ones, in standard deviations (river's StandardAbsoluteDeviation)
    short   the mean of about 5 points against the slow mean
    long    the mean of about 25 points against the slow mean
    spread  the mean step of about 20 points
    season  the mean of about 5 points against what is usual at this time of the day or the week, once that is known

Each kind is measured against the tail of its own past (`tail.py`), so trends, seasons, heavy tails and correlated
neighbours widen thresholds by themselves. The promise is empirical: about one false alarm in `run_length` points of a
series that continues as before. Fast means are river.stats.EWMean, whose state is one number; the slow mean needs a
warm-up, which EWMean does not have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from river.anomaly import StandardAbsoluteDeviation
from river.base import AnomalyDetector
from river.stats import EWMean, Mean

from streams.rules.detection.profile import DAY_MS, WEEK_MS, Profile
from streams.rules.detection.tail import Tail

FindingKind = Literal["spike", "short", "long", "spread", "season"]
BEYOND: dict[FindingKind, float] = {"spike": 1.1, "short": 1.3, "long": 1.6, "spread": 1.3, "season": 1.3}
"""Kind -> factor by which a score must exceed all remembered ones: slower means have fewer independent scores."""
SLOW = 500
WARM = 30
FADE_AFTER = 5000.0
ORDINARY = 0.8
LONG_PAUSE = 10
"""A long pause: this many times the usual one, and at least a minimum."""
LONG_PAUSE_MS = 60_000
EAGER = 1000
NEAR = 0.8
"""Steps below this share of the threshold need no score, unless they are due to be learnt."""
APART_LEAST = 50
STEADY_SHARE = 0.5
WHOLE_WEEK_MS = 8 * DAY_MS
SHARE_RATE = 1 / 250
SHORT_MOST = 0.4
LONG_MOST = 0.25
STEPS_MOST = 0.05
RARER = 10
"""Each kind of deviation raises about one false alarm in this many run lengths."""
SPIKE_UNIT = 16.0
"""Standard deviations are kept in sixteenths, to fit the tail's histogram."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`ratio`: score over threshold; `score`: in standard deviations for a spike, else a distance of confidences."""

    kind: FindingKind
    ratio: float
    score: float
    threshold: float
    current: float
    expected: float


class Deviation(AnomalyDetector):
    """One series.

    >>> deviation = Deviation()
    >>> found = [deviation.observe(0.8 + index % 7 / 100, index * 1000) for index in range(600)]
    >>> any(found), deviation.observe(0.2, 600_000) is None
    (False, False)
    """

    def __init__(self, run_length: float = 10_000.0) -> None:
        self.run_length = run_length
        self.count = 0
        self.slow = 0.0
        self._lag = 0.0  # the slow mean of the slow mean: twice the one less the other follows a trend without lag
        self._centre = Mean()
        self._scorer: Any = StandardAbsoluteDeviation(self._centre)  # river's methods have no types
        self._newest, self._short, self._long = EWMean(0.3), EWMean(0.2), EWMean(0.08)
        self._steps, self._season = EWMean(0.1), EWMean(0.2)
        self._profiles = (Profile(DAY_MS, 48, 3), Profile(WEEK_MS, 168, 2.5))
        self._seasonal = False  # whether a profile has ever been used
        self._known = False  # whether the newest value was expected by one
        self._apart = [
            0,
            0.0,
            0.0,
        ]  # values since learning stopped, their distances from the profile and the squares of these
        self._begun_ms = self._last_ms = -1
        self._pause = 0.0  # the usual time between two points, ms
        self._shares = [0.0] * 6  # mean squares: short, long and whole distance; mean step, its variance, mean square
        self._learning = True
        self._far_step = 0.0  # no smaller step can be a spike, by the newest threshold; 0: unknown
        self._tails = {kind: Tail(1 / (RARER * run_length), beyond) for kind, beyond in BEYOND.items()}

    @property
    def steady(self) -> bool:
        """Whether neighbouring points hardly resemble each other: slow swings are a small part of the variance.

        Independent points have shares of 0.11 and 0.02, a correlation of 0.7 has 0.39 and 0.11; trends and seasons come
        near 1.
        """
        short, long, whole, *_ = self._shares
        return short <= SHORT_MOST * whole and long <= LONG_MOST * whole

    @property
    def even(self) -> bool:
        """Whether the series is steady and its steps have the same size at all times."""
        return self.steady and self._shares[4] <= STEPS_MOST * self._shares[5]

    @property
    def ordinary(self) -> bool:
        """Whether the series is not steady, and its newest points are in a range it has visited before."""
        if self.steady:
            return False
        return abs(self._short.get() - 2 * self.slow + self._lag) < ORDINARY * self._tails["short"].limit < math.inf

    @property
    def residual(self) -> float | None:
        """How far the newest values are from those usual at this time; None without a known time of day or week."""
        return self._season.get() if self._known else None

    @property
    def step(self) -> float:
        """The usual step from the newest points to the next one."""
        return self._shares[3]

    @property
    def spread(self) -> float:
        """The standard deviation around the slow mean."""
        return math.sqrt(self._shares[2])

    def rebase(self, level: float, points: int) -> None:
        """The series has moved to another level for good, so many points ago: measure from there. The shape of its days
        is kept.
        """
        count, total, squares = self._apart
        by = level - self.slow
        if count >= APART_LEAST:
            # Measured against the profile: the mean of a part of a day does not represent the day.
            # If the distances were not about equal, the level has not moved.
            by = total / count
            by = by if squares / count - by * by < (by * STEADY_SHARE) ** 2 else 0.0
        for profile in self._profiles:
            profile.shift(by)
        self.slow = self._lag = level
        self.count = min(self.count, max(points, WARM))

    def forget_newest(self) -> None:
        """The newest scores belong to an incident: thresholds do not learn them."""
        for tail in self._tails.values():
            tail.forget_newest()

    def observe(self, value: float, time_ms: int, learn: bool = True) -> Finding | None:
        """Add a value. Returns the most unusual deviation beyond its threshold, if any.

        `learn`: False while an alarm about the level fires: the usual values stay those from before.
        """
        self.count = count = self.count + 1
        if count == 1:
            self.slow = self._lag = value
            self._begun_ms = self._last_ms = time_ms
            for mean in (self._newest, self._short, self._long):
                mean.update(value)
            return None
        pause = time_ms - self._last_ms
        if pause > 0:
            self._last_ms = time_ms
            if pause > LONG_PAUSE_MS and pause > LONG_PAUSE * self._pause:
                self._resume(value)
            self._pause += (pause - self._pause) / (count if count < SLOW else SLOW)
        if self._learning and not learn:
            self.forget_newest()
            self._apart = [0, 0.0, 0.0]
        self._learning = learn
        newest = self._newest.get()
        step, slow = value - newest, 2 * self.slow - self._lag
        scorer = self._scorer
        size = step if step >= 0 else -step
        # Steps are similar: every other one is enough at half the cost, later every fourth.
        learns = learn and count & (1 if count < EAGER else 3) == 1
        score = 0.0
        if count > WARM and (learns or size > self._far_step):
            score = scorer.score_one(None, step)
        self._newest.update(value)
        self._short.update(value)
        if not count & 1:
            self._long.update(value)
            self._steps.update(size)
        expected = self._expect(value, time_ms, slow, learn) if count & 1 else None
        if learn:
            if learns:
                scorer.learn_one(None, step)
            rate = 1 / (count if count < SLOW else SLOW)
            self.slow += (value - self.slow) * rate
            self._lag += (self.slow - self._lag) * rate
            if scorer.variance.n > FADE_AFTER:
                self._fade()
        if count <= WARM:
            return None
        return self._compare(value, step, score, slow, expected, learn, learns, time_ms)

    def _resume(self, value: float) -> None:
        """Points are missing: the next one is not compared with the last ones before the gap."""
        self._newest, self._short, self._season = EWMean(0.3), EWMean(0.2), EWMean(0.2)
        for mean in (self._newest, self._short):
            mean.update(value)
        if self._seasonal:
            self._season.update(0.0)

    def _compare(
        self,
        value: float,
        step: float,
        score: float,
        slow: float,
        expected: float | None,
        learn: bool,
        learns: bool,
        time_ms: int,
    ) -> Finding | None:
        """Check for spikes at every point, for slower deviations and the season in turn: those last."""
        found: Finding | None = None
        if score:
            tail = self._tails["spike"]
            far = tail.push(score / SPIKE_UNIT, learns)
            limit = tail.limit * SPIKE_UNIT
            if far:
                found = Finding("spike", score / limit, score, limit, value, value - step)
            if learns:
                spread = float(self._scorer.variance.get()) ** 0.5
                self._far_step = min(NEAR * limit * spread - abs(self._centre.get()), 1.0)
        turn, week = self.count & 3, time_ms - self._begun_ms >= WHOLE_WEEK_MS
        if turn & 1:
            found = self._far("short", self._short.get(), slow, found, learns)
            if expected is not None:
                # Before a whole week was seen, the first weekend would be one.
                found = self._far("season", expected + self._season.get(), expected, found, learn, week)
        elif turn == 0:
            found = self._far("long", self._long.get(), slow, found, learn)
            if learn:
                self._measure(value, self.slow)
        else:
            found = self._far("spread", self._steps.get(), 0.0, found, learn)
        return found

    def _measure(self, value: float, slow: float) -> None:
        """Measure the slow part of the variance, at every fourth point."""
        shares, rate = self._shares, max(4 / self.count, SHARE_RATE)
        step = abs(value - self._newest.get()) / 0.7  # the newest mean contains 0.3 of it
        off = self._steps.get() - shares[3]
        squares = ((self._short.get() - slow) ** 2, (self._long.get() - slow) ** 2, (value - slow) ** 2)
        for place, number in enumerate((*squares, step, off * off, step * step)):
            shares[place] += (number - shares[place]) * rate

    def _far(
        self, kind: FindingKind, current: float, usual: float, found: Finding | None, learn: bool, report: bool = True
    ) -> Finding | None:
        score, tail = abs(current - usual), self._tails[kind]
        if tail.push(score, learn) and report and (found is None or score > found.ratio * tail.limit):
            return Finding(kind, score / tail.limit, score, tail.limit, current, usual)
        return found

    def _expect(self, value: float, time_ms: int, slow: float, learn: bool) -> float | None:
        best: float | None = None
        error = 0.0
        for profile in self._profiles:
            usual = profile.expect(time_ms)
            if usual is not None and profile.trusted(time_ms) and (best is None or profile.errors[0] < error):
                best, error = usual, profile.errors[0]
            if learn:
                profile.observe(value, usual, slow, time_ms)
        self._known = best is not None
        if best is not None:
            self._season.update(value - best)
            self._seasonal = True
            if not learn:
                apart, off = self._apart, value - best
                self._apart = [apart[0] + 1, apart[1] + off, apart[2] + off * off]
        return best

    def _fade(self) -> None:
        """Halve the weight of the past: river's means and variances have weights, but no forgetting."""
        variance, mean = self._scorer.variance, self._centre
        variance.mean.n /= 2
        variance._S /= 2
        mean.n /= 2

    def learn_one(self, x: dict[Any, Any]) -> None:
        """River's interface: `{"confidence": ..., "time_ms": ...}`."""
        self.observe(float(x["confidence"]), int(x.get("time_ms", 0)))

    def score_one(self, x: dict[Any, Any]) -> float:
        """How many standard deviations this confidence would be off the newest ones."""
        return float(self._scorer.score_one(None, float(x["confidence"]) - self._newest.get()))

    def to_json(self) -> list[Any]:
        variance, mean = self._scorer.variance, self._centre
        means = [self._newest, self._short, self._long, self._steps, self._season]
        return [
            [self.count, self.slow, self._lag, self._begun_ms, self._seasonal, self._learning, self._far_step],
            [self._last_ms, self._pause, self._known, self._apart],
            self._shares,
            [variance.mean.n, variance.mean.get(), variance._S, mean.n, mean.get()],
            [mean.get() for mean in means],
            [profile.to_json() for profile in self._profiles],
            [self._tails[kind].to_json() for kind in BEYOND],
        ]

    @classmethod
    def from_json(cls, data: list[Any], run_length: float) -> Deviation:
        found = cls(run_length)
        (
            (found.count, found.slow, found._lag, found._begun_ms, seasonal, found._learning, found._far_step),
            (found._last_ms, found._pause, *later),
            shares,
            moments,
            means,
            profiles,
            tails,
        ) = data
        if later:
            found._known, found._apart = later[0], list(later[1])
        variance = found._scorer.variance
        variance.mean, variance._S = Mean._from_state(*moments[:2]), moments[2]
        found._scorer.sub_stat = found._centre = Mean._from_state(*moments[3:])
        if found.count:
            # An EWMean that was never updated takes its first value as it is: the mean itself restores it.
            for mean, value in zip((found._newest, found._short, found._long), means, strict=False):
                mean.update(value)
        if found.count > 1:
            found._steps.update(means[3])
        found._seasonal, found._shares = seasonal, list(shares)
        if seasonal:
            found._season.update(means[4])
        for profile, state in zip(found._profiles, profiles, strict=True):
            profile.load(state)
        found._tails = {
            kind: Tail.from_json(state, found._tails[kind].rate, found._tails[kind].beyond)
            for kind, state in zip(BEYOND, tails, strict=True)
        }
        return found
