"""The choice over the registered agents and what their partitions say of them."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest

from schemas.messages import AgentRegistration, AgentStanding, Task
from streams.agents.agent_statuses import AgentStatuses
from streams.dispatch.balancer import FRESH_MS, MAX_POOLS, Balancer
from streams.settings import Settings


class Registered:
    """Agents by id, with a count of changes."""

    def __init__(self, *names: str, **fields: Any) -> None:
        self.version = 0
        self.known: dict[str, AgentRegistration] = {}
        self.scans = 0
        for name in names:
            self.add(name, **fields)

    def add(self, name: str, **fields: Any) -> None:
        """Register one."""
        body = {"id": name, "endpoint": "http://h", "capabilities": ["sum"]} | fields
        self.known[name] = AgentRegistration.model_validate(body)
        self.version += 1

    def get(self, agent_id: str) -> AgentRegistration | None:
        """By id."""
        return self.known.get(agent_id)

    def all(self) -> list[AgentRegistration]:
        """All; counted, since it must not be asked for each task."""
        self.scans += 1
        return list(self.known.values())


class Rig:
    """A balancer on a clock of its own."""

    def __init__(self, agents: Registered, policy: str = "least_connections", **health: Any) -> None:
        self.now_ms = 1_000_000
        self.agents = agents
        self.agent_statuses = AgentStatuses()
        settings = Settings.model_validate({"dispatch": {"balancer": policy}, "health": health})
        self.balancer = Balancer(
            agents=agents, agent_statuses=self.agent_statuses, settings=settings, wall_ms=lambda: self.now_ms
        )
        self.tasks = 0

    def stand(self, name: str, **fields: Any) -> None:
        """What its partition says."""
        self.agent_statuses.note(AgentStanding.model_validate({"agentId": name, "at": self.now_ms} | fields))

    def choose(self, *capabilities: str, without: tuple[str, ...] = ()) -> str | None:
        """For one more task."""
        self.tasks += 1
        wanted = list(capabilities or ("sum",))
        task = Task(id=f"t{self.tasks}", type="agent", payload={}, capabilities=wanted)
        found = self.balancer.choose(task, without)
        return None if found is None else found.id


def test_what_was_sent_counts_before_the_owner_says_so() -> None:
    """Twelve tasks at one moment: four each, also when the list is made anew and the first four all went to one."""
    rig = Rig(Registered("a", "b", "c"))
    got = Counter(rig.choose(without=("b", "c")) for _ in range(4))
    rig.now_ms += FRESH_MS + 1
    got += Counter(rig.choose() for _ in range(8))
    assert got == {"a": 4, "b": 4, "c": 4}


def test_what_the_owner_says_replaces_what_was_sent() -> None:
    """A standing written well after the tasks were sent tells all of it."""
    rig = Rig(Registered("a", "b"))
    for _ in range(10):
        rig.choose()
    rig.now_ms += 1000
    rig.stand("a", load=0, concurrency=10)
    rig.stand("b", load=4, concurrency=10)
    rig.now_ms += FRESH_MS + 1
    assert [rig.choose() for _ in range(4)] == ["a"] * 4
    assert {rig.choose(), rig.choose()} == {"a", "b"}


def test_a_load_published_by_an_owner_that_died_is_forgotten() -> None:
    """Nobody says any more that it is full: after a while it gets tasks again."""
    rig = Rig(Registered("a", "b"))
    rig.stand("a", load=50)
    assert {rig.choose() for _ in range(4)} == {"b"}
    rig.now_ms += 31_000
    assert {rig.choose() for _ in range(4)} == {"a", "b"}


def test_a_circuit_that_opens_is_seen_at_once() -> None:
    """Not only when the list is due."""
    rig = Rig(Registered("a", "b"))
    assert {rig.choose() for _ in range(4)} == {"a", "b"}
    rig.stand("a", circuit="open", openUntil=rig.now_ms + 30_000)
    assert {rig.choose() for _ in range(4)} == {"b"}
    assert rig.choose(without=("b",)) is None


def test_an_open_circuit_ends_by_itself_with_a_few_trials() -> None:
    """Its partition may be gone: when the wait is over three tasks a second find out, also if nobody says anything."""
    rig = Rig(Registered("a", "b"))
    rig.stand("a", circuit="open", openUntil=rig.now_ms + 30_000)
    rig.now_ms += 30_000
    assert Counter(rig.choose() for _ in range(10)) == {"a": 3, "b": 7}
    rig.now_ms += 1_000
    assert Counter(rig.choose() for _ in range(10)) == {"a": 3, "b": 7}
    rig.stand("a", concurrency=10)
    assert Counter(rig.choose() for _ in range(20))["a"] > 5


def test_at_most_a_share_is_ejected() -> None:
    """Of four, two may be out; the one that has been out longest comes back before the third is put out."""
    rig = Rig(Registered("a", "b", "c", "d"), "round_robin", eject_share=0.5)
    for seconds, name in ((60, "a"), (50, "b"), (40, "c")):
        rig.stand(name, healthy=False, reason="calls", ejectedUntil=rig.now_ms + seconds * 1000)
    assert {rig.choose() for _ in range(8)} == {"c", "d"}
    rig.stand("d", healthy=False, reason="checks")
    assert {rig.choose() for _ in range(8)} == {"c"}, "what checks say is not a matter of shares"


def test_forced_open_by_its_registration() -> None:
    """Also before its partition has said so."""
    rig = Rig(Registered("a"))
    rig.agents.add("b", breaker={"mode": "open"})
    assert {rig.choose() for _ in range(6)} == {"a"}


@pytest.mark.parametrize(
    ("status", "chosen"), [("healthy", True), ("degraded", True), ("away", False), ("draining", False)]
)
def test_agents_that_dial_in_are_as_their_gateway_says(status: str, chosen: bool) -> None:
    """Its word lies in the registration; such agents are not asked."""
    rig = Rig(Registered())
    told = {"address": "h:1", "node": "n", "key": "k", "status": status}
    rig.agents.add("dialled", endpoint="gateway://dialled", metadata={"gateway": told})
    assert (rig.choose() == "dialled") is chosen


def test_comes_and_goes_with_the_registrations() -> None:
    """Capabilities count, all of them; `capable` tells who is there from who can be called."""
    rig = Rig(Registered("a"))
    assert rig.choose("sum", "fly") is None
    rig.agents.add("b", capabilities=["fly", "sum"])
    assert rig.choose("sum", "fly") == "b"
    task = Task(id="t", type="agent", payload={}, capabilities=["fly"])
    rig.stand("b", healthy=False, reason="checks")
    assert rig.choose("fly") is None
    assert rig.balancer.capable(task)
    del rig.agents.known["b"]
    rig.agents.version += 1
    assert not rig.balancer.capable(task)


@pytest.mark.parametrize("policy", ["confidence", "least_connections", "response_time", "round_robin", "power_of_two"])
def test_a_thousand_agents_cost_no_scan_for_each_task(policy: str) -> None:
    """One scan for each set of capabilities, and well under a millisecond a task."""
    rig = Rig(Registered(*(f"a{n}" for n in range(1000))), policy)
    rig.choose()
    began = time.perf_counter()
    got = {rig.choose() for _ in range(500)}
    assert (time.perf_counter() - began) / 500 < 0.002
    assert rig.agents.scans == 1
    assert len(got) > 100


def test_a_thousand_agents_that_turn_all_the_time_make_few_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of them is made ten times a second at most."""
    rig = Rig(Registered(*(f"a{n}" for n in range(1000))))
    asked, status_of = [], rig.agent_statuses.get
    monkeypatch.setattr(rig.agent_statuses, "get", lambda name: asked.append(name) or status_of(name))
    for n in range(300):
        rig.stand(f"a{n}", circuit="open", openUntil=rig.now_ms + 30_000)
        rig.now_ms += 1
        rig.choose()
    assert 2000 <= len(asked) <= 4000, "a list asks for each of the thousand"


def test_lists_are_bounded() -> None:
    """As many sets of capabilities as users can think of."""
    rig = Rig(Registered("a"))
    for n in range(MAX_POOLS + 50):
        rig.choose(f"c{n}")
    for n in range(50, MAX_POOLS + 50):
        rig.choose(f"c{n}")
    assert rig.agents.scans == MAX_POOLS + 50
    rig.choose("c49")
    assert rig.agents.scans == MAX_POOLS + 51, "the list used longest ago was dropped"


def test_a_registration_may_say_what_to_expect() -> None:
    """`defaultConfidence`, until there is something to go by; nonsense is passed over."""
    rig = Rig(Registered(), "confidence")
    rig.agents.add("modest", metadata={"defaultConfidence": 0.3})
    rig.agents.add("proud", metadata={"defaultConfidence": "very"})
    assert Counter(rig.choose() for _ in range(3)) == {"proud": 3}
