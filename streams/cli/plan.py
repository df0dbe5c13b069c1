"""`parallax plan ID`: the state of a plan, step by step.

In: a plan id. Out: the state of its steps (waiting, running, ended and how), and its result. Reads `plans`, `results`,
`events` and `plan-results` once, to their ends. It asks no worker, so it also shows plans that ended long ago.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.listings import Found, matching_values
from streams.cli.options import NOT_FOUND, CommandError, Format, OutputFormat, Prefix, Servers, settings_from
from streams.cli.output import document, json_line, line, table
from streams.cli.running import run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streams.settings import Settings

MARKS = {"success": "✓", "failure": "✗", "timeout": "✗", "cancelled": "-", "running": "▶", "waiting": "·"}
MAX_WHY = 80


def plan(
    plan_id: Annotated[str, typer.Argument(metavar="ID")],
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """Show a plan and its steps.

    Their present state, found by reading the topics from their beginnings.
    """
    settings = settings_from(bootstrap_servers, topic_prefix)
    run(settings, _plan(settings, plan_id, output or Format.text))


async def _plan(settings: Settings, plan_id: str, form: Format) -> None:
    sent = await matching_values(settings, "plans", plan_id, lambda value: value.get("id") == plan_id)
    ended = await matching_values(settings, "plan-results", plan_id, lambda value: value.get("planId") == plan_id)
    if not sent and not ended:
        raise CommandError(f"plan {plan_id}: no plan and no result found", NOT_FOUND)
    results = await matching_values(settings, "results", plan_id, lambda value: value.get("planId") == plan_id)
    begun = await matching_values(settings, "events", plan_id, lambda value: value.get("type") == "task:started")
    end = ended[0] if ended else await _task_end(settings, sent[0])
    steps = steps_of(plan_id, sent[0] if sent else {}, end, results, begun)
    found = {"planId": plan_id, "plan": sent[0] if sent else None, "steps": steps, "result": end}
    if form is Format.text:
        draw(found)
    elif form is Format.json:
        document(found, form)
    else:
        for step in steps:
            json_line(step)
        if end is not None:
            json_line(end)


async def _task_end(settings: Settings, plan: Found) -> Found | None:
    """The result of a plan that answers a task: the task's result, in the form of a plan's."""
    tasks = _objects(plan.get("tasks")) if plan.get("answers") else []
    if not tasks:
        return None
    name = str(tasks[0].get("id"))
    for found in await matching_values(settings, "results", name, lambda value: value.get("taskId") == name):
        return {"planId": plan.get("id"), "kind": plan.get("kind"), "results": [found]} | found
    return None


def steps_of(
    plan_id: str, plan: Mapping[str, Any], end: Mapping[str, Any] | None, results: list[Found], begun: list[Found]
) -> list[Found]:
    """One row a step, in the order of the plan, steps within patterns below theirs: id, status, depth, and further
    details.
    """
    from streams.rules.plans.step_ids import Path, path_of

    rows: dict[Path, Found] = {}
    ids: list[str] = [str(task.get("id")) for task in _objects(plan.get("tasks"))]
    tasks = {str(task.get("id")): task for task in _objects(plan.get("tasks"))}
    for number, name in enumerate(ids):
        after = (tasks[name].get("metadata") or {}).get("dependencies") or []
        rows[(number,)] = {"taskId": name, "status": "waiting", "after": after}
    for event in begun:
        path = path_of(plan_id, str(event.get("data", {}).get("taskId")))
        if path is not None:
            rows.setdefault(path, {"taskId": "?", "after": []})["status"] = "running"
    for found in results:
        path = path_of(plan_id, str(found.get("taskId")))
        if path is not None:
            row = rows.setdefault(path, {"taskId": "?", "after": []})
            row["taskId"] = (found.get("metadata") or {}).get("stepId", row["taskId"])
            row |= _ended(found)
    for number, found in enumerate(_objects((end or {}).get("results"))):
        row = rows.setdefault((number,), {"after": []})
        row |= {"taskId": found.get("taskId")} | _ended(found)
    depths = _depths(rows, ids, tasks)
    return [{"depth": depths.get(path, 0) + len(path) - 1} | rows[path] for path in sorted(rows)]


def _objects(given: Any) -> list[Found]:
    return [item for item in given if isinstance(item, dict)] if isinstance(given, list) else []


def _ended(found: Found) -> Found:
    names = ("status", "confidence", "executionTime", "agentId", "retries", "error")
    return {name: found[name] for name in names if found.get(name) is not None}


def _depths(rows: Mapping[Any, Found], ids: list[str], tasks: Mapping[str, Found]) -> dict[Any, int]:
    """How many steps must come before each one, along the longest path; within a pattern its own depth. Bounded by
    rounds.
    """
    depth = dict.fromkeys(ids, 0)
    for _ in range(min(len(ids), 100)):
        moved = False
        for name in ids:
            after = (tasks[name].get("metadata") or {}).get("dependencies") or []
            wanted = max((depth[other] + 1 for other in after if other in depth), default=0)
            if wanted > depth[name]:
                depth[name], moved = wanted, True
        if not moved:
            break
    return {path: depth[ids[path[0]]] if path[0] < len(ids) else 0 for path in rows}


def draw(found: Found) -> None:
    """Print a line for the plan, and its steps as a table."""
    end, plan = found["result"] or {}, found["plan"] or {}
    done = sum(step["status"] not in ("waiting", "running") for step in found["steps"])
    words = [found["planId"], str(end.get("kind") or plan.get("kind") or ""), str(end.get("strategy") or "")]
    words += [end.get("status", "running"), f"{done} of {len(found['steps'])} steps ended"]
    if end.get("confidence") is not None:
        words.append(f"confidence {end['confidence']:.3f}")
    if end:
        words.append(f"{end.get('executionTime')} ms")
    line("  ".join(word for word in words if word))
    if end.get("error"):
        line(f"{end['error'].get('code')}: {end['error'].get('message')}")
    rows = []
    for step in found["steps"]:
        indent = "  " * (step["depth"] - 1) + "└ " if step["depth"] else ""
        status = step.get("status", "waiting")
        why = str((step.get("error") or {}).get("message", ""))[:MAX_WHY]
        rows.append(
            (
                MARKS.get(status, "?"),
                f"{indent}{step['taskId']}",
                status,
                step.get("confidence"),
                step.get("executionTime"),
                step.get("agentId"),
                step.get("after"),
                why,
            )
        )
    table(("", "step", "status", "confidence", "ms", "agent", "after", "why"), rows)
