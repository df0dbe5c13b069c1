"""`client.agents`: the registry, as records on the topic `agents`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

from schemas.codec import Rejected, decode
from schemas.messages import AgentRegistration, BreakerLimits, ConfidenceSource, Limits, Protocol, SecretRef
from schemas.wire_format import key_text
from streams.client.connection import kafka_errors, partitions_of
from streams.client.errors import NotFound
from streams.client.feed import read_since
from streams.client.requests import Request, Send, check, encode
from streams.rules.agents.leases import is_ended
from streams.settings import Settings


class AgentDirectory:
    """Register, remove and list agents. Workers follow within a second or so."""

    def __init__(self, settings: Settings, send: Send) -> None:
        self._settings = settings
        self._send = send

    async def add(
        self,
        agent_id: str,
        endpoint: str,
        *,
        protocol: Protocol | None = None,
        capabilities: Sequence[str] = (),
        name: str | None = None,
        limits: Limits | Mapping[str, Any] | None = None,
        breaker: BreakerLimits | Mapping[str, Any] | None = None,
        auth: SecretRef | Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        confidence: ConfidenceSource | Mapping[str, Any] | None = None,
    ) -> AgentRegistration:
        """Register an agent, or replace its registration. Raises `InvalidTask` naming field and reason."""
        given = {
            "id": agent_id,
            "name": name,
            "endpoint": endpoint,
            "protocol": protocol,
            "capabilities": [capabilities] if isinstance(capabilities, str) else list(capabilities),
            "limits": _wire(limits),
            "breaker": _wire(breaker),
            "auth": _wire(auth),
            "metadata": None if metadata is None else dict(metadata),
            "confidence": _wire(confidence),
        }
        data = {key: value for key, value in given.items() if value is not None}
        check(AgentRegistration, data)
        await self._write(Request(agent_id, agent_id.encode(), encode(data)))
        return AgentRegistration.model_validate(data)

    async def rm(self, agent_id: str) -> None:
        """Remove an agent. Raises `NotFound` when it is not registered."""
        registered, keys = await self._registered()
        if agent_id not in registered:
            raise NotFound(f"agent {agent_id}: not registered")
        for key in {agent_id.encode(), *keys[agent_id]}:
            await self._write(Request(agent_id, key, b""))

    async def list(self) -> list[AgentRegistration]:
        """All registered agents, by id."""
        registered, _ = await self._registered()
        return sorted(registered.values(), key=lambda agent: agent.id)

    async def _registered(self) -> tuple[dict[str, AgentRegistration], dict[str, set[bytes]]]:
        """Agents by id, and the keys of their records. To compaction, a key with a schema id is another key."""
        settings = self._settings
        await partitions_of(settings, ["agents"])
        found: dict[str, AgentRegistration] = {}
        keys: dict[str, set[bytes]] = {}
        async with kafka_errors(settings), aclosing(read_since(settings, "agents", 0)) as records:
            async for record in records:
                key = key_text(record.key, record.headers)
                found.pop(key, None)
                keys.setdefault(key, set()).add(record.key or b"")
                if record.value is None:
                    continue
                try:
                    agent = decode(AgentRegistration, record.value, record.headers)
                except Rejected:
                    continue  # workers leave it out, too
                if not is_ended(agent):
                    found[key] = agent
        return found, keys

    async def _write(self, request: Request) -> None:
        await self._send("agents", request)


def _wire(value: Any) -> Any:
    return value.wire() if hasattr(value, "wire") else None if value is None else dict(value)
