"""Registrations between protocol buffers and the topic."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.codec import Rejected
from schemas.messages import AgentRegistration, BreakerLimits, Limits, SecretRef
from schemas.pb import registry_pb2 as pb
from streams.rules.agents.leases import grant, with_lease
from streams.rules.agents.registrations import Page, change, from_wire, to_wire

NOW = 1_700_000_000_123


def said(**fields: Any) -> pb.AgentRegistration:
    """What an agent says of itself."""
    return pb.AgentRegistration(**({"id": "a", "endpoint": "h:70", "capabilities": ["sum"]} | fields))


def test_there_and_back() -> None:
    """Everything the registry can say arrives on the topic and comes back."""
    metadata = pb.AgentRegistration.Metadata(version="1", region="eu", labels={"team": "x"}, default_confidence=0.5)
    agent = from_wire(said(name="Adder", metadata=metadata), None, "", NOW)
    assert (agent.endpoint, agent.transport, agent.name, agent.capabilities) == (
        "grpc://h:70",
        "grpc",
        "Adder",
        ["sum"],
    )
    back = to_wire(with_lease(agent, grant("a", "x", 5000, False, NOW)))
    assert (back.endpoint, back.name, list(back.capabilities)) == ("h:70", "Adder", ["sum"])
    assert back.metadata == metadata
    assert back.registered_at.ToMilliseconds() == NOW
    assert back.ttl.ToMilliseconds() == 5000


def test_limits_are_kept_and_a_secret_only_for_the_same_address() -> None:
    """Whoever registers under another's name is not sent its token."""
    old = AgentRegistration(
        id="a",
        endpoint="grpc://h:70",
        limits=Limits(max_concurrency=3),
        breaker=BreakerLimits(),
        auth=SecretRef(env="T"),
    )
    same = from_wire(said(), old, "", NOW)
    moved = from_wire(said(endpoint="elsewhere:70"), old, "", NOW)
    assert (same.limits, same.breaker, same.auth) == (old.limits, old.breaker, old.auth)
    assert (moved.limits, moved.breaker, moved.auth) == (old.limits, old.breaker, None)


@pytest.mark.parametrize(
    ("endpoint", "peer", "found"),
    [
        ("0.0.0.0:70", "ipv4:10.0.0.7:5000", "grpc://10.0.0.7:70"),
        (":70", "ipv6:%5Bfe80::1%5D:5000", "grpc://[fe80::1]:70"),
        ("[::]:70", "ipv6:[::1]:5000", "grpc://[::1]:70"),
        ("[::1]:70", "", "grpc://[::1]:70"),
        ("localhost:70", "ipv4:10.0.0.7:5000", "grpc://10.0.0.7:70"),
        ("localhost:70", "ipv4:127.0.0.1:5000", "grpc://localhost:70"),
        ("localhost:70", "ipv6:%5B::1%5D:5000", "grpc://localhost:70"),
        ("127.0.0.1:70", "ipv6:%5B::ffff:10.0.0.7%5D:5000", "grpc://[::ffff:10.0.0.7]:70"),
        ("grpcs://h:70", "", "grpcs://h:70"),
    ],
)
def test_where_an_agent_is(endpoint: str, peer: str, found: str) -> None:
    """One that names no host, or only this machine from another one, is where it called from."""
    assert from_wire(said(endpoint=endpoint), None, peer, NOW).endpoint == found


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"id": ""}, "id: is missing"),
        ({"endpoint": ""}, "endpoint: must be host:port"),
        ({"endpoint": "h"}, "endpoint: must be host:port"),
        ({"endpoint": "h:70000"}, "endpoint: must be host:port"),
        ({"endpoint": ":70"}, "endpoint: names no host"),
        ({"endpoint": "http://h:70"}, "endpoint: must be host:port of a gRPC agent"),
        ({"capabilities": [""]}, "capabilities"),
        ({"id": "x" * 257}, "id"),
    ],
)
def test_what_cannot_be_registered_is_refused_with_the_reason(fields: dict[str, Any], reason: str) -> None:
    """Field and reason."""
    with pytest.raises(Rejected) as caught:
        from_wire(said(**fields), None, "unix:", NOW)
    assert reason in caught.value.reason


def test_agents_of_other_kinds_are_told_too() -> None:
    """With their scheme, and whatever metadata they have."""
    back = to_wire(AgentRegistration(id="w", endpoint="http://h/x", metadata={"labels": {"n": 1}, "registeredAt": "?"}))
    assert (back.endpoint, back.name, dict(back.metadata.labels)) == ("http://h/x", "w", {})
    assert not back.HasField("ttl")
    assert not back.HasField("registered_at")


def test_pages_hold_each_fitting_agent_once() -> None:
    """By id; the total is that of all pages; a page after the last is empty."""
    agents = [
        AgentRegistration(
            id=f"a{n}",
            endpoint="http://h",
            capabilities=["sum", "sort"] if n % 2 else ["sum"],
            metadata={"labels": {"team": "x" if n < 6 else "y"}},
        )
        for n in range(10)
    ]
    seen: list[str] = []
    token = ""
    while True:
        request = pb.ListAgentsRequest(capabilities=["sum"], labels={"team": "x"}, limit=4, continuation_token=token)
        page, token, total = Page.of(request).cut(agents)
        seen += [agent.id for agent in page]
        assert total == 6
        if not token:
            break
    assert seen == [f"a{n}" for n in range(6)]
    assert Page.of(pb.ListAgentsRequest(capabilities=["sort", "sum"])).cut(agents)[2] == 5
    with pytest.raises(Rejected):
        Page.of(pb.ListAgentsRequest(limit=-1))


def test_what_a_watcher_of_some_capability_is_told() -> None:
    """An agent that loses it is gone for this watcher; one that never had it is never told of."""
    can, cannot = (AgentRegistration(id="a", endpoint="http://h", capabilities=c) for c in (["c"], ["d"]))
    told = {
        "comes": change(None, can, ["c"]),
        "gains": change(cannot, can, ["c"]),
        "changes": change(can, can, ["c"]),
        "loses": change(can, cannot, ["c"]),
        "goes": change(can, None, ["c"]),
        "other": change(cannot, cannot, ["c"]),
        "other goes": change(cannot, None, ["c"]),
    }
    kind = pb.WatchEvent
    assert told == {
        "comes": (kind.ADDED, can),
        "gains": (kind.ADDED, can),
        "changes": (kind.MODIFIED, can),
        "loses": (kind.DELETED, can),
        "goes": (kind.DELETED, can),
        "other": (kind.DELETED, None),
        "other goes": (kind.DELETED, None),
    }
