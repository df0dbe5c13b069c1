"""Pattern tasks that name a local template: each becomes a plan of one step, which answers the task. Pure.

In: a task, the templates a worker knows, its times (epoch ms). Out: the plan for the topic `plans`, and back: the task
a plan answers, and the task's end from the plan's. Ids that begin with `task:` are reserved for such plans, one for
each task id; from any other sender they are refused. It runs nothing and writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

from schemas.codec import Rejected, validate
from schemas.messages import MAX_DURATION_MS, Plan, Task, TaskError, shown
from schemas.times import format_time
from streams.rules.plans.run import Over, PlanRun
from streams.rules.plans.step_graph import End
from streams.rules.plans.step_ids import step_of
from streams.rules.plans.templates import Template, Templates
from streams.rules.task_records import EchoedMetadata

PREFIX: Final = "task:"
LONG_ID = 200


@dataclass(frozen=True, slots=True)
class OriginTask:
    """The task a plan answers, and its times as epoch ms.

    `submitted_ms`: the timestamp of its first record, None if unknown; `accepted_ms`: when dispatch took it; `expires_ms`: its
    deadline. `refused`: how it ends without a run.
    """

    task: Task
    echo: EchoedMetadata
    submitted_ms: int | None
    accepted_ms: int
    expires_ms: int
    refused: TaskError | None = None

    @property
    def wait_ms(self) -> int | None:
        """From its record's timestamp until dispatch took it, ms."""
        return None if self.submitted_ms is None else max(0, self.accepted_ms - self.submitted_ms)

    @property
    def agent_id(self) -> str:
        """The `agentId` of its result: the same for every executor of the pattern."""
        return f"pattern:{self.task.target}"[:256]


def plan_of(task_id: str) -> str:
    """The id of the plan that answers a task: unique for each task, and never a user's plan.

    >>> plan_of("t1")
    'task:t1'
    >>> len(plan_of("x" * 200)) < len(plan_of("x" * 201)) == len(plan_of("y" * 256)) <= 256
    True
    """
    if len(task_id) <= LONG_ID:
        return PREFIX + task_id
    return f"{PREFIX}{task_id[:LONG_ID]}~{blake2b(task_id.encode(), digest_size=16).hexdigest()}"


def template_for(task: Task, templates: Templates) -> Template | None:
    """The local template that runs this task, if there is one.

    None for the step of a plan: the coordinator itself has run those it knows, which also prevents templates from
    calling each other in a cycle.
    """
    if task.type != "pattern" or task.target is None or task.target not in templates:
        return None
    if step_of(task.plan_id, task.id):
        return None
    return templates[task.target]


def ends_at(task: Task, template: Template, accepted_ms: int, deadline_ms: int | None) -> int:
    """When the task must have ended, epoch ms: its deadline, and the time its pattern may take once it runs.

    >>> task = Task(id="t", type="pattern", target="p", payload=1)
    >>> ends_at(task, {"plan": {"timeout": 500}}, 1000, None), ends_at(task, {"plan": {}}, 1000, 1200)
    (1500, 1200)
    """
    own: int | None = task.metadata.timeout or template["plan"].get("timeout")
    bounds = [accepted_ms + (own or MAX_DURATION_MS)]
    if deadline_ms is not None:
        bounds.append(deadline_ms)
    return min(bounds)


def refuse_step(task: Task) -> None:
    """A user's task with a planId and the id of one of that plan's steps would end the step. Raises `Rejected`."""
    if step_of(task.plan_id, task.id):
        raise Rejected(
            "validate",
            f"id: {shown(task.id)} with planId {shown(task.plan_id)} is a step of that plan, which only the plan coordinator "
            "sends; choose another id",
        )


def plan_for(
    task: Task,
    echo: EchoedMetadata,
    submitted_ms: int,
    accepted_ms: int,
    expires_ms: int,
    refused: TaskError | None = None,
) -> dict[str, Any]:
    """The plan of a task, as JSON. `echo`: the metadata its result repeats. `refused`: how it ends without a run.

    >>> found = plan_for(Task(id="t", type="pattern", target="p", payload=1), {}, 0, 0, 30_000)
    >>> found["id"], found["tasks"]
    ('task:t', [{'id': 't', 'type': 'pattern', 'target': 'p', 'payload': 1, 'metadata': {'timeout': 30000}}])
    """
    step: dict[str, Any] = {"id": task.id, "type": task.type, "target": task.target, "payload": task.payload}
    if task.context is not None:
        step["context"] = task.context
    step["metadata"] = {"timeout": max(1, min(expires_ms - accepted_ms, MAX_DURATION_MS))}
    answers: dict[str, Any] = {
        "submitted": format_time(submitted_ms),
        "accepted": format_time(accepted_ms),
        "expires": format_time(expires_ms),
        "metadata": echo,
    }
    if task.plan_id is not None:
        answers["planId"] = task.plan_id
    if refused is not None:
        # A coordinator of an older version reads the time alone: it does not run the pattern either.
        answers |= {"refused": refused.wire(), "expires": answers["accepted"]}
        step["payload"] = None
        step.pop("context", None)
    return {"id": plan_of(task.id), "kind": "sequential", "tasks": [step], "answers": answers}


def origin_of(data: Mapping[str, Any]) -> OriginTask | None:
    """The task that a plan answers; None for a user's own plan. Raises `Rejected` for a false claim."""
    name = data.get("id")
    if data.get("answers") is None:
        if isinstance(name, str) and name.startswith(PREFIX):
            raise Rejected("validate", f"id: must not begin with {PREFIX!r}: such plans answer tasks of that id")
        return None
    plan = validate(Plan, data)
    task, answers = plan.tasks[0], plan.answers
    if answers is None or len(plan.tasks) != 1 or task.type != "pattern" or plan.id != plan_of(task.id):
        raise Rejected("validate", "answers: only the plan of a single pattern task has this, under the id of its task")
    origin = {"id": task.id, "type": "pattern", "target": task.target, "payload": None, "metadata": answers.metadata}
    if answers.plan_id is not None:
        origin["planId"] = answers.plan_id
    refused = None if answers.refused is None else validate(TaskError, answers.refused)
    return OriginTask(
        validate(Task, origin), answers.metadata, answers.submitted, answers.accepted, answers.expires, refused
    )


def timed(data: Mapping[str, Any], origin: OriginTask, now_ms: int) -> dict[str, Any]:
    """The plan with the rest of its task's time as its own timeout."""
    return {**data, "timeout": max(1, min(origin.expires_ms - now_ms, MAX_DURATION_MS))}


def end_of(origin: OriginTask, run: PlanRun, over: Over) -> End:
    """How the task of an ended plan ends: as its step did, or by what ended the plan from outside."""
    end = run.graph.ends[0]
    if end is not None:
        return end
    error = dict(over.verdict.error or {})
    if over.verdict.status == "timeout":
        error["message"] = f"the pattern did not end within {origin.expires_ms - origin.accepted_ms} ms"
    return End({"status": over.verdict.status, "error": error})


def error_of(origin: OriginTask, end: End) -> TaskError:
    """The error of a task with this end."""
    given = end.wire.get("error") or {}
    return TaskError(
        code=given.get("code", "internal"),
        message=str(given.get("message", "")),
        retryable=bool(given.get("retryable")),
        agent_id=origin.agent_id,
    )
