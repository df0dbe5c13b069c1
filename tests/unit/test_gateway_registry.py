"""Dialled-in agents on the topic: what is written, when, and what another worker's records do. The topic is a list here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from agents_io.protocols.gateway.relay import RelayClient
from agents_io.protocols.gateway.service import Arrival, NotNow
from schemas.messages import AgentRegistration
from streams.agents.registration_writer import NotWritten
from streams.gateway.registry import GatewayRegistry
from streams.gateway.sweeper import GatewaySweeper
from streams.rules.agents.gateway_claim import OWN_HEADER, Position, where_of

GRACE_S = 30.0


@dataclass
class Topic:
    """All records of the topic, in order; followers read them when told to."""

    records: list[tuple[str, AgentRegistration | None, str]] = field(default_factory=list)
    followers: list[Callable[..., None]] = field(default_factory=list)
    agents: dict[str, AgentRegistration] = field(default_factory=dict)
    events: list[tuple[str, str]] = field(default_factory=list)
    read: int = 0
    broken: bool = False

    async def write(self, agent_id: str, agent: AgentRegistration | None, mark: str) -> Position:
        """Acknowledged at once, unless it is broken."""
        await asyncio.sleep(0)
        if self.broken:
            raise NotWritten
        self.records.append((agent_id, agent, mark))
        return Position(0, len(self.records) - 1)

    def tell(self, kind: str, agent_id: str, data: dict[str, Any]) -> None:
        """An event."""
        self.events.append((kind, agent_id))

    def follow(self) -> None:
        """Everybody reads to the end."""
        for offset, (agent_id, agent, mark) in enumerate(self.records[self.read :], self.read):
            if agent is None:
                self.agents.pop(agent_id, None)
            else:
                self.agents[agent_id] = agent
            headers = [(OWN_HEADER, mark.encode())] if mark else []
            for follower in self.followers:
                follower(agent_id, agent, SimpleNamespace(partition=0, offset=offset, headers=headers))
        self.read = len(self.records)

    def last(self) -> tuple[str | None, str | None, str]:
        """Node and status of the last record, and its mark."""
        _, agent, mark = self.records[-1]
        where = where_of(agent)
        return (None, None, mark) if where is None else (where.node, where.status, mark)


def registry(topic: Topic, name: str) -> tuple[GatewayRegistry, list[tuple[str, str]]]:
    """A worker's, and the connections it was told to drop."""
    dropped: list[tuple[str, str]] = []
    made = GatewayRegistry(node=name, lookup=topic.agents.get, write=topic.write, tell=topic.tell, grace_s=GRACE_S)
    made.address = f"{name}:1"
    made.drop = lambda agent_id, key, why: dropped.append((key, why))
    topic.followers.append(made.on_record)
    return made, dropped


def arrival(key: str, agent_id: str = "a", token: str = "", **fields: Any) -> Arrival:
    """A connection that said hello."""
    return Arrival(
        key, agent_id, fields.get("name", ""), fields.get("capabilities", ()), fields.get("metadata", {}), token
    )


@pytest.mark.virtual_time
async def test_comes_is_away_and_is_unregistered_after_its_grace() -> None:
    """One record each; the first is no mere status, so that `agent:registered` is told once."""
    topic = Topic()
    one, _ = registry(topic, "n1")
    assert await one.arrived(arrival("k1", capabilities=("see",))) is None
    assert topic.last() == ("n1", "healthy", "")
    topic.follow()
    await one.flush()
    assert len(topic.records) == 1
    one.left("a", "k1", "it hung up")
    await one.flush()
    assert topic.last() == ("n1", "away", "status")
    topic.follow()
    assert where_of(topic.agents["a"]).why == "it hung up"  # type: ignore[union-attr]
    await asyncio.sleep(GRACE_S)
    await one.flush()
    assert topic.last() == (None, None, "gone")
    assert topic.records[-1][1] is None
    topic.follow()
    await one.flush()
    assert (len(topic.records), one.holds("a")) == (3, False)
    assert topic.events == [], "that it came and went is told where its partition is"


