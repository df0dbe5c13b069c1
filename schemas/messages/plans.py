"""Plans and their results."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from schemas.messages.base import DurationMs, Id, Message, Milliseconds, OrDefault, Ratio, Timestamp
from schemas.messages.tasks import Result, ResultStatus, Task, TaskError

PlanKind = Literal["parallel", "sequential", "dag"]
Strategy = Literal["all", "race", "allSettled", "weighted"]


class AnsweredTask(Message):
    """The pattern task that a plan answers; written by dispatch alone."""

    plan_id: Id | None = None
    submitted: Timestamp | None = None
    """The timestamp of the task's first record; missing in plans of older versions."""
    accepted: Timestamp
    expires: Timestamp
    metadata: dict[str, Any] = {}
    refused: dict[str, Any] | None = None
    """The error with which the task ends without a run of its pattern."""


class Plan(Message):
    """Tasks that belong together; how they run is set by `kind` or, when missing, derived from the other fields."""

    id: Id
    kind: PlanKind | None = None
    tasks: Annotated[list[Task], Field(min_length=1, max_length=10_000)]
    strategy: Strategy | None = None
    max_concurrency: Annotated[int, Field(ge=1, le=10_000), OrDefault] = 10
    continue_on_error: bool | None = None
    timeout: DurationMs | None = None
    metadata: dict[str, Any] | None = None
    answers: AnsweredTask | None = None
    """Not for users: the task that gets a `Result` in place of a `PlanResult`."""


class ResultsAt(Message):
    """Where the results of a plan's steps are if they are too many for one record: a topic, and their key there."""

    topic: str
    key: str


class PlanResult(Message):
    """The one terminal answer of a plan; `results` in the order of the plan's tasks, or none and a `reference` to them."""

    plan_id: Id
    kind: PlanKind
    strategy: Strategy | None = None
    status: ResultStatus
    results: list[Result]
    result: Any = None
    confidence: Ratio | None = None
    error: TaskError | None = None
    reference: ResultsAt | None = None
    execution_time: Milliseconds
    timestamp: Timestamp
