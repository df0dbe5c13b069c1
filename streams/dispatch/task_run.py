"""From a record to a task run: the object that represents a task from intake to end on this worker.

In: the bytes and headers of an intake record. Out: a validated `TaskRun`, or `Rejected` naming field and reason. No
calls.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import orjson

from agents_io.calling.pending_call import PendingCall
from schemas.codec import decode_json, dumps, header, validate
from schemas.messages import AgentRegistration, Task
from streams.rules.dispatch.builtins import asked_of
from streams.rules.dispatch.deadlines import deadline_ms
from streams.rules.dispatch.delaying import TASK_BYTES
from streams.rules.dispatch.judging import Judged, judge_body, read_judged
from streams.rules.dispatch.ordering import LogPosition, first_record_of
from streams.rules.plans.step_ids import looks_like_step, step_of
from streams.rules.plans.task_plans import refuse_step
from streams.rules.records import Carried, Output
from streams.rules.source_record import (
    AGENT_HEADER,
    ATTEMPTS_HEADER,
    CANCELLED_HEADER,
    EXPIRES_HEADER,
    HOPS_HEADER,
    INTERNAL_SOURCES,
    JUDGED_HEADER,
    NOT_BEFORE_HEADER,
    ORIGIN_HEADER,
    SourceRecord,
    from_coordinator,
    own_header,
)
from streams.rules.task_records import EchoedMetadata
from streams.rules.tracing.trace import trace_of

if TYPE_CHECKING:
    from streams.dispatch.ordered_key import OrderedKey
    from streams.settings import Settings
    from streams.tracing.spans import WorkSpan

_NO_RECORD = LogPosition("tasks", 0)


@dataclass(slots=True, eq=False, kw_only=True)
class TaskRun(PendingCall):
    """One task on this worker. `origin_ms`: the timestamp of its first record; `deadline_ms`: None without one; both
    epoch ms.

    `admitted_at`: loop time of intake, seconds. `source` and `offset` name its record, which changes when it is
    relocated.
    """

    source: str
    offset: int
    task: Task
    echo: EchoedMetadata
    record: SourceRecord
    admitted_at: float
    origin_ms: int
    deadline_ms: int | None
    size: int
    """Estimated bytes in memory."""
    hops: int = 0
    chosen: str = ""
    """The agent that was chosen before this record was written; empty: none. Its id was then found to be new."""
    reloaded: str | None = None
    """What it waited for on its topic, if it was read back for its turn."""
    judged: Judged | None = None
    """The answer that the agent called here must judge; None: the agent answers the task itself."""
    waited_for_agent: bool = False
    """It has waited here among the tasks without an agent."""
    cache_key: str | None = None
    agent_id: str | None = None
    held_for: str | None = None
    """The agent whose share of the memory it counts in."""
    reroutes: int = 0
    """How often another agent was chosen for it under this owner."""
    claims: list[tuple[bytes, bool]] = field(default_factory=list)
    """Digests of its id that this partition holds for it, and whether each outlives a move to another topic."""
    token: str | None = None
    """Identifies the record that replaces this one, until it has come."""
    ending: tuple[list[Output], bool] | None = None
    """Its end, if it came before that record."""
    ordering_key: str | None = None
    """Tasks with the same one are called one at a time at an agent."""
    first_record: LogPosition = _NO_RECORD
    """For a task with an ordering key: the position of its record before it was relocated."""
    not_before_ms: int | None = None
    """No agent is called before this time, epoch ms; None: it may be called now, or its time has come."""
    cancel_reason: str | None = None
    """Why it was cancelled while it waited for its time, in a sentence; None: it was not."""
    ordered: OrderedKey[TaskRun] | None = None
    """The tasks of its key, while it is among them."""
    to_relocate: bool = False
    """Its record is to be relocated as soon as the task is here, and those of its key before it are relocated."""
    span: WorkSpan | None = None
    """The span of its processing; None: tracing is off."""

    @property
    def any_agent(self) -> bool:
        """Whether the task names capabilities and no agent."""
        return self.task.target is None

    @property
    def claimed_id(self) -> str:
        """The id under which it is answered once: a user's `p#0` and the step `p#0` of plan p are two tasks."""
        name = self.task.id
        return f"\0{name}" if looks_like_step(name) and not step_of(self.task.plan_id, name) else name

    def judge(self, agent: AgentRegistration | None) -> str | None:
        """The judge of this agent's answer; None without one. A judge's own answer is not judged."""
        source = None if agent is None or self.judged is not None else agent.confidence
        return None if source is None else source.agent

    def carried(self) -> Carried:
        """What its next record carries: first timestamp, deadline, attempts used up."""
        return Carried(self.origin_ms, self.deadline_ms, self.attempts)


