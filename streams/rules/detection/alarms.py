"""The life of an alarm: firing, resolved; one episode per type and series at a time, each state once. Pure.

In: the detectors' findings at one point. Out: transitions to publish. Edge-triggered: while an episode fires, the same
type cannot fire again. After it resolved there is a pause in points, longer each time the type returns soon. An
episode's id follows from its series and the offset at which it fired, so a replay after a crash gives the same id. No
clock is used: times are the data points' own. Begin and end of the newest episodes of each type are kept for
`grouping`.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from hashlib import blake2b
from typing import Any, Literal, cast

from schemas.messages import Anomaly, AnomalyDetails, AnomalyType, EventType, Severity

COOLDOWN_POINTS = 20
"""After an episode its type stays silent for this many points, five times as many after each further one, at most
`COOLDOWN_MOST`.
"""
COOLDOWN_MOST = 5000
"""The longest silence: an alarm that comes and goes all the time is one incident, not one at each return."""
COOLDOWN_GROWTH = 5
FORGIVEN_POINTS = 4000
"""Points without an episode after which one counted episode is forgotten."""
OFTEN = 2
KEPT_SPELLS = 4

Key = str
"""The key of episodes: an anomaly type for the default detectors, `type/name` for one that a user chose."""

Scope = Literal["own", "agent", "hidden"]
"""own: published as the pattern's; agent: as the whole agent's; hidden: not published, covered by the agent's alarm."""


@dataclass(frozen=True, slots=True)
class SeriesId:
    """Identifies a series."""

    agent_id: str
    pattern_name: str
    task_type: str


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment in the stream: source partition, offset and the point's own time, epoch ms."""

    partition: int
    offset: int
    time_ms: int


@dataclass(slots=True)
class Episode:
    """One firing alarm. `baseline`: the normal value when it fired; `shift`: the distance from it, `side`: its
    direction.

    `age`: points since; `calm`: normal points in a row. `at_ms`: when it fired; 0 if that was not recorded yet.
    """

    id: str
    severity: Severity
    baseline: float
    shift: float = 0.0
    side: str = ""
    age: int = 0
    calm: int = 0
    scope: Scope = "own"
    at_ms: int = 0


@dataclass(slots=True)
class Spell:
    """The first and the last offset of an episode; `to` -1: it has not ended."""

    id: str
    begin: int
    to: int
    scope: Scope

    def covers(self, offset: int) -> bool:
        """Whether it had begun before this offset and not ended before it.

        >>> Spell("x", 5, -1, "own").covers(5), Spell("x", 5, 9, "own").covers(9), Spell("x", 5, 9, "own").covers(10)
        (False, True, False)
        """
        return self.begin < offset and (self.to < 0 or offset <= self.to)


def episode_key(kind: AnomalyType, name: str) -> Key:
    """The key of the episodes of one chosen detector.

    >>> type_of(episode_key("drift", "mine")), type_of("outlier")
    ('drift', 'outlier')
    """
    return f"{kind}/{name}"


def type_of(key: Key) -> AnomalyType:
    """The anomaly type of a key."""
    return cast("AnomalyType", key.partition("/")[0])


