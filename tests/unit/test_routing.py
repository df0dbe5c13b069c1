"""Which agent a task goes to: every capable one gets its share, the same task always the same one."""

from __future__ import annotations

from collections import Counter

from schemas.messages import AgentRegistration, Task
from streams.rules.routing import absence, capable, choose


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


def test_a_task_done_again_goes_to_the_same_agent() -> None:
    """Whatever the order in which agents became known, on whichever worker."""
    for number in range(50):
        one = choose(task(f"t{number}", "sum"), FLEET)
        again = choose(task(f"t{number}", "sum"), list(reversed(FLEET)))
        assert one is not None
        assert one is again


def test_tasks_spread_over_the_capable_agents() -> None:
    """Each of three gets about a third of 3,000."""
    found = Counter(chosen.id for n in range(3000) if (chosen := choose(task(f"t{n}", "sum"), FLEET)) is not None)
    assert set(found) == {"a", "b", "c"}
    assert min(found.values()) > 800


def test_nobody_is_capable() -> None:
    """None, and a sentence that names what was wanted, in a fixed order."""
    wanted = task("t", "sum", "fly")
    assert choose(wanted, FLEET) is None
    assert choose(wanted, []) is None
    assert absence(wanted) == "no registered agent has all of fly, sum"
    assert absence(Task(id="t", type="agent", payload={}, target="zed")) == "agent 'zed' is not registered"
