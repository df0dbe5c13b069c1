"""Converts registrations between the gRPC registry and the topic `agents`. Pure.

In: protocol buffers, the earlier registration, the caller's address. Out: `AgentRegistration`s, pages, watch events. An
agent's `host:port` becomes `grpc://host:port`; version, region, labels and default confidence become `metadata`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from schemas.codec import Rejected, validate
from schemas.messages import AgentRegistration
from schemas.pb import registry_pb2 as pb
from schemas.times import format_time, parse_time
from streams.rules.agents.leases import lease_of

DEFAULT_PAGE = 100
MAX_PAGE = 1000
MAX_LABELS = 100
_ANYWHERE = ("0.0.0.0", "[::]", "")  # noqa: S104 - what an agent may say of itself; nothing is bound here
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def from_wire(
    message: pb.AgentRegistration, old: AgentRegistration | None, peer: str, now_ms: int
) -> AgentRegistration:
    """The registration that an agent sent, without a lease. Raises `Rejected`.

    `old`: the earlier registration of that id. Its limits are kept; its secret only for the same address, since
    otherwise another server could register under the name and receive the secret. `peer`: the source of the request, in
    gRPC's form.
    """
    if not message.id:
        raise Rejected("validate", "id: is missing")
    if len(message.metadata.labels) > MAX_LABELS:
        raise Rejected("validate", f"metadata.labels: has more than {MAX_LABELS}")
    endpoint = address(message.endpoint, peer)
    metadata: dict[str, Any] = {"registeredAt": format_time(now_ms)}
    for name in ("version", "region"):
        if value := getattr(message.metadata, name):
            metadata[name] = value
    if message.metadata.labels:
        metadata["labels"] = dict(message.metadata.labels)
    if 0 < message.metadata.default_confidence <= 1:
        metadata["defaultConfidence"] = message.metadata.default_confidence
    data: dict[str, Any] = {"id": message.id, "endpoint": endpoint, "capabilities": list(message.capabilities)}
    data["metadata"] = metadata
    if message.name:
        data["name"] = message.name
    agent = validate(AgentRegistration, data)
    if agent.transport != "grpc":
        raise Rejected("validate", "endpoint: must be host:port of a gRPC agent")
    if old is None:
        return agent
    kept = {"limits": old.limits, "breaker": old.breaker, "auth": old.auth if old.endpoint == endpoint else None}
    return agent.model_copy(update=kept)


def address(endpoint: str, peer: str) -> str:
    """`grpc://host:port`. Without a host, or with localhost from another machine, as existing agents send, the host is
    the source of the request. Raises `Rejected`.

    >>> address("agent:7000", ""), address("0.0.0.0:7000", "ipv4:10.0.0.7:51000"), address("grpcs://a:1", "")
    ('grpc://agent:7000', 'grpc://10.0.0.7:7000', 'grpcs://a:1')
    """
    scheme, found, rest = endpoint.partition("://")
    if not found:
        scheme, rest = "grpc", endpoint
    host, _, port = rest.rpartition(":")
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65_536):
        raise Rejected("validate", f"endpoint: must be host:port of a gRPC agent, not {endpoint[:80]!r}")
    came_from = _host_of(peer)
    if host in _LOOPBACK and came_from and not came_from.startswith(("127.", "[::1]", "[::ffff:127.")):
        host = came_from
    if host in _ANYWHERE:
        host = came_from
        if not host:
            raise Rejected("validate", f"endpoint: names no host: {endpoint[:80]!r}")
    return f"{scheme}://{host}:{port}"


def _host_of(peer: str) -> str:
    """The host in `ipv4:10.0.0.7:51000` or `ipv6:%5B::1%5D:51000`."""
    kind, _, rest = peer.partition(":")
    host = rest.rpartition(":")[0].replace("%5B", "[").replace("%5D", "]")
    return host if kind in ("ipv4", "ipv6") else ""


def to_wire(agent: AgentRegistration) -> pb.AgentRegistration:
    """A registration as the registry returns it; endpoints of other protocols keep their scheme. The lease's id is left
    out.
    """
    metadata = agent.metadata or {}
    message = pb.AgentRegistration(
        id=agent.id,
        name=agent.name or agent.id,
        endpoint=agent.endpoint.removeprefix("grpc://"),
        capabilities=agent.capabilities,
    )
    for name in ("version", "region"):
        if isinstance(metadata.get(name), str):
            setattr(message.metadata, name, metadata[name])
    for key, value in labels_of(agent).items():
        message.metadata.labels[key] = value
    if isinstance(metadata.get("defaultConfidence"), float):
        message.metadata.default_confidence = metadata["defaultConfidence"]
    try:
        message.registered_at.CopyFrom(timestamp(parse_time(metadata.get("registeredAt"))))
    except (ValueError, TypeError):
        message.ClearField("registered_at")
    if (lease := lease_of(agent)) is not None:
        message.ttl.FromMilliseconds(lease.ttl_ms)
    return message


def labels_of(agent: AgentRegistration) -> dict[str, str]:
    """`metadata.labels`, as far as they are text."""
    labels = (agent.metadata or {}).get("labels")
    if not isinstance(labels, dict):
        return {}
    return {key: value for key, value in labels.items() if isinstance(value, str)}


def has_all(agent: AgentRegistration, capabilities: Sequence[str]) -> bool:
    """Whether the agent has all of these capabilities."""
    return all(capability in agent.capabilities for capability in capabilities)


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list of agents, by id. `after`: the last id of the page before."""

    capabilities: tuple[str, ...]
    labels: dict[str, str]
    limit: int
    after: str

    @classmethod
    def of(cls, request: pb.ListAgentsRequest) -> Page:
        """The requested page. Raises `Rejected`."""
        if request.limit < 0:
            raise Rejected("validate", "limit: must not be negative")
        limit = min(request.limit or DEFAULT_PAGE, MAX_PAGE)
        return cls(tuple(request.capabilities), dict(request.labels), limit, request.continuation_token)

    def cut(self, agents: Iterable[AgentRegistration]) -> tuple[list[AgentRegistration], str, int]:
        """The agents of this page, the token of the next ("" on the last), and how many there are in all."""
        fitting = sorted((agent for agent in agents if self._fits(agent)), key=lambda agent: agent.id)
        rest = [agent for agent in fitting if agent.id > self.after]
        page = rest[: self.limit]
        return page, page[-1].id if len(rest) > len(page) else "", len(fitting)

    def _fits(self, agent: AgentRegistration) -> bool:
        labels = labels_of(agent)
        return has_all(agent, self.capabilities) and all(labels.get(k) == v for k, v in self.labels.items())


def change(
    before: AgentRegistration | None, after: AgentRegistration | None, capabilities: Sequence[str]
) -> tuple[pb.WatchEvent.Type, AgentRegistration | None]:
    """The event for a watcher of agents with those capabilities; None for an agent without them.

    >>> agent = AgentRegistration(id="a", endpoint="grpc://h:1", capabilities=["c"])
    >>> [pb.WatchEvent.Type.Name(change(*pair, ["c"])[0]) for pair in ((None, agent), (agent, agent), (agent, None))]
    ['ADDED', 'MODIFIED', 'DELETED']
    """
    was = before is not None and has_all(before, capabilities)
    now = after is not None and has_all(after, capabilities)
    if now:
        return (pb.WatchEvent.MODIFIED if was else pb.WatchEvent.ADDED), after
    return pb.WatchEvent.DELETED, (before if was else None)


def duration_ms(duration: Duration) -> int:
    """Milliseconds; 0 without a duration."""
    return max(0, duration.ToMilliseconds())


def timestamp(now_ms: int) -> Timestamp:
    """Epoch milliseconds as a protobuf timestamp."""
    found = Timestamp()
    found.FromMilliseconds(now_ms)
    return found
