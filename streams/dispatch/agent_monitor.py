"""Watches the agents in a worker's partitions: publishes their status, checks their health, and wakes tasks that wait
for an agent.

In: the engine's open partitions, changes of registrations and statuses. Out: two tasks that run until stopped. It
decides nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from agents_io.calling.caller import Caller
from agents_io.transport import Transport
from schemas.messages import AgentRegistration
from schemas.partitioning import owner_partition
from streams.agents.agent_status_publisher import AgentStatusPublisher
from streams.agents.agent_statuses import AgentStatuses
from streams.agents.health_checks import HealthChecks
from streams.dispatch.context import DispatchContext
from streams.dispatch.handler import DispatchHandler, handlers_of
from streams.engine.engine import Engine


class _Here(NamedTuple):
    """By id: agents whose health is checked, and agents that dial in, which the gateway watches."""

    asked: Mapping[str, AgentRegistration]
    dialled: Mapping[str, AgentRegistration]


class AgentMonitor:
    """`publisher` publishes the agents' statuses."""

    def __init__(
        self,
        *,
        parts: DispatchContext,
        agent_statuses: AgentStatuses,
        transport: Transport,
        engine: Engine[Any],
        rng: random.Random | None = None,
    ) -> None:
        """`rng`: spreads the health checks."""
        self._parts = parts
        self._engine = engine
        self.publisher = AgentStatusPublisher(
            callers=lambda: [handler.callers for handler in self._handlers()],
            lookup=parts.agents.get,
            dialled=lambda: self._living_here().dialled,
            agent_statuses=agent_statuses,
            settings=parts.settings,
            recorder=parts.recorder,
            emit=parts.emit,
            metrics=parts.metrics,
            wall_ms=parts.wall_ms,
        )
        self._checks = HealthChecks(
            agents=lambda: self._living_here().asked,
            transport=transport,
            settings=parts.settings.health,
            rng=rng or random.Random(),
            on_health=lambda agent_id, well: self.publisher.checked(agent_id, self._caller(agent_id), well),
            on_not_checked=self.publisher.on_not_checked,
        )
        self._seen: object = None
        self._here = _Here({}, {})
        agent_statuses.on_available(self._available)

    def start(self) -> Callable[[], None]:
        """Start; returns a function that stops it."""
        tasks = [
            asyncio.create_task(self.publisher.run(), name="standings"),
            asyncio.create_task(self._checks.run(), name="health-checks"),
        ]

        def stop() -> None:
            for task in tasks:
                task.cancel()

        return stop

    def agent_changed(self, agent_id: str, agent: AgentRegistration | None) -> None:
        """An agent was registered, registered again, or unregistered."""
        if agent is not None:
            if agent.transport == "gateway" and self._handler_of(agent_id) is not None:
                self.publisher.publish(agent_id, self._caller(agent_id))
            self._available(agent_id)
        elif self._handler_of(agent_id) is not None:
            self.publisher.gone(agent_id)

    def _available(self, agent_id: str) -> None:
        agent = self._parts.agents.get(agent_id)
        if agent is not None:
            for handler in list(self._handlers()):
                handler.agent_available(agent)

    def _handlers(self) -> Iterator[DispatchHandler]:
        return handlers_of(self._engine.processors.values())

    def _living_here(self) -> _Here:
        """The agents of this worker's partitions; the same mappings while nothing changes."""
        count = self._parts.partition_count()
        seen = self._parts.agents.version, frozenset(self._engine.processors), count
        if seen != self._seen:
            self._seen = seen
            processors = self._engine.processors
            here = [agent for agent in self._parts.agents.all() if owner_partition(agent.id, count) in processors]
            self._here = _Here(
                {agent.id: agent for agent in here if agent.transport != "gateway"},
                {agent.id: agent for agent in here if agent.transport == "gateway"},
            )
        return self._here

    def _handler_of(self, agent_id: str) -> DispatchHandler | None:
        processor = self._engine.processors.get(owner_partition(agent_id, self._parts.partition_count()))
        return processor.handler if processor is not None and isinstance(processor.handler, DispatchHandler) else None

    def _caller(self, agent_id: str) -> Caller[Any] | None:
        handler = self._handler_of(agent_id)
        return None if handler is None else handler.callers.get(agent_id)
