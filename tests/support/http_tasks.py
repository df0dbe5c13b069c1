"""Http tasks in the form of an agent's transport, so that the contract suite for transports can judge them too."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson

from agents_io.fakes.http import FakeAgent
from agents_io.fakes.steps import ScriptStep
from agents_io.protocols.http_tasks.transport import HttpTaskTransport
from agents_io.rules.targets import AllowList
from agents_io.transport import Answer, Call
from schemas.messages import AgentRegistration

CAP = 200_000


class AsAgent:
    """Makes an order of a call, and an agent's answer of a reply."""

    def __init__(self, inner: HttpTaskTransport) -> None:
        self._inner = inner

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """POST to the agent's page."""
        order = orjson.dumps({"url": agent.endpoint + "/analyze", "payload": orjson.Fragment(call.body)})
        found = await self._inner.call(agent, dataclasses.replace(call, body=order))
        return Answer(found.value["value"], found.confidence)

    async def check_health(self, agent: AgentRegistration, timeout_s: float) -> None:
        """As the transport says."""
        await self._inner.check_health(agent, timeout_s)

    async def close(self) -> None:
        """Release every connection."""
        await self._inner.close()


@asynccontextmanager
async def http_task(*steps: ScriptStep) -> AsyncIterator[tuple[FakeAgent, AgentRegistration, AsAgent]]:
    """A server that http tasks may ask."""
    async with FakeAgent(steps) as fake:
        allowed = AllowList([fake.endpoint.removeprefix("http://")])
        transport = AsAgent(HttpTaskTransport(allowed, max_answer_bytes=CAP))
        try:
            yield fake, AgentRegistration(id="a", endpoint=fake.endpoint), transport
        finally:
            await transport.close()
