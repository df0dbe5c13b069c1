"""What is told of a task: the records of its end, for the transaction, and the progress events and metrics beside it.

In: a job, and what happened to it. Out: records to write with the end of its intake record; events go out at once. It decides
nothing and holds nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from agents_io.errors import AgentError, AnswerTooLarge
from agents_io.rules.breaker import Transition
from agents_io.ticket import Ticket
from schemas.codec import Rejected, dumps
from schemas.messages import EventType
from schemas.times import format_time
from streams.dispatch.jobs import Job
from streams.dispatch.parts import Parts
from streams.dispatch.queues import Parking
from streams.rules.plans.task_plans import allowed_ms, plan_for
from streams.rules.plans.templates import Template
from streams.rules.records import AWAIT_HEADER, LARGE_BYTES, Letter, Output, Spent, Success
from streams.rules.spans import Ending, ended_in
from streams.rules.trace import trace_of

if TYPE_CHECKING:
    from streams.tracing.spans import WorkSpan

CIRCUIT_EVENTS: dict[str, EventType] = {
    "open": "circuit:open",
    "half-open": "circuit:half-open",
    "close": "circuit:close",
}


class Outcomes:
    """Tells of the tasks of one home."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._loop = asyncio.get_running_loop()

    # On the way

    def started(self, job: Job) -> None:
        """The first call begins."""
        target = job.task.target
        if target is not None and job.task.type == "http":
            target = target.partition("?")[0]  # the rest may hold a secret
        data = {"taskId": job.task.id, "type": job.task.type, "target": target}
        self._event("task:started", job.task.id, data, span=job.span)

    def retrying(self, job: Job, attempt: int, delay_s: float) -> None:
        """Call number `attempt` failed; another follows."""
        data = {"taskId": job.task.id, "attempt": attempt, "delay": round(delay_s * 1000)}
        self._parts.metrics.retries.inc()
        self._event("task:retrying", job.task.id, data, f"/{attempt}", job.span)

    def circuit(self, agent_id: str, transition: Transition) -> None:
        """The circuit of an agent changed its state."""
        data: dict[str, Any] = {"agentId": agent_id}
        if transition.kind == "open":
            data["failures"] = transition.failures
        self._parts.metrics.circuit(transition.kind)
        self._event(CIRCUIT_EVENTS[transition.kind], agent_id, data, f"/{self._parts.wall_ms()}")

    # The end of a record

    def succeeded(self, job: Job, success: Success, ticket: Ticket) -> list[Output]:
        """An agent answered."""
        self._finished(job, "success")
        agent_id = job.agent_id or ""
        worth = self._parts.calibrated(agent_id, success.confidence)
        if job.span is not None:
            job.span.note(Ending("success", agent_id=agent_id, calls=ticket.attempt))
        return self._parts.recorder.succeeded(
            job.task, job.echo, agent_id, success, self._spent(job, ticket), False, self._parts.wall_ms(), worth
        )

    def repeated(self, job: Job, agent_id: str, success: Success) -> list[Output]:
        """The answer was known: no call."""
        self._parts.metrics.cache_hits.inc()
        self._event("task:cache-hit", job.task.id, {"taskId": job.task.id}, span=job.span)
        self._finished(job, "success")
        if job.span is not None:
            job.span.note(Ending("success", agent_id=agent_id, cached=True, confidence=success.confidence))
        worth = self._parts.calibrated(agent_id, success.confidence)
        return self._parts.recorder.succeeded(
            job.task, job.echo, agent_id, success, self._spent(job, None), True, self._parts.wall_ms(), worth
        )

    def not_cached(self, job: Job) -> None:
        """The cache was asked and an agent must be."""
        if job.key is not None:
            self._parts.metrics.cache_misses.inc()

    def failed(self, job: Job, error: AgentError, ticket: Ticket | None) -> list[Output]:
        """There is no answer. `ticket`: None if it never came to an agent."""
        self._finished(job, "failure")
        spoke = ticket is not None and ticket.attempt > 0 and error.counts_against_agent
        if job.span is not None:
            job.span.note(ended_in(error.code, job.agent_id, None if ticket is None else ticket.attempt))
        return self._parts.recorder.failed(
            job.task, job.echo, error.as_task_error(job.agent_id), self._spent(job, ticket), self._parts.wall_ms(),
            spoke=spoke,
        )  # fmt: skip

    def refused(self, letter: Letter, rejected: Rejected) -> list[Output]:
        """A record that is no task."""
        self._parts.metrics.dead_letters.labels(rejected.stage).inc()
        return self._parts.recorder.dead_letter(letter, rejected.stage, rejected.reason, self._parts.wall_ms())

    def duplicate(self, job: Job) -> list[Output]:
        """Another record with this task id answers, or has answered."""
        self._parts.metrics.duplicates.inc()
        self._note(job, "duplicate")
        return [self._parts.recorder.duplicate(job.letter, job.task.id, self._parts.wall_ms())]

    def forwarded(self, job: Job, key: str, agent_id: str | None, hops: int, number: int) -> list[Output]:
        """The task goes to the home `number`, that of `key`."""
        self._parts.metrics.forwarded.inc()
        self._note(job, "forwarded")
        now_ms = self._parts.wall_ms()
        return [
            self._parts.recorder.forward(job.letter, key, agent_id, job.expires_ms, hops, number, now_ms, job.attempts)
        ]

    def handed_over(self, job: Job, template: Template) -> list[Output]:
        """The plan coordinator runs this task's template and answers it."""
        self._parts.metrics.handed_over.inc()
        self._note(job, "handed-over")
        now_ms, accepted_ms = self._parts.wall_ms(), job.expires_ms - job.allowed_ms
        expires_ms = accepted_ms + allowed_ms(job.task, template, job.allowed_ms)
        plan = plan_for(job.task, job.echo, accepted_ms, expires_ms)
        output = self._parts.recorder.message("plans", plan["id"], dumps(plan), now_ms)
        trace = trace_of(job.letter.headers)
        output.headers += [] if trace is None else trace.headers()
        if output.size > LARGE_BYTES:
            error = AnswerTooLarge(f"the task of {output.size} bytes is larger than the plans topic accepts")
            output.fallback = self._parts.recorder.failed(
                job.task, {}, error.as_task_error(None), self._spent(job, None), now_ms
            )[0]
        return [output]

    def parked(self, job: Job, ticket: Ticket, parking: Parking) -> list[Output]:
        """The task waits on the `parked` topic."""
        now_ms, agent_id = self._parts.wall_ms(), job.agent_id or ""
        until = format_time(parking.due_ms)
        data = {"taskId": job.task.id, "agentId": agent_id, "reason": parking.reason, "until": until}
        self._parts.metrics.parked.labels(parking.reason).inc()
        self._note(job, "parked")
        self._event("task:parked", job.task.id, data, f"/{parking.due_ms}", job.span)
        return [
            self._parts.recorder.park(
                job.letter, job.task.id, agent_id, job.expires_ms, parking.due_ms, parking.parks, ticket.attempt, now_ms
            )
        ]

    def awaits(self, job: Job, agent_id: str, due_ms: int) -> list[Output]:
        """The task waits on the `parked` topic for any agent. `agent_id`: one chosen before, which is gone; or empty."""
        now_ms = self._parts.wall_ms()
        data = {"taskId": job.task.id, "agentId": None, "reason": "no_agent", "until": format_time(due_ms)}
        self._parts.metrics.parked.labels("no_agent").inc()
        self._note(job, "parked")
        self._event("task:parked", job.task.id, data, f"/{due_ms}", job.span)
        output = self._parts.recorder.park(
            job.letter, job.task.id, agent_id, job.expires_ms, due_ms, 0, job.attempts, now_ms
        )
        output.headers.append((AWAIT_HEADER, b"1"))
        return [output]

    def moved(self, job: Job, ticket: Ticket, token: str) -> Output:
        """The record that takes this one's place while the call goes on; another owner would make the call again."""
        now_ms = self._parts.wall_ms()
        return self._parts.recorder.park(
            job.letter, job.task.id, job.agent_id or "", job.expires_ms, now_ms, job.parks, max(0, ticket.attempt - 1), now_ms,
            token,
        )  # fmt: skip

    def _event(
        self, kind: EventType, subject: str, data: dict[str, Any], tail: str = "", span: WorkSpan | None = None
    ) -> None:
        output = self._parts.recorder.event(kind, subject, data, self._parts.wall_ms(), tail=tail)
        if span is not None:
            span.stamp(output)
        self._parts.emit(output)

    @staticmethod
    def _note(job: Job, outcome: str) -> None:
        if job.span is not None:
            job.span.note(Ending(outcome))

    def _finished(self, job: Job, status: str) -> None:
        self._parts.metrics.finished(status, self._loop.time() - job.came)

    def _spent(self, job: Job, ticket: Ticket | None) -> Spent:
        now = self._loop.time()
        if ticket is None or ticket.attempt == 0:
            return Spent((now - job.came) * 1000)
        return Spent((now - ticket.first_call_at) * 1000, ticket.attempt - 1, (now - ticket.last_call_at) * 1000)
