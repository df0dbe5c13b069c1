"""From a job to the home of its agent: which agent, whether its home is this one, another one or a wait when none takes calls.

In: a job of one home. Out, through the desk and exactly one of them: it is submitted, forwarded, handed over to the plan
coordinator, put aside, failed, or told to be a duplicate; or looked up first, and then one of them. The balancer chooses,
`detours.py` says when to go elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from agents_io.errors import AgentError, Cancelled, NoAgent
from agents_io.ticket import Ticket
from schemas.codec import header
from schemas.messages import AgentRegistration
from schemas.partitioning import home_partition
from streams.dispatch.detours import Detours
from streams.dispatch.jobs import Job
from streams.dispatch.outcomes import Outcomes
from streams.dispatch.parts import Parts
from streams.rules.plans.task_plans import template_for
from streams.rules.records import AGENT_HEADER, AWAIT_HEADER, HOPS_HEADER, Letter, Output, own_header
from streams.rules.routing import MAX_HOPS, absence


class Desk(Protocol):
    """What becomes of a job in its home."""

    def end(self, job: Job, outputs: list[Output], moved: bool = False) -> None:
        """Its record ends; `moved`: the task goes on elsewhere."""
        ...

    def claim(self, job: Job, scope: str, outlives: bool = False) -> bool:
        """Whether this record answers its task id; if not, it has ended."""
        ...

    def release(self, job: Job, scope: str | None) -> None:
        """It gives up its claim of this scope; None: all of them."""
        ...

    def fail(self, job: Job, error: AgentError) -> None:
        """It ends without an answer."""
        ...

    def submit(self, job: Job, agent: AgentRegistration) -> None:
        """It goes to this agent, whose home is here."""
        ...

    def rest(self, job: Job, wait_s: float) -> None:
        """It came from `parked`, and is held again."""
        ...

    def guarded(self, letter: Letter, step: Callable[[], None]) -> None:
        """Do this; if it breaks, the record ends."""
        ...


class Router:
    """Routes the jobs of home `number`."""

    def __init__(self, number: int, parts: Parts, tell: Outcomes, desk: Desk) -> None:
        self._number = number
        self._parts = parts
        self._tell = tell
        self._desk = desk
        self._lookups: set[asyncio.Task[None]] = set()
        self._closed = False
        self.detours = Detours(parts)

    def hold(self) -> None:
        """Route nothing more: the next owner does."""
        self._closed = True

    def close(self) -> None:
        """Stop looking up."""
        self._closed = True
        for lookup in self._lookups:
            lookup.cancel()

    def route(self, job: Job, looked_up: bool = False) -> None:
        """Find its agent, and the way there."""
        if (template := template_for(job.task, self._parts.templates)) is not None:
            # Also what is cancelled: whether the id is a new one is decided where its plan has its home.
            self._desk.end(job, self._tell.handed_over(job, template), moved=True)
            return
        chosen = header(job.letter.headers, AGENT_HEADER) if job.source != "tasks" else None
        if job.task.target is None and not chosen and not self._arbitrate(job):
            return
        why = self._parts.cancelled(job.task.id)
        try:
            agent = self._agent(job, chosen or "")
        except AgentError as error:
            self._refuse(job, error)
            return
        if agent is not None:
            if not self._forwarded(job, agent.id, agent.id) and self._desk.claim(job, agent.id):
                self._desk.submit(job, agent) if why is None else self._desk.fail(job, Cancelled(why))
        elif why is not None:
            self._refuse(job, Cancelled(why))
        else:
            self._nobody(job, chosen or "", looked_up)

    def elsewhere(self, job: Job, ticket: Ticket) -> bool:
        """Give a task to another agent, as its own takes no call; False if there is none, or it named its agent."""
        agent = self.detours.other(job, ticket)
        if agent is None:
            return False
        if not self._forwarded(job, agent.id, agent.id):
            self._desk.release(job, job.agent_id or "")
            if self._desk.claim(job, agent.id):
                self._desk.submit(job, agent)
        return True

    def _agent(self, job: Job, chosen: str) -> AgentRegistration | None:
        task, agents = job.task, self._parts.agents
        if task.type != "agent":
            return self._parts.builtin(task)
        if task.target is not None:
            return agents.get(task.target)
        # The one chosen before the hop, unless it is gone meanwhile.
        return (agents.get(chosen) if chosen else None) or self._parts.balancer.choose(task)

    def _refuse(self, job: Job, error: AgentError) -> None:
        """It has no agent: told where all records of its id meet, or two of them would both be told.

        One that names no agent has been there: sent there again it would be its own duplicate.
        """
        if job.task.target is not None and self._forwarded(job, job.task.id, None):
            return
        if self._desk.claim(job, job.task.target or ""):
            self._desk.fail(job, error)

    def _arbitrate(self, job: Job) -> bool:
        """Any agent may answer this task: whether its id is a new one is decided in one place, the home of the id."""
        return not self._forwarded(job, job.task.id, None) and self._desk.claim(job, "", outlives=True)

    def _nobody(self, job: Job, chosen: str, looked_up: bool) -> None:
        known = job.task.target is None and self._parts.balancer.capable(job.task)
        if not (looked_up or known):
            self._look_up(job)
        elif not self._awaits(job, chosen, known):
            self._refuse(job, NoAgent(absence(job.task, known)))

    def _awaits(self, job: Job, chosen: str, known: bool) -> bool:
        """Whether the task is put aside until an agent can take it. Its id is free again, unless it was claimed elsewhere."""
        due_ms = self.detours.wait_until_ms(job, known)
        if due_ms is None:
            return False
        if job.source == "parked" and header(job.letter.headers, AWAIT_HEADER) is not None:
            self._desk.rest(job, (due_ms - self._parts.wall_ms()) / 1000)
            return True
        if not chosen:
            self._desk.release(job, None)
        self._desk.end(job, self._tell.awaits(job, chosen, due_ms), moved=True)
        return True

    def _forwarded(self, job: Job, key: str, agent_id: str | None) -> bool:
        """Send the task on to the home of `key`, unless this is it. `agent_id`: the agent, if it is chosen."""
        number = home_partition(key, self._parts.partition_count())
        hops = own_header(job.letter.headers, HOPS_HEADER) if job.source != "tasks" else 0
        if number == self._number or (hops or 0) >= MAX_HOPS:
            return False
        self._desk.end(job, self._tell.forwarded(job, key, agent_id, (hops or 0) + 1, number), moved=True)
        return True

    def _look_up(self, job: Job) -> None:
        """The agent may have been registered a moment ago: read the topic to its end before saying no."""

        async def look() -> None:
            await self._parts.agents.catch_up()
            if not self._closed:
                self._desk.guarded(job.letter, lambda: self.route(job, looked_up=True))

        task = asyncio.get_running_loop().create_task(look())
        self._lookups.add(task)
        task.add_done_callback(self._lookups.discard)
