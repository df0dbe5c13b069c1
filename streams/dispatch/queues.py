"""The queues of one home: a lane for each agent that lives there, what is held back for want of room, and what is parked instead.

In: tickets with their job. Out: tickets in their agent's lane, or told to `parked`. How much a lane may hold depends on what the
worker's lanes hold together (`rules/shares.py`). A full lane holds its partition back, unless that would starve another agent:
then its tasks are parked, and called back when the lane runs low. It writes nothing and calls nobody.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from agents_io.caller import Caller
from agents_io.ticket import Hooks, Ticket
from schemas.messages import AgentRegistration
from streams.dispatch.callers import CallerFactory, Kept
from streams.dispatch.jobs import Job
from streams.dispatch.shares import holding
from streams.rules.parking import MIN_WAIT_S, look_again_at, park_until
from streams.rules.shares import EASE, Flow, hungry, wanted_back

LOOK_S = 0.05
"""How often it is asked, while tickets are held back, whether that starves somebody."""
MAX_LANES = 2000
"""Lanes of one home: with more, those that rest are forgotten."""
TIDY_S = 10.0


@dataclass(frozen=True, slots=True)
class Parking:
    """Why a task is put aside, until when (epoch ms), and how often it found its agent's queue full."""

    reason: str
    due_ms: int
    parks: int


class Aside(Protocol):
    """Where tasks lie that found their agent's queue full."""

    def holds(self, agent_id: str) -> bool:
        """Whether any of this agent's lie there."""
        ...

    def call_back(self, agent_id: str, count: int) -> None:
        """Bring at most so many of this agent's back, the earliest first."""
        ...


