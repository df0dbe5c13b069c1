"""The watch over the agents that live in a worker's homes: standings, health checks, and who is told that one is there again.

In: the engine's open homes, changes of registrations and standings. Out: two tasks that run until stopped. It decides nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from agents_io.caller import Caller
from agents_io.transport import Transport
from schemas.messages import AgentRegistration
from schemas.partitioning import home_partition
from streams.agents.health_checks import HealthChecks
from streams.agents.standing_keeper import StandingKeeper
from streams.agents.standings import Standings
from streams.dispatch.context import DispatchContext
from streams.dispatch.handler import DispatchHandler
from streams.engine.engine import Engine


class _Here(NamedTuple):
    """By id: those that are asked for their health, and those that dial in, whom the gateway watches."""

    asked: Mapping[str, AgentRegistration]
    dialled: Mapping[str, AgentRegistration]


class AgentMonitor:
    """`keeper` tells how agents stand."""

    def __init__(
        self,
        parts: DispatchContext,
        standings: Standings,
        transport: Transport,
        engine: Engine,
        rng: random.Random | None = None,
    ) -> None:
        """`rng`: spreads the health checks."""
        self._parts = parts
        self._engine = engine
        self.keeper = StandingKeeper(
            lambda: [handler.callers for handler in self._handlers()],
            parts.agents.get,
            lambda: self._living_here().dialled,
            standings,
            parts.settings,
            parts.recorder,
            parts.emit,
            parts.metrics,
            parts.wall_ms,
        )
        self._checks = HealthChecks(
            lambda: self._living_here().asked,
            transport,
            parts.settings.health,
            rng or random.Random(),
            lambda agent_id, well: self.keeper.checked(agent_id, self._caller(agent_id), well),
            self.keeper.unasked,
        )
        self._seen: object = None
        self._here = _Here({}, {})
        standings.on_available(self._available)

    def start(self) -> Callable[[], None]:
        """Begin; gives what ends it."""
        tasks = [
            asyncio.create_task(self.keeper.run(), name="standings"),
            asyncio.create_task(self._checks.run(), name="health-checks"),
        ]

        def stop() -> None:
            for task in tasks:
                task.cancel()

        return stop

    def agent_changed(self, agent_id: str, agent: AgentRegistration | None) -> None:
        """An agent was registered (again), or unregistered."""
        if agent is not None:
            if agent.transport == "gateway" and self._home(agent_id) is not None:
                self.keeper.tell(agent_id, self._caller(agent_id))
            self._available(agent_id)
        elif self._home(agent_id) is not None:
            self.keeper.gone(agent_id)

    def _available(self, agent_id: str) -> None:
        agent = self._parts.agents.get(agent_id)
        if agent is not None:
            for handler in list(self._handlers()):
                handler.agent_available(agent)

    def _handlers(self) -> Iterator[DispatchHandler]:
        for home in self._engine.homes.values():
            if isinstance(home.handler, DispatchHandler):
                yield home.handler

    def _living_here(self) -> _Here:
        """The agents whose home is here; the same mappings as long as nothing changed."""
        count = self._parts.partition_count()
        seen = self._parts.agents.version, frozenset(self._engine.homes), count
        if seen != self._seen:
            self._seen = seen
            homes = self._engine.homes
            here = [agent for agent in self._parts.agents.all() if home_partition(agent.id, count) in homes]
            self._here = _Here(
                {agent.id: agent for agent in here if agent.transport != "gateway"},
                {agent.id: agent for agent in here if agent.transport == "gateway"},
            )
        return self._here

    def _home(self, agent_id: str) -> DispatchHandler | None:
        home = self._engine.homes.get(home_partition(agent_id, self._parts.partition_count()))
        return home.handler if home is not None and isinstance(home.handler, DispatchHandler) else None

    def _caller(self, agent_id: str) -> Caller[Any] | None:
        handler = self._home(agent_id)
        return None if handler is None else handler.callers.get(agent_id)
