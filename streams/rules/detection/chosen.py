"""The detectors that a user chose for one series, and their episodes. Pure.

In: points in order. Out: anomalies that name their detector. A drift ends after `STEADY` points without another signal,
an anomaly after `NORMAL` points that its detector finds normal. Each detector has its own episodes.
"""

from __future__ import annotations

import json
from typing import Any

from schemas.messages import Anomaly, AnomalyDetails, AnomalyType, Severity
from streams.rules.detection.alarms import Alarms, Moment, episode_key
from streams.rules.detection.port import Point, PointDetector
from streams.rules.detection.ring import Ring
from streams.rules.detection.river_adapter import build
from streams.rules.detection.specs import DetectorSpec

STEADY = 50
NORMAL = 10
RECENT = 20
SHOWN = 20
SCALE = 10_000


class ChosenDetectors:
    __slots__ = ("_alarms", "_claimed", "_held", "_specs", "_unclaimed")

    def __init__(self, specs: tuple[DetectorSpec, ...], alarms: Alarms) -> None:
        self._alarms = alarms
        self._specs: tuple[DetectorSpec, ...] = ()
        self._held: list[tuple[DetectorSpec, str, PointDetector]] = []
        self._unclaimed: dict[str, Any] = {}  # spec -> state that was read before its detector was chosen
        self._claimed = False  # whether `choose` was called: until then, not all that are chosen are known
        self._use(specs)

    def __len__(self) -> int:
        return len(self._held)

    def choose(self, specs: tuple[DetectorSpec, ...], at: Moment) -> list[Anomaly]:
        """Use these detectors from now on; one that was used before with the same parameters keeps its state. Returns
        the episodes that end because their detector is no longer chosen.
        """
        if specs == self._specs and self._claimed:
            return []
        self._use(specs)
        self._unclaimed.clear()
        self._claimed = True
        held = {key for _, key, _ in self._held}
        found: list[Anomaly] = []
        for key in [key for key in self._alarms.firing if _name(key) and key not in held]:
            why = AnomalyDetails(detector=_name(key), window="this detector is no longer chosen")
            found += self._alarms.resolve(key, at, why)
        return found

    def _use(self, specs: tuple[DetectorSpec, ...]) -> None:
        if specs != self._specs:
            kept = {spec: detector for spec, _, detector in self._held}
            self._specs = specs
            self._held = [(spec, _key(spec), kept[spec] if spec in kept else self._made(spec)) for spec in specs]

    def _made(self, spec: DetectorSpec) -> PointDetector:
        detector: PointDetector = build(spec)
        state = self._unclaimed.get(_id(spec.to_json()))
        if state is not None:
            detector.load(state)
        return detector

    def observe(self, point: Point, at: Moment, ring: Ring) -> list[Anomaly]:
        """Add one point; `ring` holds the newest confidences, this one included."""
        found: list[Anomaly] = []
        for spec, key, detector in self._held:
            signal = detector.update(point)
            episode = self._alarms.firing.get(key)
            if episode is not None:
                episode.calm = 0 if signal.alarm else episode.calm + 1
                if episode.calm >= (STEADY if detector.kind == "drift" else NORMAL):
                    why = self._details(
                        spec, signal.score, ring, episode.baseline, f"{episode.calm} points without a signal"
                    )
                    found += self._alarms.resolve(key, at, why)
            elif signal.alarm and self._alarms.ready(key):
                found += self._fire(spec, key, detector, signal.score, at, ring)
        return found

    def _fire(
        self, spec: DetectorSpec, key: str, detector: PointDetector, score: float | None, at: Moment, ring: Ring
    ) -> list[Anomaly]:
        newest = 1 if detector.kind == "anomaly" else min(RECENT, len(ring))
        now, others = ring.mean(newest) / SCALE, len(ring) - newest
        before = (ring.total / SCALE - now * newest) / others if others else now
        shift = now - before
        severity: Severity = "low" if shift > -0.05 else "high" if shift <= -0.4 else "medium"
        why = self._details(spec, score, ring, before, f"last {newest} of {len(ring)} points", detector.promise)
        return self._alarms.fire(key, at, severity, before, why, shift)

    def _details(
        self,
        spec: DetectorSpec,
        score: float | None,
        ring: Ring,
        before: float,
        window: str,
        promise: str | None = None,
    ) -> AnomalyDetails:
        now = ring.mean(1 if spec.known.kind == "anomaly" else RECENT) / SCALE
        return AnomalyDetails(
            current_confidence=round(now, 6),
            historical_average=round(before, 6),
            deviation=round(now - before, 6),
            threshold=spec.threshold,
            window=window if promise is None else f"{window}; false alarms: {promise}",
            detector=spec.use,
            score=None if score is None else round(score, 6),
            parameters=spec.shown(),
            points=[value / SCALE for value in ring.newest(SHOWN)],
        )

    def to_json(self) -> list[Any]:
        """Each detector's spec and state."""
        unclaimed = [[json.loads(spec), state] for spec, state in self._unclaimed.items()]
        return [[spec.to_json(), detector.to_json()] for spec, _, detector in self._held] + unclaimed

    def load(self, data: list[Any]) -> None:
        """Load the state of the detectors with the same parameters, also of those chosen later."""
        states = {_id(spec): state for spec, state in data}
        for spec, _, detector in self._held:
            state = states.pop(_id(spec.to_json()), None)
            if state is not None:
                detector.load(state)
        self._unclaimed = states


def _id(spec: list[Any]) -> str:
    return json.dumps(spec)


def _key(spec: DetectorSpec) -> str:
    kind: AnomalyType = "drift" if spec.known.kind == "drift" else "outlier"
    return episode_key(kind, spec.name)


def _name(key: str) -> str:
    """The name of the chosen detector whose episodes have this key; empty for the default detectors.

    >>> _name("drift/mine"), _name("drift"), _name("drift//stuck"), _name("slow/wait")
    ('mine', '', '', '')
    """
    kind, _, name = key.partition("/")
    return name if kind in ("drift", "outlier") and "/" not in name else ""
