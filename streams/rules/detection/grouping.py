"""One alarm for an agent in place of one for each of its patterns. Pure.

In: a transition of one series, and the alarms of all series of the agent in that partition. Out: the transition to
publish, or nothing. When half of an agent's patterns (at least two) are in an episode of one type, the pattern that
reached the half is published as the agent's own alarm, without a pattern. While that one fires, further episodes of the
type are held back; those still firing when it ends are published then. Every decision depends on offsets alone, so a
replay repeats it, regardless of the progress of other series.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.messages import Anomaly, AnomalyDetails
from streams.rules.detection.alarms import Alarms, Key, Moment, Scope


@dataclass(frozen=True, slots=True)
class Sibling:
    """Another series of the agent: its alarms, and the offset of its first point."""

    born: int
    alarms: Alarms


def _scopes(siblings: Sequence[Sibling], kind: Key, offset: int) -> list[Scope]:
    return [
        spell.scope for sibling in siblings for spell in sibling.alarms.spells.get(kind, ()) if spell.covers(offset)
    ]


def publishable(anomaly: Anomaly, offset: int, mine: Alarms, siblings: Sequence[Sibling]) -> Anomaly | None:
    """The transition to publish, or None to hold it back. `siblings`: without the series itself."""
    kind = mine.key_of(anomaly)
    if anomaly.state == "firing":
        scopes = _scopes(siblings, kind, offset)
        known = 1 + sum(1 for sibling in siblings if sibling.born <= offset)
        if "agent" in scopes:
            mine.assign(kind, "hidden")
        elif scopes and 2 * (len(scopes) + 1) >= known:
            mine.assign(kind, "agent")
            return _as_agents(anomaly, f"{len(scopes) + 1} of {known} patterns")
        return None if "agent" in scopes else anomaly
    scope = mine.scope(kind, anomaly.id)
    if scope == "hidden":
        return None
    return _as_agents(anomaly, "the pattern that made it the agent's") if scope == "agent" else anomaly


def surfaced(mine: Alarms, at: Moment, siblings: Sequence[Sibling]) -> list[Anomaly]:
    """Held back episodes that continue after the agent-wide one has ended: published now, as the pattern's own."""
    found = []
    for kind, episode in mine.firing.items():
        if episode.scope == "hidden" and "agent" not in _scopes(siblings, kind, at.offset):
            mine.assign(kind, "own")
            why = AnomalyDetails(
                historical_average=round(episode.baseline, 6),
                detector="group",
                window=f"{episode.age} points; the agent's own alarm has ended, this pattern's has not",
            )
            found.append(mine.report(kind, at, why))
    return found


def _as_agents(anomaly: Anomaly, note: str) -> Anomaly:
    details = anomaly.details.model_copy(update={"window": f"{anomaly.details.window or ''} ({note})".strip()})
    return anomaly.model_copy(update={"pattern_name": None, "details": details})