class Queues:
    """Where tickets of one home wait. `callers`: by agent id; `held_back`: tickets that found no room, in order."""

    def __init__(
        self,
        factory: CallerFactory,
        wall_ms: Callable[[], int],
        parked: Callable[[Ticket, Parking], None],
        kept: Callable[[str], Kept | None],
    ) -> None:
        """`parked` is told of tasks put aside (`aside` holds them), `kept` what an agent's guards saw under another owner."""
        self.callers: dict[str, Caller] = {}
        self.flows: dict[str, Flow] = {}
        self.held_back: deque[tuple[Caller, Ticket]] = deque()
        self._factory = factory
        self._shares = factory.shares
        self._wall_ms = wall_ms
        self._parked = parked
        self._kept = kept
        self.aside: Aside | None = None
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._tidied = float("-inf")
        self._shares.join(self)

    @property
    def room(self) -> bool:
        """False while tickets are held back."""
        return not self.held_back

    def full(self, agent_id: str) -> bool:
        """Whether an agent's lane has no room to speak of, or takes no call for the time being."""
        caller = self.callers.get(agent_id)
        if caller is None:
            return False
        now = self._loop.time()
        limit = self._shares.limit(caller, self.flows[agent_id], now)
        return not _calls(caller, now) or holding(caller) >= limit * EASE

    def caller(self, agent: AgentRegistration, hooks: Hooks) -> Caller:
        """The agent's caller; a changed registration changes it."""
        caller = self.callers.get(agent.id)
        if caller is None:
            self._make_room()
            caller = self.callers[agent.id] = self._factory.make(agent, hooks, self._kept(agent.id))
            self.flows[agent.id] = Flow(self._loop.time())
        elif caller.agent is not agent:
            self._factory.update(caller, agent)
        return caller

    def _make_room(self) -> None:
        """Forget lanes about which there is nothing to know: tasks name hosts and patterns without end."""
        now = self._loop.time()
        if len(self.callers) < MAX_LANES or now - self._tidied < TIDY_S:
            return
        self._tidied = now
        busy = {caller.agent.id for caller, _ in self.held_back}
        for agent_id, caller in list(self.callers.items()):
            if agent_id not in busy and _rests(caller, now):
                caller.close()
                del self.callers[agent_id], self.flows[agent_id]

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
            del self.callers[agent_id], self.flows[agent_id]

    def place(self, caller: Caller, ticket: Ticket) -> None:
        """Into the agent's lane; or, if the wait there would be long, aside, where it costs no memory."""
        job: Job = ticket.work
        now = self._loop.time()
        shut_until = caller.lane.breaker.shut_until(now)
        due = park_until(now, max(shut_until, caller.lane.limiter.paused_until), ticket.deadline)
        self.flows[caller.agent.id].seen = now
        if due is not None:
            self._park(ticket, "circuit_open" if shut_until > now else "retry_after", due, job.parks)
        elif not self._settled(caller, ticket, now):
            self.held_back.append((caller, ticket))
            self._set_timer()

    def place_again(self, caller: Caller) -> None:
        """The agent's circuit opened: what waits for it need not wait in memory."""
        mine = [ticket for owner, ticket in self.held_back if owner is caller]
        self.held_back = deque((owner, ticket) for owner, ticket in self.held_back if owner is not caller)
        for ticket in caller.lane.drain() + mine:
            self.place(caller, ticket)

    def left(self, agent_id: str) -> None:
        """A ticket of this agent ended: those held back go first, in their order, then what was put aside may come back."""
        self._reconsider()
        caller = self.callers.get(agent_id)
        if caller is None or self.aside is None or not self.aside.holds(agent_id):
            return
        now = self._loop.time()
        count = wanted_back(holding(caller), self._shares.limit(caller, self.flows[agent_id], now))
        if count > 0 and caller.lane.breaker.state(now) == "closed" and _calls(caller, now):
            self.aside.call_back(agent_id, count)

    def drop(self, ticket: Ticket) -> bool:
        """Take a ticket out of those held back; False if it is not there."""
        for held in self.held_back:
            if held[1] is ticket:
                self.held_back.remove(held)
                return True
        return False

    def relieve(self, ticket: Ticket) -> bool:
        """Put a ticket that waits aside, since its record holds the commit; False if its call is under way."""
        caller = self.callers[ticket.work.agent_id]
        if not (caller.lane.remove(ticket) or self.drop(ticket)):
            return False
        self._put_aside(ticket, self._loop.time(), "holds_commit")
        return True

    def close(self) -> None:
        """Cancel the calls under way, and forget everything."""
        self._shares.leave(self)
        if self._timer is not None:
            self._timer.cancel()
        for caller in self.callers.values():
            caller.close()
        self.held_back.clear()

    def _settled(self, caller: Caller, ticket: Ticket, now: float) -> bool:
        """Into the lane, or aside; False: it should be held back."""
        flow = self.flows[caller.agent.id]
        held, limit = holding(caller), self._shares.limit(caller, flow, now)
        stuck = flow.stuck(held, limit, now)
        if ticket.deadline <= now:  # ends at once, whatever waits there
            caller.submit(ticket, force=True)
            return True
        returns = ticket.work.source == "parked"
        older = not returns and ticket.priority <= 0 and self.aside is not None and self.aside.holds(caller.agent.id)
        if held < limit and not older and caller.submit(ticket):
            self._shares.took()
            return True
        if not (returns or ((stuck or older) and self._starves_others(caller, now))):
            return False
        less_urgent = caller.lane.last_below(ticket.priority)
        if less_urgent is not None and caller.lane.remove(less_urgent):
            caller.submit(ticket, force=True)
            ticket = less_urgent
        self._put_aside(ticket, now)
        return True

    def _starves_others(self, hog: Caller, now: float) -> bool:
        """Whether an agent that could do more may have tasks behind those of this one."""
        for agent_id, caller in self.callers.items():
            flow = self.flows[agent_id]
            if caller is hog or not _calls(caller, now):
                continue
            limit = self._shares.limit(caller, flow, now)
            if hungry(holding(caller), limit, caller.lane.max_concurrency, now - flow.seen):
                return True
        return False

    def _put_aside(self, ticket: Ticket, now: float, reason: str = "queue_full") -> None:
        job: Job = ticket.work
        least_s = 0.0 if job.source == "parked" else MIN_WAIT_S  # that one has its place on the topic
        due = look_again_at(now, ticket.deadline, least_s)
        self._park(ticket, reason, due, job.parks + 1)

    def _reconsider(self) -> None:
        """Those held back, in their order: there may be room in a lane, or somebody may starve."""
        if not self.held_back:
            return
        now = self._loop.time()
        waiting, self.held_back = self.held_back, deque()
        still: deque[tuple[Caller, Ticket]] = deque()
        stopped: set[str] = set()
        for caller, ticket in waiting:
            if caller.agent.id in stopped or not self._settled(caller, ticket, now):
                stopped.add(caller.agent.id)
                still.append((caller, ticket))
        self.held_back = still + self.held_back

    def _set_timer(self) -> None:
        if self._timer is None and self.held_back:
            self._timer = self._loop.call_later(LOOK_S, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._reconsider()
        self._set_timer()

    def _park(self, ticket: Ticket, reason: str, due: float, parks: int) -> None:
        due_ms = self._wall_ms() + round((due - self._loop.time()) * 1000)
        self._parked(ticket, Parking(reason, due_ms, parks))


def _calls(caller: Caller, now: float) -> bool:
    """Whether the agent may be called at all."""
    lane = caller.lane
    return lane.breaker.shut_until(now) <= now and lane.limiter.paused_until <= now


def _rests(caller: Caller, now: float) -> bool:
    """Whether nothing is under way and nothing is remembered: the circuit closed, the window empty, all of it committed."""
    lane = caller.lane
    if caller.running or lane.waiting or caller.changed or lane.limiter.used(now) or not _calls(caller, now):
        return False
    return lane.breaker.state(now) == "closed" and not lane.breaker.failures(now)
