"""The `PlanResult` of a plan that has ended, and the view of one that runs. Pure.

In: a `PlanRun`. Out: JSON-able dicts. `results` has one `Result` for each task, in the order of the plan, under the
task's own id; for a task that did not end by itself, one with the reason (`cancelled`). An answer that was dropped from
memory, or that makes the record too large, is replaced by `metadata.reference`: the position of its own record on
`results`.
"""

from __future__ import annotations

from typing import Any

import orjson

from schemas.times import format_time
from streams.rules.plans.context import reference
from streams.rules.plans.run import Over, PlanRun
from streams.rules.plans.step_graph import SKIPPED, End, StepGraph

MAX_VIEW_STEPS = 1000


def plan_result(run: PlanRun, over: Over, now_ms: int, whole: bool = True, each: bool = True) -> dict[str, Any]:
    """The result. `whole` False: references in place of all answers; `each` False: no results of steps at all."""
    plan, answer = run.plan, over.outcome
    wire: dict[str, Any] = {"planId": plan.id, "kind": plan.kind}
    if plan.strategy is not None:
        wire["strategy"] = plan.strategy
    wire["status"] = over.verdict.status
    wire["results"] = [_step_result(run, n, over, now_ms, whole) for n in range(len(plan.steps))] if each else []
    if answer.value is not None and whole:
        wire["result"] = orjson.Fragment(answer.value)
    if answer.confidence is not None:
        wire["confidence"] = answer.confidence
    if over.verdict.error is not None:
        wire["error"] = over.verdict.error
    if not each:
        wire["reference"] = {"topic": "results", "key": plan.id}
    wire |= {"executionTime": run.age_ms(now_ms), "timestamp": format_time(now_ms)}
    return wire


def refused(plan_id: str, kind: str, code: str, reason: str, now_ms: int) -> dict[str, Any]:
    """The result of a plan that cannot be run."""
    return {
        "planId": plan_id,
        "kind": kind,
        "status": "failure",
        "results": [],
        "error": {"code": code, "message": reason, "retryable": False},
        "executionTime": 0,
        "timestamp": format_time(now_ms),
    }


def _step_result(run: PlanRun, index: int, over: Over, now_ms: int, whole: bool) -> dict[str, Any]:
    step, end = run.plan.steps[index], run.graph.ends[index]
    given = step.task.get("metadata") or {}
    metadata = {name: value for name, value in given.items() if name != "headers"} if whole else {}
    wire: dict[str, Any] = {"taskId": step.id, "planId": run.plan.id}
    if end is None or end is SKIPPED:
        error = {"code": "cancelled", "message": _why_not(run.graph, index, end, over), "retryable": False}
        wire |= {"status": "cancelled", "error": error, "executionTime": 0, "retries": 0, "cached": False}
        wire |= {"timestamp": format_time(now_ms), "metadata": metadata}
        return wire
    wire |= end.wire
    if end.dropped or (end.value is not None and not whole):
        metadata["reference"] = reference(end)
    elif end.value is not None:
        wire["result"] = orjson.Fragment(end.value)
    wire["metadata"] = metadata
    return wire


def _why_not(graph: StepGraph, index: int, end: End | None, over: Over) -> str:
    if end is SKIPPED:
        at = index  # back along the skipped ones to the step that failed
        while True:
            at = next(n for n in graph.blueprint.steps[at].needs if graph.failed(n))
            if graph.ends[at] is not SKIPPED:
                return f"skipped: it depends on {graph.blueprint.steps[at].id!r}, which did not succeed"
    begun = "stopped" if graph.started[index] else "not started"
    if over.verdict.status == "success":
        return f"{begun}: the plan had its answer"
    message = (over.verdict.error or {}).get("message", "")
    return f"{begun}: {message}"


def progress(run: PlanRun) -> dict[str, Any]:
    """The progress of a plan: planId, done, failed, total."""
    graph = run.graph
    failed = sum(1 for n in range(len(graph.ends)) if graph.failed(n))
    return {"planId": run.plan.id, "done": graph.done, "failed": failed, "total": len(graph.ends)}


def view(run: PlanRun) -> dict[str, Any]:
    """A running plan, for people."""
    graph, plan = run.graph, run.plan
    steps = []
    for n, step in enumerate(plan.steps[:MAX_VIEW_STEPS]):
        end = graph.ends[n]
        state = "running" if end is None and graph.started[n] else "waiting"
        row: dict[str, Any] = {"taskId": step.id, "status": state if end is None else end.status}
        if step.needs:
            row["dependencies"] = [plan.steps[other].id for other in step.needs]
        if end is not None:
            row |= {k: end.wire[k] for k in ("confidence", "agentId", "executionTime", "error") if k in end.wire}
        steps.append(row)
    found: dict[str, Any] = {"planId": plan.id, "kind": plan.kind, "status": "running"}
    if plan.strategy is not None:
        found["strategy"] = plan.strategy
    found |= progress(run) | {"inFlight": graph.in_flight}
    found |= {"acceptedAt": format_time(run.accepted_ms), "dueAt": format_time(run.due_ms), "steps": steps}
    return found
