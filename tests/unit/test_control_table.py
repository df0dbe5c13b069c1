"""Requests on `controls`: each role of a worker is told of its own, and they are looked up again later."""

from __future__ import annotations

from typing import Any

import orjson

from schemas.topics import DAY_MS, HOUR_MS
from streams.testing.virtual_partition import VirtualControls


def told(table: VirtualControls, *cancel_requests: dict[str, Any] | bytes) -> None:
    """These records were read."""
    for cancel_request in cancel_requests:
        value = (
            cancel_request if isinstance(cancel_request, bytes) else orjson.dumps({"type": "cancel"} | cancel_request)
        )
        table.take(value, 0)


async def test_tasks_and_plans_are_told_apart() -> None:
    """By the field, also when they share an id; invalid records are ignored."""
    tasks: list[str] = []
    plans: list[str] = []
    table = VirtualControls(options={}, prefix="t.", on_cancel=tasks.append, on_plan=plans.append)
    told(table, {"taskId": "x"}, {"planId": "y", "reason": "enough"}, b"{}", b"no")
    assert (tasks, plans) == (["x"], ["y"])
    assert (table.cancelled("x", 0), table.cancelled("y", 0)) == ("the task was cancelled", None)
    assert (table.plan_cancelled("y", 0), table.plan_cancelled("x", 0)) == ("the plan was cancelled: enough", None)


async def test_a_worker_keeps_only_the_requests_it_can_fulfil() -> None:
    """One that runs no plans remembers none."""
    table = VirtualControls(options={}, prefix="t.", on_cancel=lambda task_id: None)
    told(table, {"taskId": "x"}, {"planId": "y"})
    assert table.cancelled("x", 0)
    assert table.plan_cancelled("y", 0) is None


async def test_a_request_is_about_what_was_submitted_before_it_or_soon_after() -> None:
    """However long that waits; an id that is used again the next day is another task, also where the worker was not restarted."""
    table = VirtualControls(options={}, prefix="t.", on_cancel=lambda task_id: None, on_plan=lambda plan_id: None)
    at_ms = 1_795_348_800_000
    for field in ("taskId", "planId"):
        cancel_request = orjson.dumps({"type": "cancel", field: "nightly"})
        table.take(cancel_request, at_ms)
    for ask in (table.cancelled, table.plan_cancelled):
        found = [
            ask("nightly", at_ms + after_ms) is not None for after_ms in (-7 * DAY_MS, 0, HOUR_MS, HOUR_MS + 1, DAY_MS)
        ]
        assert found == [True, True, True, False, False]


async def test_the_last_time_an_agents_answers_were_cleared_is_that_of_the_newest_record() -> None:
    """The records of one agent and of all lie in several partitions, which are read in any order."""
    table = VirtualControls(options={}, prefix="t.")
    for agent_id, at_ms in (("a", 2000), ("a", 1000), (None, 1500)):
        table.take(orjson.dumps({"type": "cache-clear"} | ({} if agent_id is None else {"agentId": agent_id})), at_ms)
    assert [table.cleared(agent_id) for agent_id in ("a", "b")] == [2000, 1500]