@pytest.mark.virtual_time
async def test_back_within_its_grace_nothing_is_unregistered() -> None:
    """Here or at another worker."""
    topic = Topic()
    one, _ = registry(topic, "n1")
    two, _ = registry(topic, "n2")
    for name, (worker, key) in enumerate([(one, "k1"), (one, "k2"), (two, "k3")]):
        assert await worker.arrived(arrival(key)) is None, name
        topic.follow()
        if worker is one:
            one.left("a", key, "it hung up")
    await asyncio.sleep(GRACE_S)
    await one.flush()
    await two.flush()
    topic.follow()
    assert topic.last() == ("n2", "healthy", "status")
    assert not one.holds("a")
    assert two.holds("a")
    assert all(value is not None for _, value, _ in topic.records)


async def test_a_newer_connection_elsewhere_ends_the_older_one() -> None:
    """By the order on the topic, which both see alike."""
    topic = Topic()
    one, dropped = registry(topic, "n1")
    two, kept = registry(topic, "n2")
    await one.arrived(arrival("k1"))
    await two.arrived(arrival("k2"))
    topic.follow()
    assert dropped == [("k1", "another worker has a newer connection of this agent")]
    assert kept == []
    assert (one.holds("a"), two.holds("a")) == (False, True)


async def test_a_word_that_comes_too_late_is_corrected() -> None:
    """The old worker says away, or unregisters, after the agent has come to the new one."""
    topic = Topic()
    two, dropped = registry(topic, "n2")
    await two.arrived(arrival("k2"))
    topic.follow()
    stale = AgentRegistration.model_validate(
        {
            "id": "a",
            "endpoint": "gateway://a",
            "metadata": {"gateway": {"address": "n1:1", "node": "n1", "key": "k1", "status": "away"}},
        }
    )
    for value, mark in ((stale, "status"), (None, "gone")):
        await topic.write("a", value, mark)
        topic.follow()
        await two.flush()
        assert topic.last() == ("n2", "healthy", "status")
        topic.follow()
    await two.flush()
    assert len(topic.records) == 5
    assert dropped == []


async def test_unregistered_by_somebody_it_is_told_and_cut_off() -> None:
    """A tombstone without our mark is an operator's."""
    topic = Topic()
    one, dropped = registry(topic, "n1")
    await one.arrived(arrival("k1"))
    topic.follow()
    await topic.write("a", None, "")
    topic.follow()
    await one.flush()
    assert dropped == [("k1", "it was unregistered")]
    assert len(topic.records) == 2


async def test_an_operators_registration_is_taken_in() -> None:
    """Limits given while it is connected hold; where it is connected is written again."""
    topic = Topic()
    one, dropped = registry(topic, "n1")
    await one.arrived(arrival("k1"))
    topic.follow()
    limited = AgentRegistration.model_validate({"id": "a", "endpoint": "gateway://a", "limits": {"maxConcurrency": 3}})
    await topic.write("a", limited, "")
    topic.follow()
    await one.flush()
    assert topic.last() == ("n1", "healthy", "status")
    topic.follow()
    limits = topic.agents["a"].limits
    assert limits is not None
    assert limits.max_concurrency == 3
    assert dropped == []


