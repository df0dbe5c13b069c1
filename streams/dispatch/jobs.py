"""From a record to a job, and from a job to an agent's ticket.

In: the bytes and headers of an intake record. Out: a validated `Job`, or `Rejected` naming field and reason. It calls nobody.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import orjson

from agents_io.ticket import Ticket
from schemas.codec import decode_json, dumps, validate
from schemas.messages import Task
from streams.rules.builtins import asked_of
from streams.rules.plans.run import looks_like_step, step_of
from streams.rules.plans.task_plans import refuse_step
from streams.rules.records import (
    ATTEMPTS_HEADER,
    EXPIRES_HEADER,
    PARKS_HEADER,
    Echo,
    Letter,
    Output,
    from_coordinator,
    own_header,
)
from streams.rules.trace import trace_of

if TYPE_CHECKING:
    from streams.tracing.spans import WorkSpan


@dataclass(slots=True)
class Job:
    """One task under a home. `came`: loop time of intake, seconds. `expires_ms`: its deadline, epoch ms.

    `allowed_ms`: the time it had in all when its clock began, here or at an earlier intake.
    """

    source: str
    offset: int
    task: Task
    echo: Echo
    letter: Letter
    body: bytes
    came: float
    expires_ms: int
    allowed_ms: int
    key: str | None = None
    agent_id: str | None = None
    ticket: Ticket | None = None
    parks: int = 0
    attempts: int = 0
    """Calls made before it was parked, or sent on to another agent."""
    reroutes: int = 0
    """How often another agent was chosen for it under this owner."""
    claims: list[tuple[bytes, bool]] = field(default_factory=list)
    """Digests of its id that this home holds for it, and whether each outlives a move to another topic."""
    token: str | None = None
    """What the record carries that takes this one's place, until it has come."""
    outcome: tuple[list[Output], bool] | None = None
    """Its end, if it came before that record."""
    span: WorkSpan | None = None
    """Of the work on it; None: nobody wants spans."""

    @property
    def claimed_id(self) -> str:
        """The id under which it is answered once: a user's `p#0` and the step `p#0` of plan p are two tasks."""
        name = self.task.id
        return f"\0{name}" if looks_like_step(name) and not step_of(self.task.plan_id, name) else name


def read_job(letter: Letter, came: float, now_ms: int, default_timeout_ms: int) -> Job:
    """The task a record holds. Its deadline runs from the first intake: a forward carries it on. Raises `Rejected`."""
    decoded = decode_json(letter.value, letter.headers).data
    task = validate(Task, decoded)
    if letter.topic == "tasks" and not from_coordinator(letter.headers):
        refuse_step(task)
    expires_ms = own_header(letter.headers, EXPIRES_HEADER) if letter.topic != "tasks" else None
    given = decoded.get("metadata")
    # What an http task sends may hold secrets of the caller's: it is not repeated on the result.
    unsaid = ("headers", "query") if task.type == "http" else ("headers",)
    echo: Echo = orjson.Fragment(dumps({k: v for k, v in given.items() if k not in unsaid})) if given else {}
    body = dumps(asked_of(task, asked(task)))
    timeout_ms = task.metadata.timeout or default_timeout_ms
    job = Job(
        letter.topic, letter.offset, task, echo, letter, body, came, expires_ms or now_ms + timeout_ms, timeout_ms
    )
    if letter.topic == "parked":
        job.parks = own_header(letter.headers, PARKS_HEADER) or 0
    if letter.topic != "tasks":
        job.attempts = own_header(letter.headers, ATTEMPTS_HEADER) or 0
    return job


def ticket_for(job: Job, deadline: float, default_retries: int) -> Ticket:
    """What the agent's caller needs of a job. `deadline`: loop time, seconds."""
    metadata = job.task.metadata
    return Ticket(
        task_id=job.task.id,
        idempotency_key=metadata.idempotency_key or job.task.id,
        body=job.body,
        taken_at=min(job.came, deadline - job.allowed_ms / 1000),
        deadline=deadline,
        priority=metadata.priority,
        max_retries=default_retries if metadata.retries is None else metadata.retries,
        work=job,
        attempt=job.attempts,
        hedge=bool(metadata.hedge),
        headers=_trace(job.letter.headers) if job.span is None else (),
        watch=job.span,
        pattern_name=metadata.pattern_name or "",
    )


def asked(task: Task) -> Any:
    """What the agent is sent: the payload, and the context where there is one."""
    if task.context is None:
        return task.payload
    if isinstance(task.payload, dict):
        return {**task.payload, "context": task.context}
    return {"payload": task.payload, "context": task.context}


def _trace(headers: tuple[tuple[str, bytes], ...]) -> tuple[tuple[str, str], ...]:
    """The trace context of the record for the agent; a new one (not sampled) where there is none that is valid."""
    found = trace_of(headers)
    if found is None:
        return (("traceparent", f"00-{token_hex(16)}-{token_hex(8)}-00"),)
    return tuple((name, value.decode()) for name, value in found.headers())