def read_task(record: SourceRecord, now: float, now_ms: int, settings: Settings) -> TaskRun:
    """The task in a record. `now`: loop time, seconds; `now_ms`: epoch ms. Raises `Rejected`.

    A record that the pipeline itself wrote carries the deadline and the timestamp of the task's first record.
    """
    decoded = decode_json(record.value, record.headers)
    task = validate(Task, decoded.data)
    internal = record.topic in INTERNAL_SOURCES
    if not internal and not from_coordinator(record.headers):
        refuse_step(task)
    origin_ms = own_header(record.headers, ORIGIN_HEADER) if internal else None
    if origin_ms is None:
        origin_ms = min(record.timestamp_ms, now_ms) if record.timestamp_ms > 0 else now_ms
    if internal:
        ends_ms = own_header(record.headers, EXPIRES_HEADER)
    else:
        ends_ms = deadline_ms(task.metadata, decoded.attributes, origin_ms, settings.dispatch.max_wait)
    given = decoded.data.get("metadata")
    # What an http task sends may hold secrets of the caller's: it is not repeated on the result.
    unsaid = ("headers", "query") if task.type == "http" else ("headers",)
    echo: EchoedMetadata = orjson.Fragment(dumps({k: v for k, v in given.items() if k not in unsaid})) if given else {}
    answered = header(record.headers, JUDGED_HEADER) if internal else None
    judged = None if answered is None else read_judged(answered.encode())
    key, question = task.metadata.idempotency_key or task.id, asked_of(task, asked(task))
    metadata, attempts = task.metadata, (own_header(record.headers, ATTEMPTS_HEADER) or 0) if internal else 0
    return TaskRun(
        task_id=task.id,
        # The judge may be the same service, which would repeat its answer to a key that it knows.
        idempotency_key=key if judged is None else f"{key}/judge",
        body=dumps(question) if judged is None else judge_body(question, judged.answer),
        timeout_s=(metadata.timeout or settings.dispatch.default_timeout) / 1000,
        deadline=inf if ends_ms is None else now + (ends_ms - now_ms) / 1000,
        priority=metadata.priority,
        max_retries=settings.retry.max_retries if metadata.retries is None else metadata.retries,
        pattern_name=metadata.pattern_name or "",
        context_id="" if judged is not None else metadata.context_id or "",
        hedge=bool(metadata.hedge),
        calls=attempts,
        attempts=attempts,
        source=record.topic,
        offset=record.offset,
        task=task,
        echo=echo,
        record=record,
        admitted_at=now,
        origin_ms=origin_ms,
        deadline_ms=ends_ms,
        size=TASK_BYTES + 2 * len(record.value or b"") + sum(len(value or b"") for _, value in record.headers),
        hops=(own_header(record.headers, HOPS_HEADER) or 0) if internal else 0,
        chosen=(header(record.headers, AGENT_HEADER) or "") if internal else "",
        judged=judged,
        ordering_key=metadata.ordering_key,
        first_record=_NO_RECORD if metadata.ordering_key is None else first_record_of(record),
        not_before_ms=None if metadata.not_before is None else _not_before_ms(metadata.not_before, record, judged),
        cancel_reason=header(record.headers, CANCELLED_HEADER) if internal else None,
    )


def _not_before_ms(given_ms: int, record: SourceRecord, judged: Judged | None) -> int | None:
    """The time before which no agent is called. None for a task that was released: another worker's clock decided that.

    A task that was only forwarded may still have to wait, for example one that was cancelled, which the owner of its
    agent does not know yet.
    """
    if judged is not None or (
        record.topic in INTERNAL_SOURCES and own_header(record.headers, NOT_BEFORE_HEADER) is not None
    ):
        return None
    return given_ms


def asked(task: Task) -> Any:
    """What the agent is sent: the payload, with the context if there is one."""
    if task.context is None:
        return task.payload
    if isinstance(task.payload, dict):
        return {**task.payload, "context": task.context}
    return {"payload": task.payload, "context": task.context}


def trace_headers(headers: tuple[tuple[str, bytes], ...]) -> tuple[tuple[str, str], ...]:
    """The record's trace context for the agent; a new one (not sampled) without a valid one."""
    found = trace_of(headers)
    if found is None:
        return (("traceparent", f"00-{token_hex(16)}-{token_hex(8)}-00"),)
    return tuple((name, value.decode()) for name, value in found.headers())
