"""Calls to agents over HTTP: `POST {endpoint}/analyze`, one attempt each.

In: a registration and a `Call`. Out: an `Answer`, or one `AgentError`: the table of statuses and failures is in
`http/exchange.py`, and a 2xx that is no answer is a `bad_response`. One timeout covers the whole attempt, body included.
It never retries and decides nothing about the agent.
"""

from __future__ import annotations

import httpx

from agents_io.http.exchange import HttpExchange, within
from agents_io.http.peer import Peer, below
from agents_io.per_agent import PerAgent
from agents_io.rules.answer import parse_answer
from agents_io.transport import MAX_ANSWER_BYTES, Answer, Call
from schemas.messages import AgentRegistration

HEALTH_TIMEOUT_S = 5.0


class _Agent(Peer):
    """The two URLs of an agent."""

    __slots__ = ("analyze", "health")

    def __init__(self, agent: AgentRegistration) -> None:
        super().__init__(agent)
        self.analyze = below(self.base, "analyze")
        self.health = below(self.base, "health")


class HttpTransport:
    """Calls agents of protocol `http`; one instance, one connection pool, for all of a worker's agents."""

    def __init__(
        self, transport: httpx.AsyncBaseTransport | None = None, *, max_answer_bytes: int = MAX_ANSWER_BYTES
    ) -> None:
        """`transport`: in place of a connection pool of its own."""
        self._http = HttpExchange(transport, max_answer_bytes=max_answer_bytes)
        self._agents = PerAgent(_Agent)

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """One attempt. Raises `AgentError`; cancelling it closes the agent's connection."""
        return await within(call.timeout_s, lambda: self._attempt(agent, call))

    async def _attempt(self, agent: AgentRegistration, call: Call) -> Answer:
        peer = self._agents.get(agent)
        body = await self._http.post(peer, peer.analyze, call)
        return peer.parsed(body, lambda: parse_answer(body, peer.reading))

    async def check_health(self, agent: AgentRegistration, timeout_s: float = HEALTH_TIMEOUT_S) -> None:
        """`GET {endpoint}/health` answers 2xx in time. Raises `AgentError`; `Unsupported`: there is no such page."""
        peer = self._agents.get(agent)
        await self._http.check_health(peer, peer.get(peer.health), peer.get(peer.analyze), timeout_s)

    async def close(self) -> None:
        await self._http.aclose()
