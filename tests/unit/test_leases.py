"""Leases: granted, renewed, ended, brought back, forgotten."""

from __future__ import annotations

import pytest

from schemas.messages import AgentRegistration
from streams.rules.agents.leases import (
    DEFAULT_TTL_MS,
    GRACE_MS,
    MIN_TTL_MS,
    REMEMBER_MS,
    Lease,
    agent_of,
    ended,
    grant,
    is_ended,
    lease_of,
    only_renewed,
    renewed,
    state,
    with_lease,
    worth_writing,
)

AGENT = AgentRegistration(id="a.1", endpoint="grpc://h:1", metadata={"region": "eu"})
NOW = 1_700_000_000_000


def test_a_lease_lies_in_its_registration_and_is_read_back() -> None:
    """Beside what else is there."""
    lease = ended(grant("a.1", "x7", 5000, True, NOW), NOW + 9000)
    agent = AgentRegistration.model_validate(with_lease(AGENT, lease).wire())
    assert lease_of(agent) == lease
    assert (agent.metadata or {})["region"] == "eu"
    assert agent_of(lease.id) == "a.1"
    assert is_ended(agent)
    assert not is_ended(AGENT)


@pytest.mark.parametrize(
    ("asked", "given"), [(0, DEFAULT_TTL_MS), (1, MIN_TTL_MS), (5000, 5000), (10**12, 604_800_000)]
)
def test_how_long_it_lasts(asked: int, given: int) -> None:
    """The default, and bounds."""
    lease = grant("a", "x", asked, False, NOW)
    assert (lease.ttl_ms, lease.expires_ms) == (given, NOW + given)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        {"lease": None},
        {"lease": []},
        {"lease": {"id": "x"}},
        {"lease": {"id": "x", "ttl": True, "expires": 1}},
    ],
)
def test_what_is_no_lease_is_none(metadata: dict[str, object] | None) -> None:
    """Anybody may write to the topic: such an agent simply stays."""
    assert lease_of(AGENT.model_copy(update={"metadata": metadata})) is None


def test_its_life() -> None:
    """Live, over, ended, forgotten; a renewal brings it back to life."""
    lease = grant("a", "x", 5000, False, NOW)
    assert state(lease, NOW + 5000 + GRACE_MS, NOW) == "live"
    assert state(lease, NOW + 5001 + GRACE_MS, NOW) == "over"
    gone = ended(lease, NOW + 8000)
    assert state(gone, NOW + 8000 + REMEMBER_MS, NOW) == "ended"
    assert state(gone, NOW + 8001 + REMEMBER_MS, NOW) == "forgotten"
    back = renewed(gone, 0, NOW + 60_000)
    assert (back.ended_ms, back.expires_ms, state(back, NOW + 60_000, NOW)) == (None, NOW + 65_000, "live")


def test_a_start_gives_every_lease_its_whole_time_again() -> None:
    """All workers were away for an hour: nobody could renew."""
    lease = grant("a", "x", 5000, False, NOW)
    started = NOW + 3_600_000
    assert state(lease, started + 5000 + GRACE_MS, started) == "live"
    assert state(lease, started + 5001 + GRACE_MS, started) == "over"


def test_a_renewal_never_shortens_and_one_right_after_another_costs_no_record() -> None:
    """A clock that is behind does no harm; a flood of renewals writes little."""
    lease = Lease("x.a", 60_000, NOW + 60_000)
    assert renewed(lease, 0, NOW - 10_000).expires_ms == lease.expires_ms
    assert not worth_writing(lease, renewed(lease, 0, NOW + 500))
    assert worth_writing(lease, renewed(lease, 0, NOW + 1500))
    assert worth_writing(lease, renewed(lease, 30_000, NOW))
    assert worth_writing(ended(lease, NOW), renewed(ended(lease, NOW), 0, NOW))


def test_only_the_time_of_a_lease_is_nobodys_concern() -> None:
    """A new endpoint, another lease or one that ended is."""
    lease = grant("a.1", "x7", 5000, False, NOW)
    old = with_lease(AGENT, lease)
    assert only_renewed(old, with_lease(AGENT, renewed(lease, 0, NOW + 1000)))
    assert not only_renewed(old, with_lease(AGENT.model_copy(update={"endpoint": "grpc://h:2"}), lease))
    assert not only_renewed(old, with_lease(AGENT, grant("a.1", "x8", 5000, False, NOW)))
    assert not only_renewed(old, AGENT)
