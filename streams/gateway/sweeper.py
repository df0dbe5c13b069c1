"""Finds dialled-in agents whose worker was killed, and unregisters them in time. The worker that owns their partition
does it.

In: known agents, which of them are this worker's to check. Out: a record with status `away` after two failed checks, a
tombstone once a whole grace period has passed. It checks by asking the worker that the record names. If that worker
holds the agent after all, it writes its own record again (`registry.py`), which corrects a wrong guess.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from agents_io.errors import AgentError
from agents_io.protocols.gateway.relay import RelayClient, Route
from schemas.messages import AgentRegistration
from streams.agents.registration_writer import NotWritten
from streams.gateway.registry import Write
from streams.rules.agents.gateway_claim import SECTION, Where, where_of

log = structlog.get_logger(__name__)

LOOK_TIMEOUT_S = 2.0
LOOKS_AT_ONCE = 50
MAX_SUSPECTS = 10_000
GONE = "its worker is gone"


@dataclass(slots=True)
class _Suspect:
    where: Where
    since: float


class GatewaySweeper:
    """One per worker. `mine`: whether an agent's owner partition is here, and its connection is not."""

    def __init__(
        self,
        *,
        agents: Callable[[], Iterable[AgentRegistration]],
        mine: Callable[[str], bool],
        relay: RelayClient,
        write: Write,
        grace_s: float,
    ) -> None:
        self._agents = agents
        self._mine = mine
        self._relay = relay
        self._write = write
        self._grace_s = grace_s
        self._suspects: dict[str, _Suspect] = {}

    async def run(self) -> None:
        while True:
            await asyncio.sleep(min(5.0, max(0.2, self._grace_s / 6)))
            await self.sweep()

    async def sweep(self) -> None:
        found = {agent.id: agent for agent in self._agents() if where_of(agent) is not None and self._mine(agent.id)}
        for agent_id in [agent_id for agent_id in self._suspects if agent_id not in found]:
            del self._suspects[agent_id]
        ids = list(found)
        for start in range(0, len(ids), LOOKS_AT_ONCE):
            await asyncio.gather(*(self._check(found[agent_id]) for agent_id in ids[start : start + LOOKS_AT_ONCE]))

    async def _check(self, agent: AgentRegistration) -> None:
        where = where_of(agent)
        if where is None or (where.status != "away" and await self._there(agent.id, where)):
            self._suspects.pop(agent.id, None)
            return
        now = asyncio.get_running_loop().time()
        suspect = self._suspects.get(agent.id)
        if suspect is None or (suspect.where.node, suspect.where.key) != (where.node, where.key):
            if len(self._suspects) < MAX_SUSPECTS:
                self._suspects[agent.id] = _Suspect(where, now)
            return
        try:
            # Two graces for an agent that is `away`: the worker that said so has the first word.
            if now - suspect.since >= self._grace_s * (2 if suspect.where.status == "away" else 1):
                await self._write(agent.id, None, "gone")
                self._suspects.pop(agent.id, None)
            elif where.status != "away":
                await self._write(agent.id, _away(agent, where), "status")
        except NotWritten as error:
            log.warning("a lost agent's record was not written", agent_id=agent.id, error=repr(error))

    async def _there(self, agent_id: str, where: Where) -> bool:
        try:
            route = Route(where.address, where.node, where.key)
            return await self._relay.presence(route, agent_id, LOOK_TIMEOUT_S) is not None
        except AgentError as error:  # it answers, but refuses us: the agent's state is unknown
            log.warning("a worker does not report its agents", address=where.address, reason=error.message)
            return True


def _away(agent: AgentRegistration, where: Where) -> AgentRegistration:
    data = agent.wire()
    data["metadata"][SECTION] = Where(where.address, where.node, where.key, "away", GONE).wire()
    return AgentRegistration.model_validate(data)
