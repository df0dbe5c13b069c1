"""The status of a task, from its records on the topics. Pure.

In: its result, if there is one, and its events. Out: one word, and the events in their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from streams.rules.task_records import status_of_code

UNKNOWN = "unknown"
ENDS = {"task:completed": "success", "task:failed": "failure", "task:expired": "timeout", "task:cancelled": "cancelled"}
UNDER_WAY = {
    "task:started": "running",
    "task:retrying": "running",
    "task:cache-hit": "running",
    "task:parked": "parked",
}
_FIRST = "task:started"


def status_of(result: Mapping[str, Any] | None, events: Sequence[Mapping[str, Any]]) -> str:
    """The result's status; without a result, from the events: how it ended, `running`, `parked`, or `unknown`. `events`
    in order.

    >>> status_of(None, [{"type": "task:started"}, {"type": "task:parked"}])
    'parked'
    >>> status_of({"status": "timeout"}, [])
    'timeout'
    """
    if result is not None and isinstance(result.get("status"), str):
        return str(result["status"])
    kinds = [str(event.get("type")) for event in events]
    for event, kind in zip(reversed(events), reversed(kinds), strict=True):
        if kind in ENDS:
            return _failure(event) if kind == "task:failed" else ENDS[kind]
    return next((UNDER_WAY[kind] for kind in reversed(kinds) if kind in UNDER_WAY), UNKNOWN)


def _failure(event: Mapping[str, Any]) -> str:
    data = event.get("data")
    error = data.get("error") if isinstance(data, Mapping) else None
    code = error.get("code") if isinstance(error, Mapping) else None
    return status_of_code(str(code))


def has_ended(events: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an event shows that the task has ended: there is then a result."""
    return any(event.get("type") in ENDS for event in events)


def in_order(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Events by time. Within one millisecond: begin, middle, end, since progress and results are sent separately.

    >>> [e["type"] for e in in_order([{"type": "task:completed", "timestamp": "1"}, {"type": "task:started", "timestamp": "1"}])]
    ['task:started', 'task:completed']
    """

    def rank(event: Mapping[str, Any]) -> tuple[str, int]:
        kind = event.get("type")
        return str(event.get("timestamp", "")), 0 if kind == _FIRST else 2 if kind in ENDS else 1

    return sorted(events, key=rank)


def result_keys(task_id: str) -> list[str]:
    """The possible keys of a task's result, by its id: its own, and for a step of a plan the plan's.

    >>> result_keys("t1"), result_keys("p#a#b")
    (['t1'], ['p#a#b', 'p#a', 'p'])
    """
    found = [task_id]
    while "#" in found[-1] and len(found) < 9:
        found.append(found[-1].rpartition("#")[0])
    return [key for key in found if key]
