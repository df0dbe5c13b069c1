"""The compared detectors, each behind one call: a point in, True when an alarm begins.

`parallax` is the statistics' full set of detectors, with suitable outcomes and execution times; the others see the
confidences alone. River's detectors have their defaults, as a user gets them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from random import Random
from typing import Any, cast

from streams.detection_bench.judge import Alarm
from streams.detection_bench.labelled import Labelled
from streams.rules.detection.alarms import Moment, SeriesId
from streams.rules.detection.detectors import Detectors, Thresholds
from streams.rules.detection.ranks import LEVEL, RankTest
from streams.rules.windows import sketch

STEP_MS = 1000
DRAWS = 4999
SERIES = SeriesId("bench", "", "agent")


@lru_cache(maxsize=4)
def _draws(seed: int) -> tuple[list[int], list[float]]:
    """Buckets of execution times, and draws for success, made beforehand: the cost measured is that of the
    detectors.
    """
    rng = Random(seed)
    return [sketch.time_bucket(rng.lognormvariate(4, 1)) for _ in range(DRAWS)], [rng.random() for _ in range(DRAWS)]


class Whole:
    """All detectors of one series. Outcomes follow the confidence, execution times are log-normal, both seeded."""

    def __init__(self, run_length: float, seed: int) -> None:
        self._detectors = Detectors(SERIES, Thresholds(run_length=run_length))
        self._buckets, self._draws = _draws(seed)
        self._count = 0
        self.kinds: list[str] = []

    def observe(self, value: float) -> bool:
        self._count += 1
        bucket = self._buckets[self._count % DRAWS]
        success = self._draws[self._count % DRAWS] < value
        found = self._detectors.observe(value, Moment(0, self._count, self._count * STEP_MS), success, bucket)
        fired = [anomaly.type for anomaly in found if anomaly.state == "firing"]
        self.kinds += fired
        return bool(fired)


class Ranks:
    """The rank test alone; reset after an alarm."""

    def __init__(self, run_length: float) -> None:
        self._test = RankTest(LEVEL, run_length)

    def observe(self, value: float) -> bool:
        alarm = self._test.observe(round(value * 200))
        if alarm:
            self._test.reset()
        return alarm


class FromRiver:
    """A drift detector of river's."""

    def __init__(self, detector: Any) -> None:
        self._detector = detector

    def observe(self, value: float) -> bool:
        self._detector.update(value)
        return bool(self._detector.drift_detected)


@dataclass(frozen=True, slots=True)
class DetectorCandidate:
    """A name and how to make a fresh one from a seed."""

    name: str
    make: Callable[[int], Any]


def ours(run_length: float) -> list[DetectorCandidate]:
    """The detectors of the statistics."""
    return [
        DetectorCandidate("parallax", lambda seed: Whole(run_length, seed)),
        DetectorCandidate("rank test alone", lambda _: Ranks(run_length)),
    ]


def rivers() -> list[DetectorCandidate]:
    """River's drift detectors with their defaults; imports river."""
    from river import drift

    library: Any = drift  # untyped

    return [
        DetectorCandidate("river ADWIN", lambda _: FromRiver(library.ADWIN())),
        DetectorCandidate("river PageHinkley", lambda _: FromRiver(library.PageHinkley(mode="down"))),
    ]


def copied(detector: Any) -> Any:
    """A copy of a detector's state, to continue differently from here."""
    return copy.deepcopy(detector)


class Flagged:
    """One of river's anomaly detectors with a threshold on its score: an alarm begins when scores begin to exceed
    it.
    """

    def __init__(self, detector: Any, threshold: float, features: bool = False) -> None:
        self._detector = detector
        self._threshold = threshold
        self._features = features
        self._count = 0
        self._on = False

    def observe(self, value: float) -> bool:
        example: tuple[Any, ...] = ({"confidence": value},) if self._features else (None, value)
        score = self._detector.score_one(*example) if self._count > 100 else 0.0
        self._detector.learn_one(*example)
        self._count += 1
        before, self._on = self._on, score > self._threshold
        return self._on and not before


def judged(kswin: bool = True) -> list[tuple[str, Callable[[Labelled], list[Alarm]]]]:
    """Every detector in the form `judge.py` needs: the default set, then each of river's alone; imports river. KSWIN is
    slow.
    """
    from river import anomaly, drift

    drifts, anomalies = cast("Any", drift), cast("Any", anomaly)  # river's constructors have no types
    alone: dict[str, Callable[[], Any]] = {
        "river ADWIN": lambda: FromRiver(drifts.ADWIN()),
        "river PageHinkley(threshold=1)": lambda: FromRiver(drifts.PageHinkley(threshold=1.0)),
        "river KSWIN": lambda: FromRiver(drifts.KSWIN(seed=1)),
        "river GaussianScorer > .9999": lambda: Flagged(anomalies.GaussianScorer(), 0.9999),
        "river StandardAbsoluteDeviation > 4": lambda: Flagged(anomalies.StandardAbsoluteDeviation(), 4.0),
        "river HalfSpaceTrees > .95": lambda: Flagged(
            anomalies.HalfSpaceTrees(seed=1, limits={"confidence": (0, 1)}), 0.95, features=True
        ),
    }
    if not kswin:
        del alone["river KSWIN"]
    return [("parallax", _ours), *((name, partial(_alone, make)) for name, make in alone.items())]


def _ours(one: Labelled) -> list[Alarm]:
    detectors = Detectors(SERIES, Thresholds())
    return [
        Alarm(index, anomaly.severity)
        for index, (time_ms, value) in enumerate(one.points)
        for anomaly in detectors.observe(value, Moment(0, index, time_ms))
        if anomaly.state == "firing"
    ]


def _alone(make: Callable[[], Any], one: Labelled) -> list[Alarm]:
    detector = make()
    return [Alarm(index) for index, (_, value) in enumerate(one.points) if detector.observe(value)]
