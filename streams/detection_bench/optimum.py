"""The theoretical limit of all detectors: CUSUM on the true likelihood ratio, with its threshold set for a given run
length. Pure.

In: Beta before and after, the wanted mean number of points between false alarms. Out: the mean delay from a CUSUM at
zero, the worst case. By Moustakides (1986) no rule with that run length has a smaller worst-case mean delay. Solved,
not simulated: the CUSUM's value on a grid is a Markov chain, and mean times to its end are a linear system.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from streams.detection_bench.generator import beta_log_density

STATES = 120
POINTS = 5000
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Optimum:
    """`delay`: mean points to the alarm, the changed ones counted; `run_length`: of the threshold found."""

    delay: float
    run_length: float
    threshold: float


@lru_cache(maxsize=64)
def optimum(mean: float, changed_mean: float, kappa: float, run_length: float) -> Optimum:
    """The optimal CUSUM for Beta(mean, kappa) -> Beta(changed_mean, kappa)."""
    grid = (np.arange(POINTS) + 0.5) / POINTS
    before = np.array([beta_log_density(x, mean, kappa) for x in grid])
    after = np.array([beta_log_density(x, changed_mean, kappa) for x in grid])
    ratio = after - before
    order = np.argsort(ratio)
    steps = ratio[order]
    usual, changed = (np.cumsum(np.exp(density[order])) for density in (before, after))
    usual, changed = usual / usual[-1], changed / changed[-1]
    low, high = 0.0, 30.0
    for _ in range(30):
        middle = (low + high) / 2
        if _mean_time(steps, usual, middle) < run_length:
            low = middle
        else:
            high = middle
    return Optimum(_mean_time(steps, changed, high), _mean_time(steps, usual, high), high)


def _mean_time(steps: Floats, cumulated: Floats, threshold: float) -> float:
    """Mean points until the CUSUM, begun at zero, reaches the threshold. The first state is zero itself."""
    width = threshold / STATES
    states = np.concatenate(([0.0], (np.arange(STATES) + 0.5) * width))
    edges = np.arange(STATES + 1) * width
    reached = np.interp(edges[None, :] - states[:, None], steps, cumulated, left=0.0, right=1.0)
    moves = np.concatenate((reached[:, :1], np.diff(reached, axis=1)), axis=1)
    times = np.linalg.solve(np.eye(STATES + 1) - moves, np.ones(STATES + 1))
    return float(times[0])
