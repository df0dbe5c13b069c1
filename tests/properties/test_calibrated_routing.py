"""Whoever chooses among agents goes by what their confidence is worth, not by what they say, as soon as that is known."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from agents_io.calling.call_stats import CallStats
from schemas.messages import AgentRegistration, AgentStanding, Task
from streams.agents.agent_statuses import AgentStatuses
from streams.dispatch.balancer import Balancer
from streams.rules.detection.calibration import calibrated
from streams.settings import Settings

NOW_MS = 1_000_000
tables = st.lists(st.floats(0, 1), min_size=21, max_size=21)
stated = st.lists(st.floats(0, 1), min_size=1, max_size=12)


class Two:
    """Two agents that can do the same."""

    version = 0

    def __init__(self) -> None:
        body = {"endpoint": "http://h", "capabilities": ["sum"]}
        self.known = {name: AgentRegistration.model_validate(body | {"id": name}) for name in ("a", "b")}

    def get(self, agent_id: str) -> AgentRegistration | None:
        """By id."""
        return self.known.get(agent_id)

    def all(self) -> list[AgentRegistration]:
        """Both."""
        return list(self.known.values())


def followed(answers: list[float], table: list[float] | None) -> CallStats:
    """What a partition sees of an agent that answers so."""
    track = CallStats() if table is None else CallStats(worth=lambda confidence: calibrated(table, confidence))
    for number, confidence in enumerate(answers):
        track.ended("success", 0.1, confidence, float(number))
    return track


def chosen(*tracks: CallStats) -> Counter[str]:
    """Who gets the first task after these standings, by the ids of fifty tasks."""
    agent_statuses = AgentStatuses()
    for name, track in zip("ab", tracks, strict=True):
        fields: dict[str, Any] = {"agentId": name, "at": NOW_MS, "confidence": track.confidence.value}
        agent_statuses.note(AgentStanding.model_validate(fields | {"calibratedConfidence": track.calibrated.value}))
    got: Counter[str] = Counter()
    for number in range(50):
        balancer = Balancer(agents=Two(), agent_statuses=agent_statuses, settings=Settings(), wall_ms=lambda: NOW_MS)
        found = balancer.choose(Task(id=f"t{number}", type="agent", payload={}, capabilities=["sum"]))
        assert found is not None
        got[found.id] += 1
    return got


@given(of_a=stated, of_b=stated, table_a=tables, table_b=tables)
def test_of_two_equally_free_agents_the_one_whose_answers_are_worth_more_is_chosen(
    of_a: list[float], of_b: list[float], table_a: list[float], table_b: list[float]
) -> None:
    """Whatever they say of themselves."""
    a, b = followed(of_a, table_a), followed(of_b, table_b)
    assert a.calibrated.value is not None
    assert b.calibrated.value is not None
    assume(abs(a.calibrated.value - b.calibrated.value) > 1e-6)
    assert chosen(a, b) == {"a" if a.calibrated.value > b.calibrated.value else "b": 50}


@given(of_a=stated, of_b=stated, table=tables)
def test_what_an_agent_says_counts_only_while_nothing_better_is_known(
    of_a: list[float], of_b: list[float], table: list[float]
) -> None:
    """One is calibrated, the other is new."""
    a, b = followed(of_a, table), followed(of_b, None)
    assert a.calibrated.value is not None
    assert b.confidence.value is not None
    assume(abs(a.calibrated.value - b.confidence.value) > 1e-6)
    assert chosen(a, b) == {"a" if a.calibrated.value > b.confidence.value else "b": 50}


def test_an_overconfident_agent_stops_being_preferred() -> None:
    """It says 0.95 and is right in two of five; the other says 0.7 and is."""
    proud, honest = followed([0.95] * 20, None), followed([0.7] * 20, None)
    assert chosen(proud, honest) == {"a": 50}
    table = [index / 20 * 0.42 for index in range(21)]
    assert chosen(followed([0.95] * 20, table), honest) == {"b": 50}
