"""How fast each detector reports a change, how often it raises false alarms, and its cost. Seeded; measures CPU with
the given clock.

In: candidates, shapes and changes, how much to try. Out: plain rows for the command to print. A delay counts the
changed points up to and including the alarm; runs with an alarm before the change are left out and counted. A run
length is points per alarm.
"""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random

from streams.detection_bench.candidates import DetectorCandidate, copied
from streams.detection_bench.generator import Change, Shape, stream
from streams.detection_bench.optimum import optimum

HISTORY = 1000
PATIENCE = 1000
"""Changed points after which a change counts as missed."""
STREAM = 20_000
"""Points of one stream when run lengths are measured."""
SIZED, COPIES = 1000, 10
"""Points and streams of the memory measurement. It does not see river's parts in Rust."""
DROPS = (0.1, 0.2, 0.3)

STABLE: dict[str, Shape] = {
    "independent": Shape(),
    "wide (kappa 6)": Shape(kappa=6),
    "rounded to .05": Shape(rounding=0.05),
    "skewed (logit-normal, mean .93)": Shape("logit-normal", mean=0.93, kappa=10),
    "constant": Shape("constant", mean=0.95),
    "correlated .2": Shape(phi=0.2),
    "correlated .5": Shape(phi=0.5),
    "time of day (+-.05)": Shape(amplitude=0.05),
}
OTHER_CHANGES: dict[str, Change] = {
    "ramp .2 over 200": Change("ramp", HISTORY, 0.2, over=200),
    "variance x3": Change("variance", HISTORY, 0.2),
    "mixture 30 % -.3": Change("mixture", HISTORY, 0.3, share=0.3),
    "stuck at one value": Change("stuck", HISTORY),
}


@dataclass(frozen=True, slots=True)
class Delay:
    """Mean points to the alarm with its standard error; runs that were missed, or alarmed before the change."""

    detector: str
    change: str
    mean: float
    error: float
    p95: float
    missed: int
    early: int
    limit: float | None


@dataclass(frozen=True, slots=True)
class RunLength:
    """Points per alarm on a stable stream."""

    detector: str
    stream: str
    points: int
    alarms: int

    @property
    def run_length(self) -> float:
        """Points per alarm; without an alarm all points, as a lower bound."""
        return self.points / max(self.alarms, 1)


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU microseconds a point, and memory of one stream after `SIZED` points."""

    detector: str
    us: float
    kib: float


def delays(
    candidates: Sequence[DetectorCandidate], shape: Shape, runs: int, seed: int, run_length: float, other: bool = True
) -> Iterator[Delay]:
    """Every candidate on every change, beside the limit where it is known (Beta, independent, drops)."""
    changes = {f"drop {size:g}": Change("drop", HISTORY, size) for size in DROPS} | (OTHER_CHANGES if other else {})
    for candidate in candidates:
        learnt = [_learnt(candidate, shape, seed + run) for run in range(runs)]
        for name, change in changes.items():
            found = [
                _delay(copied(detector), shape, change, seed + run)
                for run, (detector, early) in enumerate(learnt)
                if not early
            ]
            known = (
                change.kind == "drop"
                and shape.family == "beta"
                and not (shape.phi or shape.rounding or shape.amplitude)
            )
            limit = optimum(shape.mean, shape.mean - change.size, shape.kappa, run_length).delay if known else None
            yield _summed(candidate.name, name, found, runs, limit)


def _learnt(candidate: DetectorCandidate, shape: Shape, seed: int) -> tuple[object, bool]:
    detector = candidate.make(seed)
    early = [detector.observe(value) for value in stream(Random(seed), shape, HISTORY)]
    return detector, any(early)


def _delay(detector: object, shape: Shape, change: Change, seed: int) -> int | None:
    observe: Callable[[float], bool] = detector.observe  # type: ignore[attr-defined]
    values = stream(Random(seed), shape, HISTORY + PATIENCE, change)
    for count, value in enumerate(islice(values, HISTORY, None), 1):
        if observe(value):
            return count
    return None


def _summed(detector: str, change: str, found: list[int | None], runs: int, limit: float | None) -> Delay:
    hit = sorted(count for count in found if count is not None)
    missed = len(found) - len(hit)
    if not hit:
        return Delay(detector, change, math.inf, math.inf, math.inf, missed, runs - len(found), limit)
    mean = sum(hit) / len(hit)
    spread = math.sqrt(sum((count - mean) ** 2 for count in hit) / max(len(hit) - 1, 1))
    p95 = float(hit[min(math.ceil(0.95 * len(hit)), len(hit)) - 1])
    return Delay(detector, change, mean, spread / math.sqrt(len(hit)), p95, missed, runs - len(found), limit)


def run_lengths(
    candidates: Sequence[DetectorCandidate], points: int, seed: int, shapes: dict[str, Shape] = STABLE
) -> Iterator[RunLength]:
    """Every candidate on every stable stream: `points` in streams of 20,000."""
    for name, shape in shapes.items():
        for candidate in candidates:
            alarms, left, number = 0, points, 0
            while left > 0:
                detector = candidate.make(seed * 7919 + number)
                size = min(left, STREAM)
                number += 1
                alarms += sum(map(detector.observe, stream(Random(seed * 7919 + number), shape, size)))
                left -= size
            yield RunLength(candidate.name, name, points, alarms)


def costs(candidates: Sequence[DetectorCandidate], points: int, seed: int, cpu: Callable[[], float]) -> Iterator[Cost]:
    """CPU a point on independent points; `cpu` returns seconds. Generating the stream is not counted."""
    values = list(stream(Random(seed), Shape(), points))
    for candidate in candidates:
        observe = candidate.make(seed).observe
        began = cpu()
        for value in values:
            observe(value)
        used = cpu() - began
        yield Cost(candidate.name, used / points * 1e6, _kib(candidate, values[:SIZED], seed))


def _kib(candidate: DetectorCandidate, values: Sequence[float], seed: int) -> float:
    """Memory of `COPIES` streams, divided: for one alone, shared memory would dominate."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        held = [candidate.make(seed) for _ in range(COPIES)]
        for detector in held:
            for value in values:
                detector.observe(value)
        return (tracemalloc.get_traced_memory()[0] - before) / COPIES / 1024
    finally:
        tracemalloc.stop()
