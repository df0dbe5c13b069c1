"""Wishes to cancel: each role of a worker hears of its own, and is asked again later."""

from __future__ import annotations

from typing import Any

import orjson

from streams.agents.control_table import ControlTable
from tests.support.homes import intake


def told(table: ControlTable, *wishes: dict[str, Any] | bytes) -> None:
    """These records were read."""
    for offset, wish in enumerate(wishes):
        value = wish if isinstance(wish, bytes) else orjson.dumps({"type": "cancel"} | wish)
        table._apply(intake(offset, value, source="controls"))


async def test_tasks_and_plans_are_told_apart() -> None:
    """By the field, also when they share an id; what is no wish is passed over."""
    tasks: list[str] = []
    plans: list[str] = []
    table = ControlTable({}, "t.", tasks.append, on_plan=plans.append)
    told(table, {"taskId": "x"}, {"planId": "y", "reason": "enough"}, b"{}", b"no")
    assert (tasks, plans) == (["x"], ["y"])
    assert (table.cancelled("x"), table.cancelled("y")) == ("the task was cancelled", None)
    assert (table.plan_cancelled("y"), table.plan_cancelled("x")) == ("the plan was cancelled: enough", None)


async def test_a_worker_keeps_only_the_wishes_it_can_fulfil() -> None:
    """One that runs no plans remembers none."""
    table = ControlTable({}, "t.", lambda task_id: None)
    told(table, {"taskId": "x"}, {"planId": "y"})
    assert table.cancelled("x")
    assert table.plan_cancelled("y") is None
