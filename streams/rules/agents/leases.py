"""Leases of agents that registered themselves: granted, renewed, ended, forgotten. Pure.

A lease is part of its registration on the topic `agents`, under `metadata.lease`: any worker can renew it, and it
outlives every worker. In: registrations and the wall clock, epoch ms. Out: leases and what to do about them.

A lease that ran out is first *over* (with `auto_renew`, the agent's health is checked), then *ended*: the agent is
unregistered for all, but its registration is remembered for a day, and a renewal brings it back. Existing agents
register once and renew forever; one that was disconnected for a while must not be lost until its next start.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from schemas.messages import MAX_DURATION_MS, AgentRegistration

DEFAULT_TTL_MS = 60_000
MIN_TTL_MS = 1_000
GRACE_MS = 2_000
"""Clocks of workers differ, and a renewal takes a moment to be known everywhere."""
REMEMBER_MS = 24 * 3_600_000

State = Literal["live", "over", "ended", "forgotten"]


@dataclass(frozen=True, slots=True)
class Lease:
    """`expires_ms`, `ended_ms`: epoch ms. `auto_renew`: at the lease's end the agent's health is checked, and the lease
    renewed if it is healthy.
    """

    id: str
    ttl_ms: int
    expires_ms: int
    auto_renew: bool = False
    ended_ms: int | None = None

    def wire(self) -> dict[str, Any]:
        """Its form in `metadata.lease`."""
        found: dict[str, Any] = {"id": self.id, "ttl": self.ttl_ms, "expires": self.expires_ms}
        if self.auto_renew:
            found["autoRenew"] = True
        if self.ended_ms is not None:
            found["ended"] = self.ended_ms
        return found


def grant(agent_id: str, token: str, ttl_ms: int, auto_renew: bool, now_ms: int) -> Lease:
    """A new lease. `ttl_ms` 0: the default; else at least a second, at most a week. `token`: a unique text.

    >>> grant("a1", "x7", 0, False, 1_000_000)
    Lease(id='x7.a1', ttl_ms=60000, expires_ms=1060000, auto_renew=False, ended_ms=None)
    """
    ttl_ms = _bounded(ttl_ms) if ttl_ms > 0 else DEFAULT_TTL_MS
    return Lease(f"{token}.{agent_id}", ttl_ms, now_ms + ttl_ms, auto_renew)


def agent_of(lease_id: str) -> str:
    """The agent whose lease has this id.

    >>> agent_of("x7.a.1")
    'a.1'
    """
    return lease_id.partition(".")[2]


def renewed(lease: Lease, ttl_ms: int, now_ms: int) -> Lease:
    """The lease renewed from now on, active again if it had ended. `ttl_ms` 0: unchanged."""
    ttl_ms = _bounded(ttl_ms) if ttl_ms > 0 else lease.ttl_ms
    return replace(lease, ttl_ms=ttl_ms, expires_ms=max(lease.expires_ms, now_ms + ttl_ms), ended_ms=None)


def worth_writing(old: Lease, new: Lease) -> bool:
    """Whether a renewal extends the lease enough for a record; one directly after another is answered without one.

    >>> lease = Lease("x.a", 60_000, 100_000)
    >>> worth_writing(lease, renewed(lease, 0, 41_000)), worth_writing(lease, renewed(lease, 0, 50_000))
    (False, True)
    """
    if old.ended_ms is not None or old.ttl_ms != new.ttl_ms:
        return True
    return new.expires_ms - old.expires_ms > min(1000, new.ttl_ms // 10)


def ended(lease: Lease, now_ms: int) -> Lease:
    """The lease of an agent that is unregistered because its lease was not renewed."""
    return replace(lease, ended_ms=now_ms)


def state(lease: Lease, now_ms: int, since_ms: int) -> State:
    """What to do about the lease. `since_ms`: since when a worker has been available for renewals.

    >>> lease = Lease("x.a", 60_000, 100_000)
    >>> [state(lease, now, 0) for now in (102_000, 102_001)], state(lease, 102_001, since_ms=90_000)
    (['live', 'over'], 'live')
    """
    if lease.ended_ms is not None:
        return "forgotten" if now_ms > lease.ended_ms + REMEMBER_MS else "ended"
    return "over" if now_ms > max(lease.expires_ms, since_ms + lease.ttl_ms) + GRACE_MS else "live"


def lease_of(agent: AgentRegistration) -> Lease | None:
    """The lease in a registration; None without one: the agent stays until it is removed.

    >>> lease_of(AgentRegistration(id="a", endpoint="http://h", metadata={"lease": {"id": 3}})) is None
    True
    """
    found = (agent.metadata or {}).get("lease")
    if not isinstance(found, dict):
        return None
    given = [found.get(name) for name in ("ttl", "expires")]
    over = found.get("ended")
    lease_id = found.get("id")
    if not isinstance(lease_id, str) or not all(type(value) is int for value in given):
        return None
    return Lease(
        lease_id,
        _bounded(int(given[0])),  # type: ignore[arg-type]
        int(given[1]),  # type: ignore[arg-type]
        found.get("autoRenew") is True,
        over if type(over) is int else None,
    )


def with_lease(agent: AgentRegistration, lease: Lease) -> AgentRegistration:
    """The registration under that lease."""
    return agent.model_copy(update={"metadata": {**(agent.metadata or {}), "lease": lease.wire()}})


def is_ended(agent: AgentRegistration) -> bool:
    """Whether the lease has ended and the registration is only remembered."""
    lease = lease_of(agent)
    return lease is not None and lease.ended_ms is not None


def only_renewed(old: AgentRegistration, new: AgentRegistration) -> bool:
    """Whether only the lease's time changed."""
    before, after = lease_of(old), lease_of(new)
    if before is None or after is None or before.id != after.id:
        return False
    return with_lease(old, after) == with_lease(new, after)


def _bounded(ttl_ms: int) -> int:
    return min(max(MIN_TTL_MS, ttl_ms), MAX_DURATION_MS)