def episode_id(series: SeriesId, kind: Key, at: Moment) -> str:
    """The id of an episode: the same wherever and whenever it is computed.

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

    __slots__ = ("_pauses", "_pending", "_repeats", "firing", "series", "spells")

    def __init__(self, series: SeriesId) -> None:
        self.series = series
        self.firing: dict[Key, Episode] = {}
        self.spells: dict[Key, list[Spell]] = {}
        self._pauses: dict[Key, int] = {}
        self._pending: dict[Key, tuple[int, Episode, AnomalyDetails]] = {}
        self._repeats: dict[Key, list[int]] = {}  # key -> [episodes counted, points since the last was over]

    @property
    def busy(self) -> bool:
        """False if a step would change nothing."""
        return bool(self.firing or self._pauses or self._pending or self._repeats)

    def step(self) -> None:
        """Count one more point."""
        if self._pauses:
            self._pauses = {kind: left - 1 for kind, left in self._pauses.items() if left > 1}
        for episode in self.firing.values():
            episode.age += 1
        for kind, repeats in list(self._repeats.items()):
            repeats[1] += 1
            if repeats[1] >= FORGIVEN_POINTS:
                repeats[0], repeats[1] = repeats[0] - 1, 0
                if repeats[0] <= 0:
                    del self._repeats[kind]

    def ready(self, kind: Key) -> bool:
        """Whether an episode of this type may begin."""
        return kind not in self.firing and kind not in self._pauses and kind not in self._pending

    @property
    def pending(self) -> tuple[Key, ...]:
        """The types that wait; an earlier version let outliers wait here."""
        return tuple(self._pending)

    def due(self, at: Moment) -> list[Anomaly]:
        """Count one more point for what is pending; what has waited long enough fires."""
        found: list[Anomaly] = []
        for kind, (left, episode, details) in list(self._pending.items()):
            if left > 1:
                self._pending[kind] = (left - 1, episode, details)
                continue
            del self._pending[kind]
            found += self.fire(kind, at, episode.severity, episode.baseline, details, episode.shift, episode.side)
        return found

    def fire(
        self,
        kind: Key,
        at: Moment,
        severity: Severity,
        baseline: float,
        details: AnomalyDetails,
        shift: float = 0.0,
        side: str = "",
    ) -> list[Anomaly]:
        """Begin an episode, unless one is firing or ended just before."""
        if not self.ready(kind):
            return []
        episode = Episode(episode_id(self.series, kind, at), severity, baseline, shift, side, at_ms=at.time_ms)
        self.firing[kind] = episode
        spells = self.spells.setdefault(kind, [])
        spells.append(Spell(episode.id, at.offset, -1, "own"))
        del spells[:-KEPT_SPELLS]
        return [self._anomaly(kind, episode, "firing", at, details)]

    def often(self, kinds: tuple[Key, ...]) -> bool:
        """Whether episodes of these types have kept returning lately."""
        return any(kind in self._repeats and self._repeats[kind][0] >= OFTEN for kind in kinds)

    def resolve(self, kind: Key, at: Moment, details: AnomalyDetails) -> list[Anomaly]:
        """End the episode of this type, if there is one."""
        episode = self.firing.pop(kind, None)
        if episode is None:
            return []
        repeats = self._repeats.setdefault(kind, [0, 0])
        self._pauses[kind] = min(COOLDOWN_POINTS * COOLDOWN_GROWTH ** repeats[0], COOLDOWN_MOST)
        repeats[0], repeats[1] = min(repeats[0] + 1, 5), 0
        self.spells[kind][-1].to = at.offset
        return [self._anomaly(kind, episode, "resolved", at, details)]

    def report(self, kind: Key, at: Moment, details: AnomalyDetails) -> Anomaly:
        """Publish a continuing episode (again) from here."""
        return self._anomaly(kind, self.firing[kind], "firing", at, details)

    def assign(self, kind: Key, scope: Scope) -> None:
        """Set the scope (pattern or agent) under which the newest episode of a type is reported."""
        self.spells[kind][-1].scope = scope
        if kind in self.firing:
            self.firing[kind].scope = scope

    def scope(self, kind: Key, episode: str) -> Scope:
        """The scope under which an episode was reported; "own" if it is no longer known."""
        return next((spell.scope for spell in self.spells.get(kind, ()) if spell.id == episode), "own")

    def key_of(self, anomaly: Anomaly) -> Key:
        """The episode key of an anomaly of this series."""
        return next(
            (kind for kind, spells in self.spells.items() for spell in spells if spell.id == anomaly.id), anomaly.type
        )

    def _anomaly(self, kind: Key, episode: Episode, state: Any, at: Moment, details: AnomalyDetails) -> Anomaly:
        return Anomaly(
            id=episode.id,
            type=type_of(kind),
            agent_id=self.series.agent_id,
            pattern_name=self.series.pattern_name or None,
            severity=episode.severity,
            state=state,
            detected_at=at.time_ms,
            details=details,
        )

    def to_json(self) -> list[Any]:
        return [
            [[kind, *astuple(episode)] for kind, episode in self.firing.items()],
            list(self._pauses.items()),
            [[kind, left, astuple(e), details.wire()] for kind, (left, e, details) in self._pending.items()],
            [[kind, [astuple(spell) for spell in spells]] for kind, spells in self.spells.items()],
            [[kind, *repeats] for kind, repeats in self._repeats.items()],
        ]

    @classmethod
    def from_json(cls, data: list[Any], series: SeriesId) -> Alarms:
        alarms = cls(series)
        firing, pauses, pending, spells, *repeats = data
        alarms.firing = {kind: Episode(*rest) for kind, *rest in firing}
        alarms._pauses = {kind: left for kind, left in pauses}
        alarms._pending = {
            kind: (left, Episode(*episode), AnomalyDetails.model_validate(details))
            for kind, left, episode, details in pending
        }
        alarms.spells = {kind: [Spell(*spell) for spell in rows] for kind, rows in spells}
        alarms._repeats = {kind: [count, points] for kind, count, points in (repeats or [[]])[0]}
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
