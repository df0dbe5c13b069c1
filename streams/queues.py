"""The queues of one home: a lane for each agent that lives there, what is held back for want of room, and what is parked instead.

In: tickets with their job. Out: tickets in their agent's lane, or told to `parked`. An agent's full queue holds its partition
back, unless that would hold back other agents' tasks: then its tasks are parked. It writes nothing and calls nobody.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from agents_io.caller import Caller, Hooks, Ticket
from schemas.messages import AgentRegistration
from streams.callers import CallerFactory, Kept
from streams.jobs import Job
from streams.rules.parking import park_until, try_again_at


@dataclass(frozen=True, slots=True)
class Parking:
    """Why a task is put aside, until when (epoch ms), and how often it found its agent's queue full."""

    reason: str
    due_ms: int
    parks: int


class Queues:
    """Where tickets of one home wait. `callers`: by agent id; `held_back`: tickets that found no room, in order."""

    def __init__(
        self,
        factory: CallerFactory,
        wall_ms: Callable[[], int],
        parked: Callable[[Ticket, Parking], None],
        kept: Callable[[str], Kept | None],
    ) -> None:
        """`parked` is told of tasks put aside, `kept` tells what an agent's guards had seen under an earlier owner."""
        self.callers: dict[str, Caller] = {}
        self.held_back: deque[tuple[Caller, Ticket]] = deque()
        self._factory = factory
        self._wall_ms = wall_ms
        self._parked = parked
        self._kept = kept
        self._loop = asyncio.get_running_loop()

    @property
    def room(self) -> bool:
        """False while tickets are held back."""
        return not self.held_back

    def caller(self, agent: AgentRegistration, hooks: Hooks) -> Caller:
        """The agent's caller; a changed registration changes it."""
        caller = self.callers.get(agent.id)
        if caller is None:
            caller = self.callers[agent.id] = self._factory.make(agent, hooks, self._kept(agent.id))
        elif caller.agent is not agent:
            self._factory.update(caller, agent)
        return caller

    def changed(self, agent_id: str, agent: AgentRegistration | None) -> None:
        """The registration of an agent changed: what waits goes by the new one. Unregistered and idle: it is forgotten."""
        caller = self.callers.get(agent_id)
        if caller is None:
            return
        if agent is not None:
            self._factory.update(caller, agent)
            caller.turn()
        elif not (caller.running or caller.lane.waiting or any(owner is caller for owner, _ in self.held_back)):
            caller.close()
            del self.callers[agent_id]

    def place(self, caller: Caller, ticket: Ticket) -> None:
        """Into the agent's lane; or, if the wait there would be long, aside, where it costs no memory."""
        job: Job = ticket.work
        now = self._loop.time()
        shut_until = caller.lane.breaker.shut_until(now)
        due = park_until(now, max(shut_until, caller.lane.limiter.paused_until), ticket.deadline)
        if due is not None:
            self._park(ticket, "circuit_open" if shut_until > now else "retry_after", due, job.parks)
        elif not caller.submit(ticket):
            due = try_again_at(now, job.parks, ticket.deadline) if len(self.callers) > 1 else None
            if due is not None:
                self._park(ticket, "queue_full", due, job.parks + 1)
            else:
                self.held_back.append((caller, ticket))

    def place_again(self, caller: Caller) -> None:
        """The agent's circuit opened: what waits for it need not wait in memory."""
        mine = [ticket for owner, ticket in self.held_back if owner is caller]
        self.held_back = deque((owner, ticket) for owner, ticket in self.held_back if owner is not caller)
        for ticket in caller.lane.drain() + mine:
            self.place(caller, ticket)

    def refill(self) -> None:
        """There may be room in a lane: those held back go first, in their order."""
        while self.held_back:
            caller, ticket = self.held_back[0]
            if not caller.submit(ticket):
                return
            self.held_back.popleft()

    def drop(self, ticket: Ticket) -> bool:
        """Take a ticket out of those held back; False if it is not there."""
        for held in self.held_back:
            if held[1] is ticket:
                self.held_back.remove(held)
                return True
        return False

    def _park(self, ticket: Ticket, reason: str, due: float, parks: int) -> None:
        due_ms = self._wall_ms() + round((due - self._loop.time()) * 1000)
        self._parked(ticket, Parking(reason, due_ms, parks))
