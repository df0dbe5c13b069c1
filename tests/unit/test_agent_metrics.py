"""What is told of single agents: those of the open partitions, as they are now."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from agents_io.errors import ServerError
from schemas.messages import AgentStanding
from streams.agents import metrics
from streams.agents.metrics import AgentMetrics
from tests.support.dispatching import AGENT, Dispatching
from tests.support.wait import until

pytestmark = pytest.mark.virtual_time


class Rig(Dispatching):
    """A handler whose agents are told of."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.processors = [self.handler]
        self.told: dict[str, AgentStanding] = {}
        self.page = CollectorRegistry()
        AgentMetrics(self.page, lambda: [partition.callers for partition in self.processors], lambda: self.told)

    def of(self, name: str, agent: str = "a1", **labels: str) -> float | None:
        """A series of an agent; None if there is none."""
        return self.page.get_sample_value(f"parallax_{name}", {"agent": agent, **labels})

    def series(self) -> int:
        """How many there are of single agents."""
        return sum("agent" in sample.labels for family in self.page.collect() for sample in family.samples)


async def test_an_agent_is_told_of_as_it_is_now() -> None:
    """Before its first call not at all; then what runs and waits, what it said, how long that took."""
    rig = Rig()
    assert rig.series() == 0
    rig.register(**AGENT, limits={"maxRequests": 100, "windowMs": 1000, "maxConcurrency": 2})
    rig.transport.gate.clear()
    for offset in range(5):
        rig.take(offset, payload=offset)
    await until(lambda: len(rig.transport.calls) == 2)
    assert (rig.of("agent_inflight_calls"), rig.of("agent_waiting_tasks")) == (2, 3)
    assert (rig.of("agent_calls_total"), rig.of("agent_response_seconds")) == (0, None)
    rig.transport.gate.set()
    for offset in range(5):
        await rig.end(offset)
    assert (rig.of("agent_inflight_calls"), rig.of("agent_waiting_tasks"), rig.of("agent_calls_total")) == (0, 0, 5)
    assert rig.of("agent_confidence_ratio") == pytest.approx(0.9)
    assert (rig.of("agent_response_seconds") or 0) > 0
    assert rig.page.get_sample_value("parallax_agents") == 1
    assert rig.series() == 9


async def test_one_of_three_states_is_the_circuits() -> None:
    """Nobody has to be told of a change for that."""
    rig = Rig()
    rig.register(**AGENT, breaker={"failureThreshold": 1, "resetTimeout": 60_000, "monitoringPeriod": 60_000})
    rig.transport.script.append(ServerError("500"))
    rig.take(0, metadata={"retries": 0})
    await rig.end(0)
    states = {state: rig.of("circuit_state", state=state) for state in ("closed", "open", "half_open")}
    assert states == {"closed": 0, "open": 1, "half_open": 0}


async def test_whoever_is_ill_is_told_of_without_a_call_too() -> None:
    """One that is well and was never called is not: there may be thousands that dialled in."""
    rig = Rig()
    rig.take(0)
    await rig.end(0)
    rig.told = {
        name: AgentStanding(agent_id=name, at=1, healthy=healthy, reason="" if healthy else "checks")
        for name, healthy in (("a1", True), ("ill", False), ("quiet", True))
    }
    assert [rig.of("agent_healthy", name) for name in ("a1", "ill", "quiet")] == [1, 0, None]
    rig.told["a1"] = rig.told["ill"]
    assert rig.of("agent_healthy") == 0


async def test_a_partition_that_moved_takes_its_agents_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """No series is left; and never more agents are told of than a page should hold."""
    rig = Rig()
    for number in range(3):
        rig.register(id=f"b{number}", endpoint="http://h")
        rig.take(number, target=f"b{number}")
        await rig.end(number)
    assert rig.series() == 27
    monkeypatch.setattr(metrics, "MOST_AGENTS", 2)
    assert rig.series() == 18
    assert rig.page.get_sample_value("parallax_agents") == 3
    rig.processors.clear()
    assert rig.series() == 0
