"""`client.agents`: the registry, as records on the topic `agents`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from schemas.messages import AgentRegistration, BreakerLimits, ConfidenceSource, Limits, Protocol, SecretRef
from streams.client.connection import records_since
from streams.client.errors import NotFound
from streams.client.requests import Request, Send, check, encode
from streams.rules.agents.leases import is_ended
from streams.rules.agents.listing import AgentListing
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
        """Register an agent, or replace its registration. Raises `InvalidTask` naming field and reason.

        Workers check what its protocol needs: a registration that cannot work becomes a dead letter. `parallax agents
        add` checks that, too.
        """
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
        await self._send("agents", Request(agent_id, agent_id.encode(), encode(data)))
        return AgentRegistration.model_validate(data)

    async def rm(self, agent_id: str) -> None:
        """Remove an agent. Raises `NotFound` when it is not registered."""
        listing = await self._listing()
        keys = listing.removal(agent_id)
        if keys is None:
            raise NotFound(f"agent {agent_id}: not registered")
        for key in keys:
            await self._send("agents", Request(agent_id, key, b""))

    async def list(self) -> list[AgentRegistration]:
        """All registered agents, by id."""
        agents = map(AgentRegistration.model_validate, (await self._listing()).found.values())
        return sorted((agent for agent in agents if not is_ended(agent)), key=lambda agent: agent.id)

    async def _listing(self) -> AgentListing:
        listing = AgentListing()
        async for record in records_since(self._settings, "agents", 0):
            listing.add(record.key, record.value, record.headers)
        return listing


def _wire(value: Any) -> Any:
    return value.wire() if hasattr(value, "wire") else None if value is None else dict(value)
