"""A worker's way to the simulated agents, in place of HTTP. In: calls of the product. Out: what the agent answers, later, on the
worker's own loop.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from agents_io.errors import AgentError, CallTimeout
from agents_io.transport import Answer, Call
from schemas.messages import AgentRegistration
from tests.simulation.agents import Arrival, task_of, url_of
from tests.simulation.deployments import agent_of

if TYPE_CHECKING:
    from tests.simulation.node import Node


class SimTransport:
    """Calls simulated agents, also those that stand for a host, a function or a pattern of the control plane."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def check_health(self, agent: AgentRegistration, timeout_s: float) -> None:
        """Every agent says that it is well."""

    async def close(self) -> None:
        """Nothing is open."""

    def _check_permitted(self, agent: AgentRegistration, call: Call) -> None:
        """Note a call of what the worker's settings do not permit, or under another agent's limits."""
        kind, is_builtin, name = agent.id.partition(":")
        if not is_builtin:
            return
        target = url_of(call.body) if kind == "http" else name
        if agent_of(self._node.settings, kind, target) != agent.id:
            self._node.shared.forbidden.append((self._node.world.now, self._node.name, agent.id, target))

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """One attempt. Raises `AgentError`."""
        node, world = self._node, self._node.world
        called = node.shared.agents[agent.id]
        future: asyncio.Future[Answer | AgentError] = node.loop.create_future()
        arrival = Arrival(0.0, world.now, node.name, task_of(call), call.idempotency_key, call.timeout_s)
        node.check_owner(agent.id)
        self._check_permitted(agent, call)
        node.open_calls[id(arrival)] = called, arrival

        def reply(outcome: Answer | AgentError) -> None:
            world.at(node.network.latency(), lambda: node.deliver(future, outcome))

        world.at(0.0005 + 0.002 * node.rng.random(), lambda: called.take(arrival, call, reply))
        try:
            async with asyncio.timeout(max(0.001, call.timeout_s)):
                outcome = await future
        except TimeoutError:
            raise CallTimeout("no answer in time") from None
        finally:
            node.open_calls.pop(id(arrival), None)
            if not future.done() or future.cancelled():
                called.hung_up(arrival)
        if isinstance(outcome, AgentError):
            if outcome.retry_after_s is not None:
                node.shared.pauses.append((world.now, node.name, agent.id, outcome.retry_after_s))
            raise outcome
        return outcome
