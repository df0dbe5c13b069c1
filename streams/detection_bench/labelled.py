"""Generates realistic series with incidents at known places. Pure: the random source is passed in.

In: a family (steady, rounded, correlated, wandering, daily, weekly, trending, heteroscedastic, heavy-tailed, bursty,
two values), incidents, a seed. Out: points (time, value in [0, 1]) every five minutes for two weeks or more, and the
labelled windows. Gaps of some hours are normal, not incidents. The same seed gives the same series.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

STEP_MS = 300_000
DAY = 288
POINTS = 4200
HISTORY = 1300
"""Points before the first incident."""
APART = 900
GRACE = 60
"""Points after an incident in which an alarm still counts for it: the recovery is part of it."""
START_MS = 1_790_000_000_000

Incident = Literal["drop", "rise", "shift", "creep", "spike", "dip", "burst", "stuck", "ramp", "missing-peak"]


@dataclass(frozen=True, slots=True)
class IncidentWindow:
    """A labelled incident: from its first point to the last at which an alarm counts for it."""

    kind: Incident
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Labelled:
    """One series: `points` of (epoch ms, value), and its incidents in order."""

    family: str
    points: tuple[tuple[int, float], ...]
    windows: tuple[IncidentWindow, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """The normal behaviour of a series. `spread`: the unit of incident sizes; `incidents`: the kinds that make sense.

    `days`: additional ones before the first incident. Within the first week a quiet Saturday cannot be told from a
    missing peak, nor within the first two weeks a weekend.
    """

    normal: Callable[[Random, int], list[float]]
    spread: float
    incidents: tuple[Incident, ...]
    days: int = 0


def _autoregressive(rng: Random, count: int, phi: float) -> list[float]:
    score, found = rng.gauss(0, 1), []
    for _ in range(count):
        score = phi * score + math.sqrt(1 - phi * phi) * rng.gauss(0, 1)
        found.append(score)
    return found


def _steady(rng: Random, count: int) -> list[float]:
    return [rng.betavariate(17, 3) for _ in range(count)]


def _rounded(rng: Random, count: int) -> list[float]:
    return [round(rng.betavariate(16, 4) * 20) / 20 for _ in range(count)]


def _correlated(rng: Random, count: int) -> list[float]:
    return [0.75 + 0.06 * score for score in _autoregressive(rng, count, 0.8)]


def _wandering(rng: Random, count: int) -> list[float]:
    return [0.72 + 0.06 * slow + 0.02 * rng.gauss(0, 1) for slow in _autoregressive(rng, count, 0.985)]


def _daily(rng: Random, count: int) -> list[float]:
    phase = rng.random()
    return [0.5 + 0.2 * math.sin(2 * math.pi * (i / DAY + phase)) + rng.gauss(0, 0.03) for i in range(count)]


def _weekly(rng: Random, count: int) -> list[float]:
    phase = rng.random()
    return [
        0.4
        + (0.2 if i // DAY % 7 < 5 else 0.1) * max(math.sin(2 * math.pi * (i / DAY + phase)), -0.5)
        + rng.gauss(0, 0.03)
        for i in range(count)
    ]


def _trending(rng: Random, count: int) -> list[float]:
    low, high = rng.choice(((0.55, 0.8), (0.9, 0.65)))
    return [low + (high - low) * i / count + rng.gauss(0, 0.035) for i in range(count)]


def _heteroscedastic(rng: Random, count: int) -> list[float]:
    return [0.6 + rng.gauss(0, 0.045 + 0.03 * math.sin(2 * math.pi * i / DAY)) for i in range(count)]


def _heavy_tailed(rng: Random, count: int) -> list[float]:
    return [0.08 + 0.04 * rng.lognormvariate(0, 0.7) for _ in range(count)]


def _bursty(rng: Random, count: int) -> list[float]:
    found, left = [], 0
    for _ in range(count):
        left = left - 1 if left else (rng.randrange(3, 9) if rng.random() < 0.01 else 0)
        found.append(0.15 + rng.gauss(0, 0.02) + (0.25 * rng.uniform(0.7, 1.2) if left else 0.0))
    return found


def _two_values(rng: Random, count: int) -> list[float]:
    return [0.9 if rng.random() < 0.7 else 0.95 for _ in range(count)]


_LEVEL: tuple[Incident, ...] = ("drop", "shift", "creep", "spike", "dip", "burst", "stuck", "ramp")
FAMILIES: dict[str, Family] = {
    "steady": Family(_steady, 0.08, ("drop", "shift", "creep", "dip", "stuck", "ramp")),
    "rounded": Family(_rounded, 0.09, ("drop", "shift", "creep", "dip", "stuck", "ramp")),
    "correlated": Family(_correlated, 0.06, _LEVEL),
    "wandering": Family(_wandering, 0.06, ("spike", "dip", "burst", "stuck")),
    "daily": Family(_daily, 0.06, ("drop", "rise", "shift", "spike", "dip", "stuck", "missing-peak"), 5),
    "weekly": Family(_weekly, 0.06, ("drop", "rise", "shift", "spike", "stuck", "missing-peak"), 14),
    "trending": Family(_trending, 0.05, ("drop", "rise", "shift", "spike", "dip", "burst", "stuck")),
    "heteroscedastic": Family(_heteroscedastic, 0.06, ("drop", "shift", "spike", "dip", "burst", "stuck")),
    "heavy-tailed": Family(_heavy_tailed, 0.06, ("rise", "shift", "spike", "burst", "stuck")),
    "bursty": Family(_bursty, 0.08, ("rise", "shift", "spike", "stuck")),
    "two values": Family(_two_values, 0.05, ("drop", "shift", "dip", "stuck")),
}


def labelled(family: str, seed: int) -> Labelled:
    """One series: two incidents, or one, or (every fifth seed) none.

    >>> one = labelled("daily", 1)
    >>> one == labelled("daily", 1), len(one.windows) > 0, labelled("daily", 5).windows
    (True, True, ())
    """
    rng = Random(f"{family}/{seed}")
    how = FAMILIES[family]
    count = POINTS + how.days * DAY
    values = how.normal(rng, count)
    windows: list[IncidentWindow] = []
    begin = HISTORY + how.days * DAY + rng.randrange(400)
    for _ in range(0 if seed % 5 == 0 else rng.choice((1, 2, 2))):
        if begin + APART > count:
            break
        kind = rng.choice(how.incidents)
        length = _strike(rng, values, kind, begin, how.spread)
        windows.append(IncidentWindow(kind, begin, begin + length + GRACE))
        begin += length + APART + rng.randrange(300)
    # Some hours are missing, well before the first incident.
    gap = range(700, 700 + rng.randrange(20, 120)) if rng.random() < 0.5 else range(0)
    points = tuple(
        (START_MS + index * STEP_MS, round(min(max(value, 0.0), 1.0), 4))
        for index, value in enumerate(values)
        if index not in gap
    )
    shifted = tuple(IncidentWindow(w.kind, w.begin - len(gap), w.end - len(gap)) for w in windows)
    return Labelled(family, points, shifted)


def _strike(rng: Random, values: list[float], kind: Incident, begin: int, spread: float) -> int:
    """Change the values from `begin` on; returns the number of changed points."""
    if kind in ("shift", "creep"):
        return _move(values, kind, begin, spread)
    if kind in ("drop", "rise"):
        length, by = rng.randrange(120, 200), rng.uniform(3, 5) * spread * (-1 if kind == "drop" else 1)
        for index in range(begin, begin + length):
            values[index] += by
    elif kind in ("spike", "dip"):
        length, by = rng.randrange(1, 4), rng.uniform(7, 10) * spread * (-1 if kind == "dip" else 1)
        for index in range(begin, begin + length):
            values[index] += by
    elif kind == "burst":
        length = rng.randrange(40, 80)
        for index in range(begin, begin + length):
            values[index] += rng.gauss(0, 3 * spread)
    elif kind == "stuck":
        length = rng.randrange(60, 150)
        values[begin : begin + length] = [values[begin]] * length
    elif kind == "ramp":
        length, by = rng.randrange(250, 350), -5 * spread
        for index in range(begin, begin + length):
            values[index] += by * min((index - begin) / 200, 1.0)
    else:  # a day without its peak: the values stay where they are, noise and all
        length = DAY
        level = sum(values[begin : begin + 10]) / 10
        for index in range(begin, begin + length):
            values[index] = level + rng.gauss(0, 0.03)
    return length


def _move(values: list[float], kind: Incident, begin: int, spread: float) -> int:
    """Shift for good: the new level is normal afterwards."""
    sign = 1 if values[begin] < 0.45 else -1  # where there is room
    length, over, by = (100, 1, 4.5) if kind == "shift" else (400, 300, 5.0)
    for index in range(begin, len(values)):
        values[index] += sign * by * spread * min((index - begin + 1) / over, 1.0)
    return length


def made(per_family: int, seed: int) -> list[Labelled]:
    """That many series of every family."""
    return [labelled(family, seed * 1000 + number) for family in FAMILIES for number in range(1, per_family + 1)]
