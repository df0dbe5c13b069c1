"""The detectors that are compared, each behind one call: a point in, True when an alarm begins.

`parallax` is what the statistics run, every detector of it, with outcomes and execution times that fit; the others see the
confidences alone. River's are used as they come: their defaults are what a user gets.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from streams.rules.detection.alarms import Moment, SeriesId
from streams.rules.detection.detectors import Detectors, Thresholds
from streams.rules.detection.ranks import LEVEL, RankTest
from streams.rules.windows import sketch

STEP_MS = 1000
DRAWS = 4999
SERIES = SeriesId("bench", "", "agent")


class Whole:
    """All detectors of one series. Outcomes follow the confidence, execution times are log-normal, both seeded."""

    def __init__(self, run_length: float, seed: int) -> None:
        self._detectors = Detectors(SERIES, Thresholds(run_length=run_length))
        rng = Random(seed)
        # Drawn beforehand, and again after so many points, so that the cost is that of the detectors.
        self._buckets = [sketch.time_bucket(rng.lognormvariate(4, 1)) for _ in range(DRAWS)]
        self._draws = [rng.random() for _ in range(DRAWS)]
        self._count = 0
        self.kinds: list[str] = []

    def observe(self, value: float) -> bool:
        """One point."""
        self._count += 1
        bucket = self._buckets[self._count % DRAWS]
        success = self._draws[self._count % DRAWS] < value
        found = self._detectors.observe(value, Moment(0, self._count, self._count * STEP_MS), success, bucket)
        fired = [anomaly.type for anomaly in found if anomaly.state == "firing"]
        self.kinds += fired
        return bool(fired)


class Ranks:
    """The rank test alone; forgets its evidence after an alarm."""

    def __init__(self, run_length: float) -> None:
        self._test = RankTest(LEVEL, run_length)

    def observe(self, value: float) -> bool:
        """One point."""
        alarm = self._test.observe(round(value * 200))
        if alarm:
            self._test.reset()
        return alarm


class FromRiver:
    """A drift detector of river's."""

    def __init__(self, detector: Any) -> None:
        self._detector = detector

    def observe(self, value: float) -> bool:
        """One point."""
        self._detector.update(value)
        return bool(self._detector.drift_detected)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A name and how to make a fresh one from a seed."""

    name: str
    make: Callable[[int], Any]


def ours(run_length: float) -> list[Candidate]:
    """The detectors of the statistics."""
    return [
        Candidate("parallax", lambda seed: Whole(run_length, seed)),
        Candidate("rank test alone", lambda _: Ranks(run_length)),
    ]


def rivers() -> list[Candidate]:
    """River's drift detectors with their defaults; imports river."""
    from river import drift

    library: Any = drift  # untyped

    return [
        Candidate("river ADWIN", lambda _: FromRiver(library.ADWIN())),
        Candidate("river PageHinkley", lambda _: FromRiver(library.PageHinkley(mode="down"))),
    ]


def copied(detector: Any) -> Any:
    """The same detector in the same state, to go another way from here."""
    return copy.deepcopy(detector)
