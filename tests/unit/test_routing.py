"""Which agents a task may go to."""

from __future__ import annotations

from schemas.messages import AgentRegistration, Task
from streams.rules.dispatch.routing import absence, capable


def agent(name: str, *capabilities: str) -> AgentRegistration:
    """A registration."""
    return AgentRegistration(id=name, endpoint="http://h", capabilities=list(capabilities))


def task(name: str, *capabilities: str) -> Task:
    """A task addressed by capability."""
    return Task(id=name, type="agent", payload={}, capabilities=list(capabilities))


FLEET = [agent("c", "sum", "sort"), agent("a", "sum"), agent("d"), agent("b", "sort", "sum", "x")]


def test_capable_means_every_wanted_capability() -> None:
    """More than wanted is fine, less is not; sorted by id, so that every worker sees one order."""
    assert [found.id for found in capable(FLEET, ["sum", "sort"])] == ["b", "c"]
    assert [found.id for found in capable(reversed(FLEET), ["sum"])] == ["a", "b", "c"]
    assert capable(FLEET, ["fly"]) == []


def test_nobody_is_capable() -> None:
    """A sentence that names what was wanted, in a fixed order."""
    wanted = task("t", "sum", "fly")
    assert absence(wanted, known=True) == "no agent that has all of fly, sum is healthy and takes calls"
    assert absence(wanted) == "no registered agent has all of fly, sum"
    assert absence(Task(id="t", type="agent", payload={}, target="zed")) == "agent 'zed' is not registered"
