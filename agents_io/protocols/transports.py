"""All transports of a worker behind one port: the agent's protocol selects one.

In: an agent and a call. Out: the answer or error of that transport. It opens no connection itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from agents_io.errors import Unsupported
from agents_io.rules.secret_policy import SecretPolicy
from agents_io.transport import Answer, Call, Transport
from schemas.messages import AgentRegistration


class Transports:
    """`by_protocol`: by the name in `AgentRegistration.transport`. `secrets`: which secrets registrations may
    reference.
    """

    def __init__(self, by_protocol: Mapping[str, Transport], secrets: SecretPolicy | None = None) -> None:
        self._by_protocol = dict(by_protocol)
        self._secrets = secrets or SecretPolicy()

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """One attempt. Raises `AgentError`; `Unsupported` for a protocol without a transport."""
        return await self._of(agent).call(agent, call)

    async def check_health(self, agent: AgentRegistration, timeout_s: float) -> None:
        """Returns if the agent is healthy. Raises `AgentError` if not; `Unsupported`: it has no health check."""
        await self._of(agent).check_health(agent, timeout_s)

    async def close(self) -> None:
        """Release every connection of every transport."""
        for transport in self._by_protocol.values():
            await transport.close()

    def _of(self, agent: AgentRegistration) -> Transport:
        self._secrets.check(agent)
        transport = self._by_protocol.get(agent.transport)
        if transport is None:
            raise Unsupported(f"this version cannot call agents of protocol {agent.transport!r}")
        return transport
