"""The life of an alarm: one episode per type and series, `firing` once, `resolved` once. Pure.

In: what the detectors say at one point. Out: transitions to publish. Edge-triggered: while an episode fires, the same type cannot
fire again; after it resolved there is a pause in points. An episode's id follows from where and at which offset it fired, so a
replay after a crash gives the same id. Never a clock: times are the data points' own.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from schemas.messages import Anomaly, AnomalyDetails, AnomalyType, EventType, Severity

COOLDOWN_POINTS = 20
"""After an episode its type stays silent for this many points."""


@dataclass(frozen=True, slots=True)
class SeriesId:
    """Whose points these are."""

    agent_id: str
    pattern_name: str
    task_type: str


@dataclass(frozen=True, slots=True)
class Moment:
    """Where in the stream something happened: source partition, offset and the point's own time, epoch ms."""

    partition: int
    offset: int
    time_ms: int


@dataclass(slots=True)
class Episode:
    """One firing alarm. `baseline`: normal when it fired; `age`: points since; `calm`: points in a row that look normal."""

    id: str
    severity: Severity
    baseline: float
    age: int = 0
    calm: int = 0


def episode_id(series: SeriesId, kind: AnomalyType, at: Moment) -> str:
    """The same wherever and whenever it is computed.

    >>> a = episode_id(SeriesId("a", "", ""), "drift", Moment(0, 7, 0))
    >>> a == episode_id(SeriesId("a", "", ""), "drift", Moment(0, 7, 99)), len(a)
    (True, 24)
    """
    text = "\x00".join(
        (series.agent_id, series.pattern_name, series.task_type, kind, str(at.partition), str(at.offset))
    )
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


class Alarms:
    """The episodes of one series."""

    __slots__ = ("_pauses", "firing", "series")

    def __init__(self, series: SeriesId) -> None:
        self.series = series
        self.firing: dict[AnomalyType, Episode] = {}
        self._pauses: dict[AnomalyType, int] = {}

    def step(self) -> None:
        """One more point has come."""
        if self._pauses:
            self._pauses = {kind: left - 1 for kind, left in self._pauses.items() if left > 1}
        for episode in self.firing.values():
            episode.age += 1

    def ready(self, kind: AnomalyType) -> bool:
        """True when an episode of this type may begin."""
        return kind not in self.firing and kind not in self._pauses

    def fire(
        self, kind: AnomalyType, at: Moment, severity: Severity, baseline: float, details: AnomalyDetails
    ) -> list[Anomaly]:
        """Begin an episode, unless one is on or has just been."""
        if not self.ready(kind):
            return []
        episode = self.firing[kind] = Episode(episode_id(self.series, kind, at), severity, baseline)
        return [self._anomaly(kind, episode, "firing", at, details)]

    def resolve(self, kind: AnomalyType, at: Moment, details: AnomalyDetails) -> list[Anomaly]:
        """End the episode of this type, if there is one."""
        episode = self.firing.pop(kind, None)
        if episode is None:
            return []
        self._pauses[kind] = COOLDOWN_POINTS
        return [self._anomaly(kind, episode, "resolved", at, details)]

    def _anomaly(self, kind: AnomalyType, episode: Episode, state: Any, at: Moment, details: AnomalyDetails) -> Anomaly:
        return Anomaly(
            id=episode.id,
            type=kind,
            agent_id=self.series.agent_id,
            pattern_name=self.series.pattern_name or None,
            severity=episode.severity,
            state=state,
            detected_at=at.time_ms,
            details=details,
        )

    def to_json(self) -> list[Any]:
        """A JSON-able form."""
        return [
            [[kind, e.id, e.severity, e.baseline, e.age, e.calm] for kind, e in self.firing.items()],
            list(self._pauses.items()),
        ]

    @classmethod
    def from_json(cls, data: list[Any], series: SeriesId) -> Alarms:
        """The inverse of `to_json`."""
        alarms = cls(series)
        firing, pauses = data
        alarms.firing = {kind: Episode(*rest) for kind, *rest in firing}
        alarms._pauses = {kind: left for kind, left in pauses}
        return alarms


def event_data(anomaly: Anomaly) -> tuple[EventType, dict[str, Any]]:
    """Type and data of the lifecycle event about a transition."""
    kind: EventType = "anomaly:detected" if anomaly.state == "firing" else "anomaly:resolved"
    data = {
        "type": anomaly.type,
        "agentId": anomaly.agent_id,
        "anomalyId": anomaly.id,
        "severity": anomaly.severity,
        "details": anomaly.details.wire(),
    }
    if anomaly.pattern_name:
        data["patternName"] = anomaly.pattern_name
    return kind, data