async def test_who_may_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody takes another protocol's id; an agent with `auth` shows that token; a registration must be one."""
    monkeypatch.setenv("A_TOKEN", "s3cret")
    topic = Topic()
    one, _ = registry(topic, "n1")
    topic.agents["web"] = AgentRegistration(id="web", endpoint="http://h")
    topic.agents["a"] = AgentRegistration.model_validate(
        {"id": "a", "endpoint": "gateway://a", "auth": {"env": "A_TOKEN"}}
    )
    topic.agents["b"] = AgentRegistration.model_validate(
        {"id": "b", "endpoint": "gateway://b", "auth": {"env": "NONE"}}
    )
    assert one.admit(arrival("k", "web")) == "agent_id: 'web' is registered with protocol http"
    assert one.admit(arrival("k", token="wrong")) == "authorization: the token is missing or wrong"
    with pytest.raises(NotNow, match="its token cannot be checked now"):
        one.admit(arrival("k", "b", token="x"))
    monkeypatch.setenv("PARALLAX_KAFKA__SASL_PASSWORD", "the pipeline's own")
    topic.agents["c"] = AgentRegistration.model_validate(
        {"id": "c", "endpoint": "gateway://c", "auth": {"env": "PARALLAX_KAFKA__SASL_PASSWORD"}}
    )
    with pytest.raises(NotNow, match="its token cannot be checked now"):
        one.admit(arrival("k", "c", token="the pipeline's own"))
    assert one.admit(arrival("k", token="s3cret")) is None
    assert one.admit(arrival("k", "new")) is None
    refused = await one.arrived(arrival("k", "new", capabilities=("",)))
    assert refused is not None
    assert refused.startswith("capabilities.0:")
    one.address = ""
    with pytest.raises(NotNow, match="this worker is starting; try again"):
        await one.arrived(arrival("k", "new"))
    assert topic.records == []


async def test_brokers_that_are_away_refuse_and_are_tried_again() -> None:
    """An agent is not told that it was taken in when nobody can find it; a loss is written as soon as it can be."""
    topic = Topic()
    one, _ = registry(topic, "n1")
    topic.broken = True
    with pytest.raises(NotNow, match="it could not be registered now; try again"):
        await one.arrived(arrival("k1"))
    assert not one.holds("a")
    topic.broken = False
    await one.arrived(arrival("k1"))
    topic.broken = True
    one.left("a", "k1", "it hung up")
    await one.flush()
    topic.broken = False
    await one.flush()
    assert topic.last() == ("n1", "away", "status")


async def test_statuses_are_written_and_told() -> None:
    """For whoever chooses among agents."""
    topic = Topic()
    one, _ = registry(topic, "n1")
    await one.arrived(arrival("k1"))
    for status in ("draining", "degraded", "healthy"):
        one.changed("a", "k1", status)  # type: ignore[arg-type]
        await one.flush()
        assert topic.last() == ("n1", status, "status")
    one.changed("a", "another", "draining")
    await one.flush()
    assert len(topic.records) == 4
    assert [kind for kind, _ in topic.events] == ["agent:draining", "agent:unhealthy", "agent:healthy"]


async def test_a_worker_that_died_without_a_word_is_found_out() -> None:
    """Away after two looks, unregistered after the grace; an agent that came back elsewhere meanwhile is left alone."""
    topic = Topic()
    dead, _ = registry(topic, "n1")
    dead.address = "127.0.0.1:9"
    await dead.arrived(arrival("k1"))
    await dead.arrived(arrival("k2", "b"))
    topic.follow()
    topic.followers.clear()  # it is dead
    relay = RelayClient()
    partitions = {"a", "b"}
    sweeper = GatewaySweeper(
        agents=topic.agents.values, mine=partitions.__contains__, relay=relay, write=topic.write, grace_s=0.6
    )
    await sweeper.sweep()
    assert len(topic.records) == 2
    await sweeper.sweep()
    topic.follow()
    assert topic.last() == ("n1", "away", "status")
    assert [where_of(topic.agents[name]).why for name in "ab"] == ["its worker is gone"] * 2  # type: ignore[union-attr]
    partitions.discard("b")
    await asyncio.sleep(0.6)
    await sweeper.sweep()
    topic.follow()
    assert topic.agents.keys() == {"b"}
    assert topic.records[-1] == ("a", None, "gone")
    await relay.close()
