"""Pattern tasks that are local templates: the tasks, and the exact `Result` each must have. For any broker.

The agents are those of `plan_cases`. Times and timestamps are the only fields that are not compared.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.plan_cases import FAILED_MESSAGE, TEMPLATES, step
from tests.support.rig import Tap, produce

OUT_OF_TIME_MS = 3000
PATTERNS: list[dict[str, Any]] = [
    *TEMPLATES,
    {"name": "failing", "plan": {"kind": "sequential", "tasks": [step("a", "good"), step("x", "fail")]}},
    {"name": "stuck", "plan": {"tasks": [step("h", "hang")]}},
    {
        "name": "slowly",
        "plan": {"kind": "sequential", "tasks": [step("a", "late", say="${n}"), step("b", "late", say="${n}")]},
    },
]
TERMINAL = {"task:completed", "task:failed", "task:expired", "task:cancelled"}


def asks(name: str, target: str, payload: Any = None, **metadata: Any) -> dict[str, Any]:
    """A pattern task."""
    return {"id": name, "type": "pattern", "target": target, "payload": payload or {}, "metadata": metadata}


def _failed(code: str, message: str, agent: str | None, status: str = "failure", **more: Any) -> dict[str, Any]:
    who = {} if agent is None else {"agentId": agent}
    return {"status": status, "error": {"code": code, "message": message, "retryable": False} | who | more} | who


SAID = {"previous": "hey!", "results": {"one": "hey!"}}
MISSING = "pattern 'twice': tasks.0.payload.say: the pattern's parameter 'word' is not given"
NO_TEMPLATE = (
    "type: pattern tasks need a local template of that name (plans.templates) or a control plane (control_plane.url)"
)
CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        asks("good", "twice", {"word": "hey"}, own=1),
        {"status": "success", "result": SAID, "confidence": 0.5, "agentId": "pattern:twice"},
    ),
    (
        asks("nested", "outer", {"word": "hey"}),
        {"status": "success", "result": SAID, "confidence": 0.5, "agentId": "pattern:outer"},
    ),
    (asks("missing", "twice"), _failed("invalid_plan", MISSING, "pattern:twice")),
    (
        asks("failing", "failing"),
        _failed("http_4xx", f"step 'x' ended as failure: {FAILED_MESSAGE}", "pattern:failing"),
    ),
    (
        asks("late", "stuck", timeout=OUT_OF_TIME_MS),
        _failed(
            "timeout", f"the pattern did not end within {OUT_OF_TIME_MS} ms", "pattern:stuck", "timeout", retryable=True
        ),
    ),
    (
        asks("unwanted", "stuck"),
        _failed("cancelled", "the task was cancelled: enough", "pattern:stuck", "cancelled"),
    ),
]
UNKNOWN = (asks("elsewhere", "nobody knows"), _failed("unsupported", NO_TEMPLATE, None))
"""No local template, hence dispatch's own business."""


def patterns_file(directory: Path) -> Path:
    """The templates of the cases, as a worker reads them."""
    file = directory / "patterns.jsonl"
    file.write_text("".join(json.dumps(template) + "\n" for template in PATTERNS))
    return file


def send_tasks(broker: str, prefix: str, tasks: list[dict[str, Any]]) -> None:
    """Without keys, so that they lie anywhere."""
    produce(broker, f"{prefix}tasks", [(None, json.dumps(task).encode()) for task in tasks])


def cancel_task(broker: str, prefix: str, task_id: str) -> None:
    """The request that a task ends."""
    cancel_request = {"type": "cancel", "taskId": task_id, "reason": "enough"}
    produce(broker, f"{prefix}controls", [(task_id.encode(), json.dumps(cancel_request).encode())])


def untimed(result: dict[str, Any]) -> dict[str, Any]:
    """A `Result` without what depends on the clock; the times must be there."""
    found = dict(result)
    assert found.pop("executionTime") >= 0
    assert found.pop("waitTime") >= 0
    assert found.pop("timestamp")
    return found


def wanted(task: dict[str, Any], end: dict[str, Any]) -> dict[str, Any]:
    """The whole result but for times."""
    return {"taskId": task["id"], "retries": 0, "cached": False, "metadata": task["metadata"]} | end


def answers(messages: list[Any]) -> dict[str, list[dict[str, Any]]]:
    """Results by task id, those of steps left out."""
    found: dict[str, list[dict[str, Any]]] = {}
    for message in messages:
        result = json.loads(message.value())
        if "planId" not in result:
            found.setdefault(result["taskId"], []).append(result)
    return found


def endings(broker: str, prefix: str, quiet_s: float = 1.0) -> dict[str, list[str]]:
    """The terminal events of each task that is no step, as they lie on the topic until it is quiet for so long."""
    tap = Tap(broker, f"{prefix}events")
    found: dict[str, list[str]] = {}
    for message in tap.until(1_000_000, 2 * quiet_s, quiet_s):
        event = json.loads(message.value())
        task_id = event["data"].get("taskId", "#")
        if event["type"] in TERMINAL and "#" not in task_id:
            found.setdefault(task_id, []).append(event["type"])
    tap.close()
    return found
