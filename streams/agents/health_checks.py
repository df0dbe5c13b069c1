"""Checks the health of the agents in this worker's partitions.

In: these agents, a transport. Out: each result, reported to the status publisher. One loop and a bounded number of
checks at once, for any number of agents; jitter spreads them. An agent without a health check is left alone until it is
registered again. It decides nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from heapq import heappop, heappush

import structlog

from agents_io.errors import AgentError, CallTimeout, Unsupported
from agents_io.transport import Transport
from schemas.messages import AgentRegistration
from streams.engine.event_wait import wait_at_most
from streams.settings import HealthSettings

log = structlog.get_logger(__name__)

LOOK_S = 1.0
"""How soon an agent that was registered, or whose partition moved here, is noticed."""
JITTER = 0.2


class HealthChecks:
    """`agents`: the agents of this worker's partitions by id, a new mapping whenever they change.

    `on_health`: called with an agent's id and whether it is healthy, None if it did not answer in time;
    `on_not_checked`: with the id of an agent that is no longer checked.
    """

    def __init__(
        self,
        *,
        agents: Callable[[], Mapping[str, AgentRegistration]],
        transport: Transport,
        settings: HealthSettings,
        rng: random.Random,
        on_health: Callable[[str, bool | None], None],
        on_not_checked: Callable[[str], None],
    ) -> None:
        self._agents = agents
        self._transport = transport
        self._interval_s = settings.check_interval / 1000
        self._timeout_s = settings.check_timeout / 1000
        self._at_once = settings.check_concurrency
        self._rng = rng
        self._on_health = on_health
        self._on_not_checked = on_not_checked
        self._loop = asyncio.get_running_loop()
        self._known: Mapping[str, AgentRegistration] = {}
        self._mute: set[str] = set()
        self._due: list[tuple[float, str]] = []
        self._running: dict[str, asyncio.Task[None]] = {}
        self._ended = asyncio.Event()
        """A place became free for another check."""

    async def run(self) -> None:
        """Run until cancelled; return at once if health checks are switched off."""
        if self._interval_s <= 0:
            return
        try:
            while True:
                self.start_due()
                now = self._loop.time()
                self._ended.clear()
                first = self._due[0][0] if self._due and len(self._running) < self._at_once else now + LOOK_S
                await wait_at_most(self._ended, min(LOOK_S, max(0.01, first - now)))
        finally:
            for task in self._running.values():
                task.cancel()

    def start_due(self) -> None:
        """Start the checks that are due."""
        self._follow()
        now = self._loop.time()
        while self._due and self._due[0][0] <= now and len(self._running) < self._at_once:
            _, agent_id = heappop(self._due)
            agent = self._known.get(agent_id)
            if agent is not None and agent_id not in self._running and agent_id not in self._mute:
                self._running[agent_id] = self._loop.create_task(self._check(agent), name=f"health-{agent_id}")

    def _follow(self) -> None:
        """Take over the agents owned now. New ones are checked within one interval, at random moments."""
        here = self._agents()
        if here is self._known:
            return
        now = self._loop.time()
        for agent_id, agent in here.items():
            known = self._known.get(agent_id)
            if known is None or (agent is not known and agent_id in self._mute):
                self._mute.discard(agent_id)
                heappush(self._due, (now + self._rng.random() * self._interval_s, agent_id))
        for agent_id in self._known.keys() - here.keys():
            self._mute.discard(agent_id)
            self._on_not_checked(agent_id)
        if self._known.keys() - here.keys():
            self._due = [due for due in sorted(self._due) if due[1] in here]
        self._known = here

    async def _check(self, agent: AgentRegistration) -> None:
        well: bool | None = True
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._transport.check_health(agent, self._timeout_s)
        except Unsupported:
            self._mute.add(agent.id)
            self._on_not_checked(agent.id)
            return
        except (CallTimeout, TimeoutError):
            well = None
        except (AgentError, OSError):
            well = False
        except Exception as error:
            log.exception("unexpected error during a health check", agent_id=agent.id, error=repr(error))
            well = False
        finally:
            if len(self._running) >= self._at_once:
                self._ended.set()
            self._running.pop(agent.id, None)
        if agent.id not in self._known:
            return
        wait_s = self._interval_s * (1 + JITTER * (2 * self._rng.random() - 1))
        heappush(self._due, (self._loop.time() + wait_s, agent.id))
        self._on_health(agent.id, well)
