"""Tasks that name no agent, when the one chosen takes no call: another one, or a wait for any.

In: a job, and why it cannot go on where it is. Out: the agent to try instead, until when it should wait, or neither. A task
goes elsewhere only while a call of it may still be made, a bounded number of times, never while one is under way. It moves
nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from agents_io.caller import Caller
from agents_io.errors import AgentError, CircuitOpen, RateLimited
from agents_io.ticket import Ticket
from schemas.codec import Rejected, decode_json, header, validate
from schemas.messages import AgentRegistration, Task
from streams.dispatch.jobs import Job
from streams.dispatch.parts import Parts
from streams.rules.parking import await_until
from streams.rules.records import AWAIT_HEADER, HOPS_HEADER, Letter, own_header
from streams.rules.routing import MAX_HOPS, MAX_REROUTES


class Detours:
    """Decides for one home."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def other(self, job: Job, ticket: Ticket) -> AgentRegistration | None:
        """Another agent for a task whose present one takes no call."""
        hops = own_header(job.letter.headers, HOPS_HEADER) if job.source != "tasks" else 0
        if job.task.target is not None or job.token is not None or ticket.cancelled:
            return None
        if job.reroutes >= MAX_REROUTES or (hops or 0) >= MAX_HOPS - 1:
            return None
        agent = self._parts.balancer.choose(job.task, without=(job.agent_id or "",))
        if agent is not None:
            job.reroutes += 1
            job.attempts = ticket.attempt
            self._parts.metrics.rerouted.inc()
        return agent

    @staticmethod
    def worth(job: Job, ticket: Ticket, error: AgentError, caller: Caller | None, now: float) -> bool:
        """Whether a failed task might fare better elsewhere: it still has a try, which its agent would not take."""
        if job.task.target is not None or not error.retryable or ticket.attempt > ticket.max_retries:
            return False
        if now >= ticket.deadline or caller is None:
            return False
        return isinstance(error, CircuitOpen | RateLimited) or caller.lane.breaker.shut_until(now) > now

    def wait_until_ms(self, job: Job, known: bool) -> int | None:
        """Until when a task waits that no agent can take now (epoch ms), or None. `known`: there are capable ones."""
        mode = self._parts.settings.dispatch.await_agent
        if job.task.target is not None or mode == "never" or (mode == "unavailable" and not known):
            return None
        due_s = await_until(self._parts.wall_ms() / 1000, job.expires_ms / 1000)
        return None if due_s is None else round(due_s * 1000)

    @staticmethod
    def wanted_by(agent: AgentRegistration) -> Callable[[Letter], bool]:
        """Which of the parked tasks wait for an agent like this one."""
        offered = set(agent.capabilities)

        def wanted(letter: Letter) -> bool:
            if header(letter.headers, AWAIT_HEADER) is None:
                return False
            try:
                task = validate(Task, decode_json(letter.value, letter.headers).data)
            except Rejected:
                return True  # it is refused where it is begun
            return offered >= set(task.capabilities or ())

        return wanted
