"""Publishes what happens to a plan: its start, its progress, its end, or why it was refused; and counts metrics.

In: a plan, and what happened to it. Out: records for the transaction; progress is sent at once. For a plan that answers
a task, the task is reported and not the plan. It decides nothing and holds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from schemas.codec import Rejected, dumps, pack
from streams.plans.memory import Active
from streams.plans.parts import PlanParts
from streams.plans.spans import marked
from streams.rules.plans.blueprint import likely_kind
from streams.rules.plans.result import plan_result, progress, refused
from streams.rules.plans.run import Action, Over, PlanRun, StartStep
from streams.rules.plans.task_plans import OriginTask
from streams.rules.records import Output
from streams.rules.source_record import SourceRecord

PROGRESS_PARTS = 20
"""The most progress events of one plan."""


class PlanOutcomes:
    """Reports on the plans of one partition."""

    def __init__(self, parts: PlanParts) -> None:
        self._parts = parts

    def began(self, active: Active, actions: Sequence[Action], now_ms: int) -> list[Output]:
        """The plan was accepted, and these are its first actions. A task whose pattern cannot begin never started."""
        plan, origin, recorder = active.run.plan, active.origin, self._parts.recorder
        if origin is None:
            data: dict[str, Any] = {"planId": plan.id, "kind": plan.kind, "tasks": len(plan.steps)}
            return marked(active, [recorder.event("plan:started", plan.id, data, now_ms)])
        if not any(isinstance(action, StartStep) for action in actions):
            return []
        data = {"taskId": origin.task.id, "type": "pattern", "target": origin.task.target}
        return marked(active, [recorder.event("task:started", origin.task.id, data, now_ms)])

    def progressed(self, active: Active, now_ms: int) -> None:
        """Best effort: for every step of a small plan, for every twentieth of a large one."""
        graph = active.run.graph
        if active.run.over or graph.done - active.published_steps < max(1, len(graph.ends) // PROGRESS_PARTS):
            return
        active.published_steps = graph.done
        data = progress(active.run)
        event = self._parts.recorder.event("plan:progress", active.run.plan.id, data, now_ms, tail=f"/{graph.done}")
        marked(active, [event])
        self._parts.emit(event)

    def ended(self, active: Active, over: Over, now_ms: int) -> tuple[list[Output], bytes]:
        """The plan's end, and the JSON that its page shows from now on."""
        run, metrics = active.run, self._parts.metrics
        metrics.plans.labels(over.verdict.status).inc()
        metrics.active.dec()
        metrics.duration.observe(run.age_ms(now_ms) / 1000)
        if active.origin is None:
            outputs = self._parts.recorder.ended(run, over, now_ms)
            return outputs, outputs[0].value or b""
        page = pack(plan_result(run, over, now_ms))
        return self._parts.recorder.answered(active.origin, run, over, now_ms), page

    def refused(
        self, plan_id: str, data: Mapping[str, Any], origin: OriginTask | None, code: str, reason: str, now_ms: int
    ) -> tuple[list[Output], bytes]:
        """The plan cannot run; outputs and page as for an end."""
        self._parts.metrics.plans.labels("failure").inc()
        wire = refused(plan_id, likely_kind(data), code, reason, now_ms)
        if origin is None:
            return self._parts.recorder.refused(wire, now_ms), dumps(wire)
        return self._parts.recorder.unanswered(origin, code, reason, now_ms), dumps(wire)

    def duplicate(self, record: SourceRecord, plan_id: str, origin: OriginTask | None, now_ms: int) -> list[Output]:
        """A plan of this id is under way, or has its result."""
        self._parts.metrics.duplicates.inc()
        if origin is None:
            return [self._parts.recorder.plan_duplicate(record, plan_id, now_ms)]
        return [self._parts.recorder.duplicate(record, origin.task.id, now_ms)]

    def rejected(self, record: SourceRecord, rejected: Rejected, now_ms: int) -> list[Output]:
        """The record is not a plan."""
        self._parts.metrics.dead_letters.inc()
        return self._parts.recorder.dead_letter(record, rejected.stage, rejected.reason, now_ms)


def why_stopped(run: PlanRun) -> str:
    """The reason in the cancel request that ends a step's task."""
    if run.over is None:
        return "its pattern has ended"
    if run.over.verdict.status == "success":
        return "its plan has its answer"
    return str((run.over.verdict.error or {}).get("message", "its plan has ended"))
