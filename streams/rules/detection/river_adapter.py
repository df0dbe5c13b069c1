"""River's detectors behind the port, unchanged. Pure; river is imported when the first one is built.

River serialises only by pickle, so the state kept here is the recent points: the detector is always as after learning
exactly these. Every `MEMORY` points it is rebuilt from the last `MEMORY`, hence between `MEMORY` and twice as many are
kept, and a restored detector equals one that was never interrupted. No detector remembers more than that.
"""

from __future__ import annotations

from array import array
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any

from streams.rules.detection.port import Kind, Point, PointDetector, Signal
from streams.rules.detection.ranks import LEVEL, RankTest
from streams.rules.detection.specs import DetectorSpec

MEMORY = 256
WARM = 30
"""Points a detector of anomalies learns before it judges any."""
SCALE = 10_000
SEED = 1
"""For detectors that draw at random: the same in every process."""
_SUCCESS = {None: 0, False: 1, True: 2}


class RiverDetector:
    """One of river's detectors with the parameters of a spec."""

    __slots__ = ("_built", "_learnt", "_recent", "_spec")

    def __init__(self, spec: DetectorSpec) -> None:
        self._spec = spec
        self._recent = array("H")  # confidence, time (both x 10000) and success of each recent point in turn
        self._built = _build(spec)
        self._learnt = 0  # points since it was built

    @property
    def kind(self) -> Kind:
        """drift or anomaly."""
        return self._spec.known.kind

    @property
    def promise(self) -> str:
        """The bound of its false alarms."""
        if self.kind == "drift":
            return "none proven here: river's detector with its own parameters"
        if self._spec.quantile is not None:
            return (
                f"about one point in {1 / (1 - self._spec.quantile):,.0f} of a stable stream scores above its quantile"
            )
        return "none: a fixed threshold on the score"

    def update(self, point: Point) -> Signal:
        recent = self._recent
        row = (round(point.confidence * SCALE), round(point.time * SCALE), _SUCCESS[point.success])
        recent.extend(row)
        signal = self._learn(*row)
        if len(recent) >= 3 * 2 * MEMORY:
            del recent[: 3 * MEMORY]
            self._rebuild()
        return signal

    def _learn(self, confidence: int, time: int, success: int) -> Signal:
        built, value = self._built, confidence / SCALE
        if self.kind == "drift":
            built.update(value)
            return Signal(bool(built.drift_detected))
        example: tuple[Any, ...] = (None, value)
        if self._spec.known.multivariate:
            # An outcome that is not to be judged counts as a success.
            example = ({"confidence": value, "time": time / SCALE, "success": 0.0 if success == 1 else 1.0},)
        self._learnt += 1
        if self._learnt <= WARM:
            # The first scores mean nothing (StandardAbsoluteDeviation divides by a variance of 0): no quantile learns them.
            built.anomaly_detector.learn_one(*example)
            return Signal(False)
        score = built.score_one(*example)
        alarm = built.classify(score)
        built.learn_one(*example)
        score = float(score)
        return Signal(bool(alarm), None if score != score else score)

    def _rebuild(self) -> None:
        self._built, self._learnt = _build(self._spec), 0
        recent = self._recent
        for place in range(0, len(recent), 3):
            self._learn(recent[place], recent[place + 1], recent[place + 2])

    def to_json(self) -> str:
        """The recent points, base64: at most 4 KiB."""
        return b64encode(self._recent.tobytes()).decode()

    def load(self, state: Any) -> None:
        """Learn the recent points of another detector."""
        self._recent = array("H", b64decode(state))
        self._rebuild()


class RankDetector:
    """Our rank test behind the port: its state is numbers."""

    __slots__ = ("_test",)

    kind: Kind = "drift"

    def __init__(self, spec: DetectorSpec) -> None:
        self._test = RankTest(LEVEL, float(dict(spec.parameters).get("run_length", 10_000)))

    @property
    def promise(self) -> str:
        return f"at least {self._test.run_length:,.0f} points between false alarms on any stable stream"

    def update(self, point: Point) -> Signal:
        self._test.update(point.confidence)
        total = self._test.total
        if self._test.drift_detected:
            self._test.reset()
            return Signal(True, total)
        return Signal(False, total)

    def to_json(self) -> list[Any]:
        return self._test.to_json()

    def load(self, state: Any) -> None:
        self._test = RankTest.from_json(state, LEVEL, self._test.run_length)


OWN: dict[str, Callable[[DetectorSpec], PointDetector]] = {"parallax.RankTest": RankDetector}
"""Detectors that are not river's, by the name that a user chooses them by."""


def build(spec: DetectorSpec) -> PointDetector:
    """A fresh detector of a spec."""
    return OWN.get(spec.use, RiverDetector)(spec)


def _build(spec: DetectorSpec) -> Any:
    from river import anomaly, drift

    library, name = {"drift": drift, "anomaly": anomaly}[spec.known.kind], spec.use.rpartition(".")[2]
    parameters: dict[str, Any] = dict(spec.parameters)
    if "seed" in spec.known.parameters:
        parameters.setdefault("seed", SEED)
    if name == "HalfSpaceTrees":
        parameters = {
            "window_size": 100,
            **parameters,
            "limits": dict.fromkeys(("confidence", "time", "success"), (0, 1)),
        }
    built: Any = getattr(library, name)(**parameters)
    if spec.known.kind == "drift":
        return built
    if spec.threshold is not None:
        return anomaly.ThresholdFilter(built, threshold=spec.threshold)
    return anomaly.QuantileFilter(built, q=spec.quantile or 0.0)
