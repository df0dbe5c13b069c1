"""Pattern tasks as plans of one step: whose they are, what they carry, how they end."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import Rejected, validate
from schemas.messages import MAX_DURATION_MS, Plan, Task
from streams.rules.plans.step_ids import stem
from streams.rules.plans.task_plans import (
    end_of,
    ends_at,
    error_of,
    origin_of,
    plan_for,
    plan_of,
    template_for,
    timed,
)
from tests.support.plans import NOW, bad, good, pattern, plan, run_of, task

TEMPLATE = {"name": "t", "plan": {"tasks": [task("one")]}}


def asked_task(**fields: Any) -> Task:
    """A pattern task for the template `t`."""
    return validate(Task, {"id": "t1", "type": "pattern", "target": "t", "payload": {"n": 1}} | fields)


def carried(task: Task, echo: Any = None, accepted_ms: int = NOW, expires_ms: int = NOW + 30_000) -> dict[str, Any]:
    """The plan as it comes out of its topic."""
    found: dict[str, Any] = orjson.loads(orjson.dumps(plan_for(task, echo or {}, NOW - 250, accepted_ms, expires_ms)))
    return found


@given(st.text(min_size=1, max_size=256), st.text(min_size=1, max_size=256))
def test_no_two_tasks_share_a_plan_nor_its_step_ids(a: str, b: str) -> None:
    """Whatever the ids; and each is a plan id that can be written."""
    assert (plan_of(a) == plan_of(b)) == (a == b) == (stem(plan_of(a)) == stem(plan_of(b)))
    assert plan_of(a).startswith("task:")
    assert len(plan_of(a)) <= 256


def test_a_plan_carries_its_task_there_and_back() -> None:
    """With everything its result repeats; it is a valid plan for whoever reads the topic."""
    given = {"timeout": 5000, "patternName": "named", "dependencies": ["x"], "input": "previous", "own": 1}
    data = carried(asked_task(planId="p", metadata=given, context={"c": 1}), orjson.Fragment(orjson.dumps(given)))
    validate(Plan, data)
    [step] = data["tasks"]
    assert (step["payload"], step["context"], step["metadata"]) == ({"n": 1}, {"c": 1}, {"timeout": 30_000})
    origin = origin_of(data)
    assert origin is not None
    assert (origin.task.id, origin.task.plan_id, origin.task.metadata.pattern_name) == ("t1", "p", "named")
    assert (origin.echo, origin.accepted_ms, origin.expires_ms, origin.agent_id) == (
        given,
        NOW,
        NOW + 30_000,
        "pattern:t",
    )
    assert origin.wait_ms == 250
    assert timed(data, origin, NOW + 10_000)["timeout"] == 20_000
    assert timed(data, origin, NOW + 90_000)["timeout"] == 1


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, True),
        ({"planId": "a group of my own"}, True),
        ({"target": "u"}, False),
        ({"type": "function"}, False),
        ({"id": "p#3.0", "planId": "p"}, False),
        ({"type": "agent", "target": None, "capabilities": ["t"]}, False),
    ],
)
def test_which_tasks_a_template_runs(fields: dict[str, Any], found: bool) -> None:
    """Not what a plan sent on since its coordinator knew no such template."""
    assert (template_for(asked_task(**fields), {"t": TEMPLATE}) is not None) is found


def test_a_pattern_may_take_what_its_task_or_its_template_says_and_ends_by_the_deadline() -> None:
    """In this order; without either there is the deadline alone."""
    timed_one = {"name": "t", "plan": TEMPLATE["plan"] | {"timeout": 7000}}  # type: ignore[operator]
    assert ends_at(asked_task(metadata={"timeout": 50}), timed_one, NOW, None) == NOW + 50
    assert ends_at(asked_task(), timed_one, NOW, None) == NOW + 7000
    assert ends_at(asked_task(), timed_one, NOW, NOW + 100) == NOW + 100
    assert ends_at(asked_task(), TEMPLATE, NOW, NOW + 90_000) == NOW + 90_000
    assert ends_at(asked_task(), TEMPLATE, NOW, None) == NOW + MAX_DURATION_MS


@pytest.mark.parametrize(
    "data",
    [
        plan("a") | {"id": "task:t1"},
        plan("a") | {"answers": carried(asked_task())["answers"]},
        carried(asked_task()) | {"id": "task:t2"},
        carried(asked_task()) | {"id": "mine"},
        carried(asked_task()) | {"tasks": [task("t1")]},
        carried(asked_task()) | {"tasks": [pattern("t1", "t"), pattern("t2", "t")]},
        carried(asked_task()) | {"answers": {"accepted": 1}},
        carried(asked_task()) | {"answers": 5},
        {"id": "task:t1", "answers": {}},
    ],
)
def test_nobody_else_has_such_a_plan(data: dict[str, Any]) -> None:
    """Its id is reserved, and what it answers must be its own step."""
    with pytest.raises(Rejected):
        origin_of(data)


@pytest.mark.parametrize("data", [plan("a"), {"id": "tasks"}, {"id": 5}, {}])
def test_other_plans_answer_no_task(data: dict[str, Any]) -> None:
    """Whatever else may be wrong with them."""
    assert origin_of(data) is None


def test_it_ends_as_its_step_or_as_what_ended_it_from_outside() -> None:
    """In words about the task, not about the plan around it."""
    data = carried(asked_task(), None, NOW - 5000, NOW + 1000)
    origin = origin_of(data)
    assert origin is not None

    def ended(act: Any, template: Any = TEMPLATE) -> Any:
        run = run_of(timed(data, origin, NOW), {"t": template})
        run.begin()
        act(run)
        assert run.over is not None
        return end_of(origin, run, run.over)

    end = ended(lambda run: run.ended((0, 0), good("yes", 0.7), NOW + 10))
    assert (end.status, end.value, end.confidence) == ("success", None, 0.7)
    end = ended(lambda run: run.ended((0, 0), bad("http_5xx"), NOW + 10))
    error = error_of(origin, end)
    assert (end.status, error.code, error.agent_id) == ("failure", "http_5xx", "pattern:t")
    assert error.message == "step 'one' ended as failure: no"
    end = ended(lambda run: run.time(NOW + 1000))
    assert (end.status, error_of(origin, end).code) == ("timeout", "timeout")
    assert error_of(origin, end).message == "the pattern did not end within 6000 ms"
    end = ended(lambda run: run.cancel("the task was cancelled", NOW))
    assert (end.status, error_of(origin, end).message) == ("cancelled", "the task was cancelled")
    end = ended(lambda run: None, {"name": "t", "plan": {"tasks": [task("one") | {"target": "${who}"}]}})
    error = error_of(origin, end)
    assert (error.code, error.message) == (
        "invalid_plan", "pattern 't': tasks.0.target: the pattern's parameter 'who' is not given"
    )  # fmt: skip


def test_a_template_has_the_time_its_task_has_unless_it_takes_less() -> None:
    """A task with ten minutes is not cut off after a plan's usual half."""
    data = carried(asked_task(), None, NOW, NOW + 600_000)
    origin = origin_of(data)
    assert origin is not None
    for own, wanted in ((None, 600_000), (7000, 7000), (900_000, 600_000)):
        template = {"name": "t", "plan": {"tasks": [task("one")]} | ({} if own is None else {"timeout": own})}
        run = run_of(timed(data, origin, NOW), {"t": template})
        run.begin()
        assert run.due_ms == NOW + wanted
