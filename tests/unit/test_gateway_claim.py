"""Who holds a dialled-in agent, told by the order of its records; and what its registration is made of."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from schemas.messages import AgentRegistration, Task
from streams.agents.agent_statuses import AgentStatuses
from streams.dispatch.balancer import Balancer
from streams.rules.agents.gateway_claim import MAX_METADATA, Position, Where, compose, judge, where_of
from streams.settings import Settings

OURS, BEFORE, AFTER = Position(0, 5), Position(0, 4), Position(0, 6)


def record(key: str | None, status: str = "healthy", endpoint: str = "gateway://a") -> AgentRegistration:
    """A record of agent `a`."""
    where = None if key is None else {"gateway": Where("h:1", "n", key, status).wire()}
    return AgentRegistration(id="a", endpoint=endpoint, metadata=where)


@pytest.mark.parametrize(
    ("agent", "at", "mark", "verdict"),
    [
        (record("k"), OURS, "", "ours"),
        (record("k", "degraded"), AFTER, "status", "ours"),
        (record("k", "away"), AFTER, "status", "again"),
        (record("other"), BEFORE, "", "older"),
        (record("other"), AFTER, "", "taken"),
        (record("other"), Position(1, 0), "", "taken"),
        (record("other", "away"), AFTER, "status", "again"),
        (record(None), AFTER, "", "again"),
        (record(None, endpoint="http://h"), AFTER, "", "removed"),
        (None, BEFORE, "", "older"),
        (None, AFTER, "", "removed"),
        (None, AFTER, "gone", "again"),
    ],
)
def test_what_a_record_means(agent: AgentRegistration | None, at: Position, mark: str, verdict: str) -> None:
    """Row by row, for the connection `k` whose own record lies at offset 5."""
    assert judge("k", OURS, agent, at, mark) == verdict


def test_nothing_is_decided_before_it_is_known_where_our_own_record_lies() -> None:
    """It may come before or after."""
    assert judge("k", None, record("other"), AFTER, "") == "older"


@pytest.mark.parametrize(
    "section", [3, {}, {"address": "h:1"}, {"address": "h:1", "node": "n", "key": 7, "status": "x"}]
)
def test_what_is_no_place_is_none(section: Any) -> None:
    """Anybody can write to the topic."""
    assert where_of(AgentRegistration(id="a", endpoint="gateway://a", metadata={"gateway": section})) is None


def test_what_an_operator_gave_stays() -> None:
    """Limits, breaker, auth, and metadata the agent does not give; a lease and an old place do not."""
    base = AgentRegistration.model_validate(
        {
            "id": "a b",
            "endpoint": "gateway://x",
            "capabilities": ["see"],
            "limits": {"maxConcurrency": 50},
            "auth": {"env": "T"},
            "metadata": {"team": "red", "version": "1", "lease": {"id": "l"}, "gateway": {"node": "old"}},
        }
    )
    where = Where("h:1", "n", "k", "healthy")
    found = compose("a b", "", (), {"version": "2", "gateway": "a lie"}, where, base)
    assert found == {
        "id": "a b",
        "endpoint": "gateway://a%20b",
        "protocol": "gateway",
        "capabilities": ["see"],
        "metadata": {"team": "red", "version": "2", "gateway": where.wire()},
        "limits": {"maxRequests": 100, "windowMs": 60_000, "maxConcurrency": 50},
        "auth": {"env": "T"},
    }
    AgentRegistration.model_validate(found)
    assert compose("a b", "", ("hear", "hear"), {}, where, base)["capabilities"] == ["hear"]


@pytest.mark.parametrize(
    ("status", "chosen"), [("healthy", "a"), ("degraded", "a"), ("draining", None), ("away", None), (None, None)]
)
def test_no_task_that_names_nobody_goes_to_an_agent_that_is_not_there(status: str | None, chosen: str | None) -> None:
    """The record alone tells; no health check has to find out first."""
    agents = SimpleNamespace(version=1, get=lambda name: agent, all=lambda: [agent])
    agent = record("k" if status else None, status or "")
    balancer = Balancer(agents=agents, agent_statuses=AgentStatuses(), settings=Settings(), wall_ms=lambda: 1_000_000)
    task = Task.model_validate({"id": "t", "type": "agent", "capabilities": ["see"], "payload": 1})
    agent = agent.model_copy(update={"capabilities": ["see"]})
    found = balancer.choose(task)
    assert (None if found is None else found.id) == chosen
    assert balancer.capable(task)


def test_metadata_is_bounded() -> None:
    """It goes to a topic that everybody reads whole."""
    with pytest.raises(ValueError, match="metadata: has more than"):
        compose("a", "", (), {"k": "v" * MAX_METADATA}, Where("h:1", "n", "k", "healthy"), None)
