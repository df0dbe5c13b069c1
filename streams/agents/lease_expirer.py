"""Ends leases that ran out, for agents whose partition is at this worker: one worker decides about each agent.

In: the table of agents, once a second. Out: registrations renewed, ended or removed, on the topic `agents`. An agent
registered with `auto_renew` is checked for its health first. When this worker starts, every lease has its full time
again: there may have been no worker to renew it with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import structlog

from agents_io.errors import AgentError, Unsupported
from agents_io.transport import Transport
from schemas.messages import AgentRegistration
from streams.agents.registration_writer import NotWritten, RegistrationWriter
from streams.agents.table import AgentTable
from streams.rules.agents.leases import ended, lease_of, renewed, state, with_lease

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 1.0
ASK_TIMEOUT_S = 5.0
MAX_AT_ONCE = 32


class LeaseExpirer:
    """The leases of one worker. `owns`: whether an agent's owner partition is here."""

    def __init__(
        self,
        *,
        table: AgentTable,
        writer: RegistrationWriter,
        transport: Transport,
        owns: Callable[[str], bool],
        wall_ms: Callable[[], int],
    ) -> None:
        self._table = table
        self._writer = writer
        self._transport = transport
        self._owns = owns
        self._wall_ms = wall_ms
        self._since_ms = wall_ms()
        self._busy: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        try:
            while True:
                await asyncio.sleep(LOOK_EVERY_S)
                try:
                    self.start_due()
                except Exception as error:  # after any error, leases must still be checked
                    log.error("leases could not be checked; trying again", error=repr(error))
        finally:
            for task in list(self._busy.values()):
                task.cancel()

    def start_due(self) -> None:
        """Start what is due."""
        now_ms = self._wall_ms()
        due = [agent for agent in (*self._table.all(), *self._table.all_ended()) if self._due(agent, now_ms)]
        for agent_id in [agent.id for agent in due if agent.id not in self._busy and self._owns(agent.id)]:
            if len(self._busy) >= MAX_AT_ONCE:
                return
            task = self._busy[agent_id] = asyncio.get_running_loop().create_task(self._expire(agent_id))
            task.add_done_callback(partial(self._on_expired, agent_id))

    def _due(self, agent: AgentRegistration, now_ms: int) -> bool:
        lease = lease_of(agent)
        return lease is not None and state(lease, now_ms, self._since_ms) in ("over", "forgotten")

    def _on_expired(self, agent_id: str, task: asyncio.Task[None]) -> None:
        del self._busy[agent_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a lease could not be ended; trying again", agent_id=agent_id, error=repr(error))

    async def _expire(self, agent_id: str) -> None:
        """Decide once everything written so far has been read."""
        try:
            await self._table.catch_up()
            agent = self._table.get(agent_id) or self._table.ended(agent_id)
            lease = None if agent is None else lease_of(agent)
            if agent is None or lease is None or not self._due(agent, self._wall_ms()):
                return
            if lease.ended_ms is not None:
                await self._writer.write(agent_id, None)
                return
            well = lease.auto_renew and await self._is_well(agent)
            if self._table.get(agent_id) is not agent:
                return  # it was renewed, or registered again, during the health check
            now_ms = self._wall_ms()
            after = renewed(lease, 0, now_ms) if well else ended(lease, now_ms)
            await self._writer.write(agent_id, with_lease(agent, after))
            if not well:
                log.info("lease ended", agent_id=agent_id, expired_ms_ago=now_ms - lease.expires_ms)
        except NotWritten as error:
            log.warning("a lease could not be ended; trying again", agent_id=agent_id, error=str(error))

    async def _is_well(self, agent: AgentRegistration) -> bool:
        try:
            await self._transport.check_health(agent, ASK_TIMEOUT_S)
        except Unsupported:
            return True  # it answers, but has no health check
        except AgentError:
            return False
        return True
