"""Which worker holds a dialled-in agent: the topic `agents` compared with a worker's own connection. Pure.

In: a worker's claim (it holds the agent's stream, and wrote a record about it) and another record of the same agent.
Out: what to do about it. The order of the records on the topic decides, since every worker sees the same; no clock
does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from schemas.messages import AgentRegistration

MAX_METADATA = 64 * 1024
SECTION = "gateway"
"""The member of a registration's metadata that says where the agent is connected."""
OWN_HEADER = "parallax-gateway"
"""On records that the gateway writes: `status` (a known agent has another connection or status), `gone` (its grace
period is over).
"""

_NOT_KEPT = frozenset({SECTION, "lease"})
"""A stream takes precedence over a lease: an agent with both lives as long as its stream and the grace period."""

Verdict = Literal["ours", "older", "taken", "removed", "again"]
"""`taken`: a newer connection has it. `removed`: it was unregistered. `again`: our own record must be written once more."""


@dataclass(frozen=True, slots=True)
class Position:
    """The position of a record on the topic."""

    partition: int
    offset: int

    def before(self, other: Position) -> bool:
        """Whether it is certainly older."""
        return self.partition == other.partition and self.offset < other.offset


@dataclass(frozen=True, slots=True)
class Where:
    """The content of `metadata.gateway`. `status`: healthy, degraded, draining or away; `why`: why it is away, for the
    event.
    """

    address: str
    node: str
    key: str
    status: str
    why: str = ""

    def wire(self) -> dict[str, str]:
        """Its form in the record."""
        found = {"address": self.address, "node": self.node, "key": self.key, "status": self.status}
        return found | {"why": self.why} if self.why else found


def where_of(agent: AgentRegistration | None) -> Where | None:
    """Where the record says that its agent is, or last was, connected; None if it does not say.

    >>> where_of(AgentRegistration(id="a", endpoint="gateway://a")) is None
    True
    """
    found = None if agent is None else (agent.metadata or {}).get(SECTION)
    if not isinstance(found, dict):
        return None
    parts = [found.get(name) for name in ("address", "node", "key", "status", "why")]
    address, node, key, status, why = (part if isinstance(part, str) else "" for part in parts)
    return Where(address, node, key, status, why) if address and node and key and status else None


def takes_tasks(agent: AgentRegistration) -> bool:
    """Whether the agent may get a task that names no agent: false for one that dials in and is away or leaving.

    >>> takes_tasks(AgentRegistration(id="a", endpoint="gateway://a")), takes_tasks(AgentRegistration(id="b", endpoint="http://h"))
    (False, True)
    """
    where = where_of(agent)
    return agent.transport != "gateway" or (where is not None and where.status in ("healthy", "degraded"))


def connected(agent: AgentRegistration | None) -> bool | None:
    """Whether an agent that dials in is connected, by its record; None for an agent that is called at an address.

    >>> connected(AgentRegistration(id="a", endpoint="gateway://a")), connected(AgentRegistration(id="b", endpoint="http://h"))
    (False, None)
    """
    if agent is None or agent.transport != "gateway":
        return None
    where = where_of(agent)
    return where is not None and where.status != "away"


def judge(key: str, place: Position | None, record: AgentRegistration | None, at: Position, mark: str) -> Verdict:
    """What a record means for the connection `key`, whose own record is at `place` (None: not known yet). `mark`: its
    header.

    >>> judge("k1", Position(0, 5), None, Position(0, 9), "gone"), judge("k1", Position(0, 5), None, Position(0, 9), "")
    ('again', 'removed')
    """
    found = where_of(record)
    if found is not None and found.key == key:
        return "ours" if found.status != "away" else "again"
    if place is None or at.before(place):
        return "older"
    if record is None:
        return "again" if mark == "gone" else "removed"
    if record.transport != "gateway":
        return "removed"
    return "taken" if found is not None and found.status != "away" else "again"


def compose(
    agent_id: str,
    name: str,
    capabilities: tuple[str, ...],
    metadata: Mapping[str, str],
    where: Where,
    base: AgentRegistration | None,
) -> dict[str, Any]:
    """The registration of an agent that dialled in. Raises ValueError: its metadata is too large.

    Fields that an operator set under this id are kept: limits, breaker, auth, and metadata that the agent does not set
    itself.
    """
    if sum(len(key) + len(value) for key, value in metadata.items()) > MAX_METADATA:
        raise ValueError(f"metadata: has more than {MAX_METADATA} characters")
    kept = {} if base is None else base.wire()
    before = {key: value for key, value in (kept.get("metadata") or {}).items() if key not in _NOT_KEPT}
    own = {key: value for key, value in metadata.items() if key not in _NOT_KEPT}
    found: dict[str, Any] = {
        "id": agent_id,
        "name": name or kept.get("name"),
        "endpoint": f"gateway://{quote(agent_id, safe='')}",
        "protocol": "gateway",
        "capabilities": list(dict.fromkeys(capabilities)) or kept.get("capabilities", []),
        "metadata": {**before, **own, SECTION: where.wire()},
    }
    for part in ("limits", "breaker", "auth"):
        if part in kept:
            found[part] = kept[part]
    return {key: value for key, value in found.items() if value is not None}
