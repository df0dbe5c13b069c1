"""The port of all detectors: one point in, a signal out. Pure.

A detector has a name, parameters and a promise (a bound of its false alarms). `update` takes the points of one series
in the order of their offsets and must be deterministic: the same points give the same signals in every process.
`to_json` gives a bounded JSON-able state; after `load`, the detector continues exactly where the other one was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

Kind = Literal["drift", "anomaly"]
"""drift: signals that the distribution has changed, then starts again; anomaly: evaluates each point by itself."""


@dataclass(frozen=True, slots=True)
class Point:
    """A data point as detectors see it. `confidence`: in [0, 1], to 1/10000; `success`: None if it is not evaluated;
    `time`: the execution time in [0, 1] on a logarithmic scale (0 if unknown).
    """

    confidence: float
    success: bool | None = None
    time: float = 0.0


@dataclass(frozen=True, slots=True)
class Signal:
    """`alarm`: the point is abnormal; `score`: how unusual it is, on the detector's own scale, if it has one."""

    alarm: bool
    score: float | None = None


class PointDetector(Protocol):
    """One detector of one series."""

    @property
    def kind(self) -> Kind:
        """How its signals must be interpreted."""
        ...

    @property
    def promise(self) -> str:
        """The bound of its false alarms, in a sentence."""
        ...

    def update(self, point: Point) -> Signal:
        """Evaluate one point, then learn from it."""
        ...

    def to_json(self) -> Any:
        """The state; at most a few KiB."""
        ...

    def load(self, state: Any) -> None:
        """The inverse of `to_json`, on a fresh detector with the same parameters."""
        ...
