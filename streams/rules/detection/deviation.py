"""How far is a series from where it usually is, compared with how far it ever was? One of river's anomaly detectors. Pure.

In: values in [0, 1] in order, with their times. Out: the most unusual deviation of a point, if any is beyond its threshold:
  spike   the point against the newest ones, in standard deviations (river's StandardAbsoluteDeviation)
  short   the mean of about 5 points against the slow mean
  long    the mean of about 25 points against the slow mean
  spread  the mean step of about 20 points
  season  the mean of about 5 points against what is usual at this time of the day or the week, once that is known
Every kind has the tail of its own past (`tail.py`) as its measure, so trends, seasons, heavy tails and correlated neighbours make
thresholds wider by themselves. The promise is empirical: about one false alarm in `run_length` points of a series that goes on as
it was. Fast means are river.stats.EWMean, whose state is one number; the slow mean needs a warm-up, which EWMean does not have.
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
KINDS: dict[FindingKind, int] = {"spike": 1, "short": 5, "long": 25, "spread": 20, "season": 5}
"""Kind -> over about how many points its score lasts."""
SLOW = 500
WARM = 30
FADE_AFTER = 5000.0
NEAR = 0.8
"""Steps below this share of the threshold need no score, unless it is their turn to be learnt."""
WHOLE_WEEK_MS = 8 * DAY_MS
SHARE_RATE = 1 / 250
SHORT_MOST = 0.4
LONG_MOST = 0.25
STEPS_MOST = 0.05
RARER = 25
"""Each kind of deviation raises about one false alarm in so many run lengths."""
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
    >>> any(found), deviation.observe(0.2, 600_000).kind
    (False, 'spike')
    """

    def __init__(self, run_length: float = 10_000.0) -> None:
        self.run_length = run_length
        self.count = 0
        self.slow = 0.0
        self._lag = 0.0  # the slow mean of the slow mean: twice the one less the other follows a trend without lag
        self._centre = Mean()
        self._scorer: Any = StandardAbsoluteDeviation(self._centre)  # river's methods have no types
        self._newest, self._short, self._long = EWMean(0.3), EWMean(0.2), EWMean(0.04)
        self._steps, self._season = EWMean(0.05), EWMean(0.2)
        self._profiles = (Profile(DAY_MS, 48, 3), Profile(WEEK_MS, 168, 2.5))
        self._seasonal = False  # whether a profile has ever been used
        self._begun_ms = -1
        self._shares = [0.0] * 6  # mean squares: short, long and whole distance; mean step, its variance, mean square
        self._learning = True
        self._far_step = 0.0  # no smaller step can be a spike, by the newest threshold; 0: unknown
        self._tails = {
            kind: Tail(lasts / (RARER * run_length), 1.1 if kind == "spike" else 1.3) for kind, lasts in KINDS.items()
        }

    @property
    def steady(self) -> bool:
        """True while neighbouring points hardly resemble each other: slow swings make little of the variance.

        Independent points have shares of 0.11 and 0.02, a correlation of 0.7 has 0.39 and 0.11; trends and seasons come near 1.
        """
        short, long, whole, *_ = self._shares
        return short <= SHORT_MOST * whole and long <= LONG_MOST * whole

    @property
    def even(self) -> bool:
        """True while it is steady and its steps are as large at one time as at another."""
        return self.steady and self._shares[4] <= STEPS_MOST * self._shares[5]

    @property
    def step(self) -> float:
        """The usual step from the newest points to the next one."""
        return self._shares[3]

    @property
    def spread(self) -> float:
        """The standard deviation around the slow mean."""
        return math.sqrt(self._shares[2])

    def rebase(self, level: float, points: int) -> None:
        """The series has been elsewhere for so many points, for good: measure from there."""
        self.slow = self._lag = level
        self.count = min(self.count, max(points, WARM))

    def forget_newest(self) -> None:
        """The newest scores belong to an incident: thresholds do not learn them."""
        for tail in self._tails.values():
            tail.forget_newest()

    def observe(self, value: float, time_ms: int, learn: bool = True) -> Finding | None:
        """One more value; the most unusual deviation beyond its threshold, if there is one.

        `learn`: False while an alarm about the level is on: what is usual stays what it was before.
        """
        self.count = count = self.count + 1
        if count == 1:
            self.slow = self._lag = value
            self._begun_ms = time_ms
            for mean in (self._newest, self._short, self._long):
                mean.update(value)
            return None
        if self._learning and not learn:
            self.forget_newest()
        self._learning = learn
        newest = self._newest.get()
        step, slow = value - newest, 2 * self.slow - self._lag
        scorer = self._scorer
        size = step if step >= 0 else -step
        learns = learn and count & 1 == 1  # steps are alike: every other one says as much at half the cost
        score = 0.0
        if count > WARM and (learns or size > self._far_step):
            score = scorer.score_one(None, step)
        self._newest.update(value)
        self._short.update(value)
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
        return self._compare(value, step, score, slow, expected, learn, time_ms)

    def _compare(
        self, value: float, step: float, score: float, slow: float, expected: float | None, learn: bool, time_ms: int
    ) -> Finding | None:
        """Spikes are looked for at every point, slower deviations and the season in turn: they last."""
        found: Finding | None = None
        if score:
            tail = self._tails["spike"]
            far = tail.push(score / SPIKE_UNIT, learn and self.count & 1 == 1)
            limit = tail.limit * SPIKE_UNIT
            if far:
                found = Finding("spike", score / limit, score, limit, value, value - step)
            if self.count & 1:
                spread = float(self._scorer.variance.get()) ** 0.5
                self._far_step = min(NEAR * limit * spread - abs(self._centre.get()), 1.0)
        turn, week = self.count & 3, time_ms - self._begun_ms >= WHOLE_WEEK_MS
        if turn & 1:
            found = self._far("short", self._short.get(), slow, found, learn)
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
        """How much of the variance is slow, every fourth point."""
        shares, rate = self._shares, max(4 / self.count, SHARE_RATE)
        step = abs(value - self._newest.get()) / 0.7  # the newest mean has taken in 0.3 of it
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
        if best is not None:
            self._season.update(value - best)
            self._seasonal = True
        return best

    def _fade(self) -> None:
        """What was long ago counts half: river's means and variances have a weight, but no forgetting."""
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
        """Numbers."""
        variance, mean = self._scorer.variance, self._centre
        means = [self._newest, self._short, self._long, self._steps, self._season]
        return [
            [self.count, self.slow, self._lag, self._begun_ms, self._seasonal, self._learning, self._far_step],
            self._shares,
            [variance.mean.n, variance.mean.get(), variance._S, mean.n, mean.get()],
            [mean.get() for mean in means],
            [profile.to_json() for profile in self._profiles],
            [self._tails[kind].to_json() for kind in KINDS],
        ]

    @classmethod
    def from_json(cls, data: list[Any], run_length: float) -> Deviation:
        """The inverse of `to_json`."""
        found = cls(run_length)
        (
            (found.count, found.slow, found._lag, found._begun_ms, seasonal, found._learning, found._far_step),
            shares,
            moments,
            means,
            profiles,
            tails,
        ) = data
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
            for kind, state in zip(KINDS, tails, strict=True)
        }
        return found
