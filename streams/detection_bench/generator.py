"""Generates confidence streams with a known change. Pure: the random source is passed in.

In: a shape (family, mean, spread, rounding, autocorrelation, time of day), a change and a seeded `random.Random`. Out:
confidences in [0, 1], one by one. The same seed gives the same stream. Values are drawn by inverting a distribution
function on a grid of 2,000 steps, the same way for Beta and logit-normal, independent and correlated streams.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from random import Random
from typing import Literal

GRID = 2000

Family = Literal["beta", "logit-normal", "constant"]
ChangeKind = Literal["drop", "ramp", "variance", "mixture", "stuck"]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a stream is like. `kappa`: a Beta's a + b (20: deviation .078 at mean .85); a logit-normal is spread alike.

    `rounding`: values are multiples of this (0: not rounded); `phi`: lag-1 correlation of the normal scores;
    `amplitude`, `period`: a sine added to every value, period in points.
    """

    family: Family = "beta"
    mean: float = 0.85
    kappa: float = 20.0
    rounding: float = 0.0
    phi: float = 0.0
    amplitude: float = 0.0
    period: int = 1440


@dataclass(frozen=True, slots=True)
class Change:
    """The change of a stream, and its first point.

    drop: the mean falls by `size`; ramp: the same over `over` points; variance: kappa is divided by 1 + 10 x `size`;
    mixture: `share` of the points fall by `size`; stuck: the last value repeats forever.
    """

    kind: ChangeKind
    at: int
    size: float = 0.2
    over: int = 200
    share: float = 0.3


class Quantiles:
    """A distribution on [0, 1] by its distribution function on a grid.

    >>> q = Quantiles([1.0] * GRID)
    >>> q.at(0.25), q.at(0.999)
    (0.25, 0.999)
    """

    __slots__ = ("_cumulated",)

    def __init__(self, densities: list[float]) -> None:
        total = math.fsum(densities)
        self._cumulated = [0.0, *accumulate(value / total for value in densities)]

    def at(self, share: float) -> float:
        """The value below which this share lies, 0 < share < 1."""
        cumulated = self._cumulated
        index = min(max(bisect_left(cumulated, share), 1), GRID)
        low, high = cumulated[index - 1], cumulated[index]
        inner = (share - low) / (high - low) if high > low else 0.5
        return round((index - 1 + min(max(inner, 0.0), 1.0)) / GRID, 12)


def beta_log_density(x: float, mean: float, kappa: float) -> float:
    """Log density of the Beta distribution with this mean and a + b = kappa, at 0 < x < 1.

    >>> round(beta_log_density(0.5, 0.5, 2), 12)
    0.0
    """
    a, b = mean * kappa, (1 - mean) * kappa
    constant = math.lgamma(kappa) - math.lgamma(a) - math.lgamma(b)
    return constant + (a - 1) * math.log(x) + (b - 1) * math.log(1 - x)


@lru_cache(maxsize=256)
def quantiles(family: Family, mean: float, kappa: float) -> Quantiles:
    """The inverse distribution function of a family; `mean` is clipped into (0, 1)."""
    mean = min(max(mean, 0.01), 0.99)
    grid = [(index + 0.5) / GRID for index in range(GRID)]
    if family == "beta":
        return Quantiles([math.exp(beta_log_density(x, mean, kappa)) for x in grid])
    centre = math.log(mean / (1 - mean))
    # To first order the logit of a value with this mean and variance m(1-m)/(kappa+1) has this standard deviation.
    deviation = 1 / math.sqrt((kappa + 1) * mean * (1 - mean))
    scaled = (((math.log(x / (1 - x)) - centre) / deviation, x) for x in grid)
    return Quantiles([math.exp(-z * z / 2) / (x * (1 - x)) for z, x in scaled])


def stream(rng: Random, shape: Shape, count: int, change: Change | None = None) -> Iterator[float]:
    """`count` confidences; with a change, the points from index `change.at` on are changed.

    >>> list(stream(Random(1), Shape(), 3)) == list(stream(Random(1), Shape(), 3))
    True
    """
    usual = _table(shape)
    other = usual if change is None else _table(_changed(shape, change))
    innovation = math.sqrt(1 - shape.phi * shape.phi)
    score, last = rng.gauss(0, 1), shape.mean
    for index in range(count):
        if shape.phi:
            score = shape.phi * score + innovation * rng.gauss(0, 1)
            share = 0.5 * math.erfc(-score / math.sqrt(2))
        else:
            share = rng.random()
        after = change is not None and index >= change.at
        if after and change is not None and change.kind == "stuck":
            yield last
            continue
        table = (
            other if after and (change is None or change.kind != "mixture" or rng.random() < change.share) else usual
        )
        value = shape.mean if table is None else table.at(min(max(share, 1e-12), 1 - 1e-12))
        if after and change is not None:
            value -= _shift(shape, change, index)
        if shape.amplitude:
            value += shape.amplitude * math.sin(2 * math.pi * index / shape.period)
        last = _rounded(min(max(value, 0.0), 1.0), shape.rounding)
        yield last


def _table(shape: Shape) -> Quantiles | None:
    return None if shape.family == "constant" else quantiles(shape.family, shape.mean, shape.kappa)


def _changed(shape: Shape, change: Change) -> Shape:
    if change.kind == "variance":
        return replace(shape, kappa=shape.kappa / (1 + 10 * change.size))
    return replace(shape, mean=shape.mean - change.size) if change.kind in ("drop", "mixture") else shape


def _shift(shape: Shape, change: Change, index: int) -> float:
    if change.kind == "ramp":
        return change.size * min(1.0, (index - change.at + 1) / change.over)
    return change.size if shape.family == "constant" and change.kind in ("drop", "mixture") else 0.0


def _rounded(value: float, step: float) -> float:
    return round(round(value / step) * step, 6) if step else value
