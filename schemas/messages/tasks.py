"""Tasks, requests about them, and their results."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from schemas.messages.base import Count, DurationMs, Id, Message, Milliseconds, Name, OrDefault, Ratio, Timestamp

TaskType = Literal["agent", "pattern", "http", "function"]
ResultStatus = Literal["success", "failure", "timeout", "cancelled"]
ErrorCode = Literal[
    "timeout",
    "connection",
    "http_5xx",
    "http_4xx",
    "rate_limited",
    "circuit_open",
    "bad_response",
    "refused",
    "no_agent",
    "cancelled",
    "expired",
    "forbidden_target",
    "unknown_function",
    "execution_failed",
    "too_large",
    "unsupported",
    "invalid_plan",
    "internal",
]


class TaskMetadata(Message):
    """How a task is run; fields of the user's own are kept and repeated on the result."""

    timeout: DurationMs | None = None
    """One attempt, from the begin of the call to its answer."""
    deadline: Timestamp | None = None
    """The whole task, waiting included; likewise `expiresIn`, counted from the record's timestamp."""
    expires_in: DurationMs | None = None
    not_before: Timestamp | None = None
    """No agent is called before this time."""
    retries: Annotated[int, Field(ge=0, le=100)] | None = None
    priority: Annotated[int, Field(ge=-1_000_000, le=1_000_000), OrDefault] = 0
    pattern_name: Name | None = None
    dependencies: list[Id] | None = None
    cache: Annotated[bool, OrDefault] = True
    hedge: bool | None = None
    ordering_key: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """An agent is called with one task of a key at a time, in order."""
    idempotency_key: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[\x21-\x7e]+$")] | None = None
    context_id: Id | None = None
    """The conversation of the task: sent to the agent; the answer does not come from the cache."""
    input: str | None = None
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"] | None = None
    headers: dict[str, str] | None = None
    query: dict[str, str] | None = None


_NO_METADATA = TaskMetadata()


class Task(Message):
    """One unit of work. `payload` is any JSON; an `agent` task may give `capabilities` in place of `target`."""

    id: Id
    type: TaskType
    target: Annotated[str, Field(min_length=1, max_length=2048)] | None = None
    payload: Any
    capabilities: Annotated[list[Name], Field(min_length=1, max_length=100)] | None = None
    plan_id: Id | None = None
    metadata: Annotated[TaskMetadata, OrDefault] = _NO_METADATA
    context: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _addressed(self) -> Self:
        if self.target is None and (self.type != "agent" or self.capabilities is None):
            wanted = "target or capabilities" if self.type == "agent" else "target"
            raise ValueError(f"target: a task of type {self.type!r} needs {wanted}")
        return self


class Control(Message):
    """A request: cancel one task or one plan, or clear the cached answers of one agent (without `agentId`: of all)."""

    type: Literal["cancel", "cache-clear"]
    task_id: Id | None = None
    plan_id: Id | None = None
    agent_id: Id | None = None
    reason: Annotated[str, Field(max_length=1024)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.type == "cancel" and (self.task_id is None) == (self.plan_id is None):
            raise ValueError("must name exactly one of taskId or planId")
        return self


class TaskError(Message):
    """Why a task has no answer: a code from the closed list, a message, and whether sending it again may help."""

    code: ErrorCode
    message: str
    retryable: bool
    agent_id: Id | None = None


class Result(Message):
    """The one terminal result of a task. `executionTime` in ms, from the begin of the first call to the end.

    `waitTime` in ms, from the timestamp of the task's record to the first call, or to the end without a call.
    """

    task_id: Id
    plan_id: Id | None = None
    status: ResultStatus
    result: Any = None
    error: TaskError | None = None
    confidence: Ratio | None = None
    calibrated_confidence: Ratio | None = None
    agent_id: Id | None = None
    execution_time: Milliseconds
    wait_time: Milliseconds | None = None
    retries: Count
    cached: bool
    timestamp: Timestamp
    metadata: dict[str, Any]
