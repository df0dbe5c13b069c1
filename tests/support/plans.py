"""Plans for tests of the rules: built from a few words, run without a broker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from streams.rules.plans.result import plan_result
from streams.rules.plans.run import Action, Over, PlanRun, StartStep, StopStep
from streams.rules.plans.step_graph import End
from streams.rules.plans.step_ids import Path
from streams.rules.plans.templates import Templates, read_plan, used

NOW = 1_800_000_000_000


def task(name: str, **metadata: Any) -> dict[str, Any]:
    """A task for agent `a1`."""
    return {"id": name, "type": "agent", "target": "a1", "payload": name, "metadata": metadata}


def pattern(name: str, target: str, payload: Any = None, **metadata: Any) -> dict[str, Any]:
    """A task that is a pattern."""
    return {"id": name, "type": "pattern", "target": target, "payload": payload, "metadata": metadata}


def plan(*tasks: dict[str, Any] | str, **fields: Any) -> dict[str, Any]:
    """A plan `p` of these tasks."""
    return {"id": "p", "tasks": [task(t) if isinstance(t, str) else t for t in tasks]} | fields


def run_of(data: dict[str, Any], templates: Templates | None = None) -> PlanRun:
    """The plan, accepted at `NOW` and not begun."""
    blueprint = read_plan(data)
    return PlanRun(plan=blueprint, accepted_ms=NOW, templates=used(blueprint, templates or {}))


def good(value: Any = "ok", confidence: float | None = 0.9) -> End:
    """A success."""
    wire = {
        "status": "success",
        "executionTime": 5,
        "retries": 0,
        "cached": False,
        "timestamp": "2027-01-15T08:00:00.000Z",
    }
    return End(wire if confidence is None else wire | {"confidence": confidence}, orjson.dumps(value), (0, 7))


def bad(code: str = "http_5xx", status: str = "failure", message: str = "no") -> End:
    """A failure."""
    error = {"code": code, "message": message, "retryable": True}
    wire = {"status": status, "error": error, "executionTime": 5, "retries": 2, "cached": False}
    return End(wire | {"timestamp": "2027-01-15T08:00:00.000Z"}, None, (0, 7))


def starts(actions: Iterable[Action]) -> list[Path]:
    """The steps that start."""
    return [action.path for action in actions if isinstance(action, StartStep)]


def stops(actions: Iterable[Action]) -> list[Path]:
    """The steps that stop."""
    return [action.path for action in actions if isinstance(action, StopStep)]


def over(actions: Iterable[Action]) -> Over | None:
    """The end, if it came."""
    return next((action for action in actions if isinstance(action, Over)), None)


def finish(run: PlanRun, ends: Mapping[Path, End] | None = None) -> dict[str, Any]:
    """Begin, and let every step end as it is told (well, if not), oldest first; the whole result as a reader sees it."""
    queue = starts(run.begin())
    while queue and not run.over:
        path = queue.pop(0)
        queue += starts(run.ended(path, (ends or {}).get(path) or good(list(path)), NOW + 10))
    return result(run)


def result(run: PlanRun) -> dict[str, Any]:
    """What is written when it is over."""
    assert run.over is not None
    found: dict[str, Any] = orjson.loads(orjson.dumps(plan_result(run, run.over, NOW + 10)))
    return found
