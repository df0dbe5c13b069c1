"""Plans that answer a task, through the coordinator's handler: one result, one terminal event, through restarts and doubles."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from schemas.codec import validate
from schemas.messages import Task
from schemas.times import parse_time
from streams.rules.plans.task_plans import plan_for
from tests.support.coordinating import Coordinating, one, topics
from tests.support.partition_fakes import intake
from tests.support.plans import plan, task
from tests.support.wait import until

pytestmark = pytest.mark.virtual_time

PAIR = {"kind": "sequential", "tasks": [task("one"), task("two") | {"payload": "${n}"}]}


def coordinating(template: dict[str, Any] | None = None, **fields: Any) -> Coordinating:
    """A partition whose worker knows the template `t`."""
    it = Coordinating(**fields)
    it.templates["t"] = {"name": "t", "plan": template or PAIR}
    return it


def ask(it: Coordinating, left_ms: int = 60_000, offset: int | None = None, **fields: Any) -> list[dict[str, Any]]:
    """The task `t1` comes in, as dispatch handed it over a minute ago."""
    found = validate(Task, {"id": "t1", "type": "pattern", "target": "t", "payload": {"n": 5}} | fields)
    accepted_ms = it.wall_ms() - 60_000
    echo = {"mine": 1} | (fields.get("metadata") or {})
    data = plan_for(found, echo, accepted_ms - 40, accepted_ms, it.wall_ms() + left_ms)
    return it.plan(data, offset=offset)


async def test_a_task_is_answered_with_a_result_and_nothing_else() -> None:
    """Not with a plan's result beside it; one event begins and one ends it; its pattern has a data point."""
    it = coordinating()
    told = ask(it, metadata={"patternName": "named"})
    assert topics(told) == ["task:started", "tasks"]
    assert one(told, "tasks")["id"] == "task:t1#0.0"
    assert one(told, "events")["data"] == {"taskId": "t1", "type": "pattern", "target": "t"}
    told = it.step("task:t1", 0, taskId="task:t1#0.0", confidence=0.7)
    assert topics(told) == ["tasks"]
    assert one(told, "tasks")["payload"] == 5
    told = it.step("task:t1", 0, taskId="task:t1#0.1", result={"found": 1}, confidence=0.8)
    assert topics(told) == ["results", "task:completed", "data-points"]
    [key] = [t["key"] for t in told if t["topic"] == "results"]
    result = one(told, "results")
    assert key == b"t1"
    assert parse_time(result.pop("timestamp"))
    assert 60_000 <= result.pop("executionTime") < 90_000
    assert result == {
        "taskId": "t1", "status": "success", "result": {"found": 1}, "confidence": 0.7, "agentId": "pattern:t",
        "retries": 0, "cached": False, "waitTime": 40, "metadata": {"mine": 1, "patternName": "named"},
    }  # fmt: skip
    point = one(told, "data-points")
    assert (point["agentId"], point["patternName"], point["taskType"], point["success"], point["taskId"]) == (
        "pattern:t", "named", "pattern", True, "t1",
    )  # fmt: skip
    assert [output.topic for output in it.emitted] == []
    assert [b"/seen/" in key for key in it.state] == [True]


async def test_a_task_of_somebodys_plan_is_answered_under_that_plan() -> None:
    """Keyed by it, as all its results are."""
    it = coordinating({"tasks": [task("one")]})
    ask(it, planId="p")
    told = it.step("task:t1", 0, taskId="task:t1#0.0")
    [key] = [t["key"] for t in told if t["topic"] == "results"]
    assert (key, one(told, "results")["planId"]) == (b"p", "p")


async def test_a_task_id_is_answered_once_also_after_a_restart() -> None:
    """Under way or over; the second one is told to be a duplicate, as tasks are."""
    it = coordinating({"tasks": [task("one")]})
    ask(it, offset=5)
    it.restart()
    assert ask(it, offset=5) == []
    assert topics(ask(it, offset=6)) == ["task:duplicate"]
    it.step("task:t1", 0, taskId="task:t1#0.0")
    it.restart()
    told = ask(it, offset=7)
    assert topics(told) == ["task:duplicate"]
    assert one(told, "events")["data"]["taskId"] == "t1"


async def test_a_restart_after_every_commit_changes_nothing_of_the_answer() -> None:
    """Templates that changed meanwhile neither."""
    results = []
    for restarts in (False, True):
        it = coordinating()
        ask(it)
        for n in range(2):
            if restarts:
                it.templates.clear()
                it.restart()
            told = it.step("task:t1", 0, taskId=f"task:t1#0.{n}")
        result = one(told, "results")
        del result["timestamp"], result["executionTime"]
        results.append(result)
    assert results[0] == results[1]


async def test_a_task_that_fails_tells_why_and_counts_against_its_pattern() -> None:
    """A step that is cancelled by somebody does not make the task a cancelled one."""
    it = coordinating({"tasks": [task("one"), task("two")]})
    ask(it)
    told = it.step("task:t1", 0, "failure", taskId="task:t1#0.0")
    assert topics(told) == ["controls", "results", "task:failed", "data-points"]
    assert one(told, "results")["error"] == {
        "code": "internal", "message": "step 'one' ended as failure: no", "retryable": True, "agentId": "pattern:t"
    }  # fmt: skip
    assert one(told, "data-points")["success"] is False
    ask(it, id="t2")
    error = {"code": "cancelled", "message": "somebody", "retryable": False}
    told = it.step("task:t2", 0, "cancelled", taskId="task:t2#0.0", error=error)
    assert topics(told)[1:3] == ["results", "task:failed"]
    assert (one(told, "results")["status"], one(told, "results")["error"]["code"]) == ("failure", "cancelled")


async def test_a_template_that_cannot_be_expanded_is_told_with_field_and_reason() -> None:
    """It never started, and is no data point."""
    it = coordinating()
    told = ask(it, payload={})
    assert topics(told) == ["results", "task:failed"]
    result = one(told, "results")
    assert (result["status"], result["error"]["code"], result["metadata"]) == ("failure", "invalid_plan", {"mine": 1})
    assert result["error"]["message"] == "pattern 't': tasks.1.payload: the pattern's parameter 'n' is not given"


@pytest.mark.parametrize(
    ("fields", "left_ms", "limit", "code", "reason", "event"),
    [
        ({"target": "u"}, 9000, 10_000, "unsupported", "target: the worker that runs plans knows no template 'u'", "failed"),
        ({"target": "loop"}, 9000, 10_000, "invalid_plan", "tasks: patterns in a circle: loop -> loop", "failed"),
        ({"payload": {"n": "x" * 3000}}, 9000, 2000, "too_large", "the plan has", "failed"),
        ({}, -1, 10_000, "expired", "the deadline passed before", "expired"),
    ],
)  # fmt: skip
async def test_what_cannot_begin_is_answered_once(
    fields: dict[str, Any], left_ms: int, limit: int, code: str, reason: str, event: str
) -> None:
    """With its own code and no step; sent again it is a duplicate."""
    it = coordinating(plans={"max_plan_bytes": limit})
    loop = {"id": "x", "type": "pattern", "target": "loop", "payload": None}
    it.templates["loop"] = {"name": "loop", "plan": {"tasks": [loop]}}
    told = ask(it, left_ms, **fields)
    assert topics(told) == ["results", f"task:{event}"]
    result = one(told, "results")
    assert (result["taskId"], result["error"]["code"]) == ("t1", code)
    assert result["status"] == ("timeout" if code == "expired" else "failure")
    assert result["error"]["message"].startswith(reason)
    assert topics(ask(it, left_ms, **fields)) == ["task:duplicate"]


async def test_a_deadline_is_the_tasks_whoever_owns_its_plan_then() -> None:
    """Counted from when dispatch took it."""
    it = coordinating()
    ask(it, left_ms=80)
    await until(lambda: it.partition.touched == 1)
    told = it.commit()
    assert topics(told) == ["controls", "results", "task:failed", "data-points"]
    result = one(told, "results")
    assert (result["status"], result["error"]["code"]) == ("timeout", "timeout")
    assert result["error"]["message"] == "the pattern did not end within 60080 ms"
    ask(it, left_ms=5000, id="later")
    it.skew_ms = 5001
    it.restart()
    await until(lambda: it.partition.touched == 2)
    assert one(it.commit(), "results")["taskId"] == "later"


@pytest.mark.parametrize("kind", ["task", "plan"])
async def test_a_clock_that_is_behind_that_of_the_worker_before_makes_no_negative_times(kind: str) -> None:
    """Readers would refuse the result. The corrected clocks of two workers may differ by two seconds."""
    it = coordinating()
    pattern = {"id": "s", "type": "pattern", "target": "t", "payload": {"n": 5}}
    name = "task:t1" if kind == "task" else "p"
    if kind == "task":
        ask(it)
    else:
        it.plan(plan(pattern))
    it.skew_ms = -62_000
    it.restart()
    it.step(name, 0, taskId=f"{name}#0.0")
    told = it.step(name, 0, taskId=f"{name}#0.1")
    result = one(told, "results" if kind == "task" else "plan-results")
    times = [result["executionTime"], *(step["executionTime"] for step in result.get("results", ()))]
    assert set(times) == {0}
    ended = next(row["value"] for row in told if row["topic"] == "events")
    assert ended["data"]["executionTime"] == 0


async def test_a_wish_about_the_task_ends_it_wherever_it_is() -> None:
    """Under way, before it came, and while nobody owned the partition; as does one about its plan. Once each."""
    it = coordinating()
    for name in ("one", "two", "four"):
        ask(it, id=name)
    it.task_requests |= dict.fromkeys(("one", "two", "three"), "the task was cancelled: enough")
    it.handler.cancel_task("one")
    it.handler.cancel_task("nobody")
    told = it.commit()
    assert topics(told) == ["controls", "results", "task:cancelled"]
    result = one(told, "results")
    assert (result["taskId"], result["status"], result["error"]["message"]) == (
        "one", "cancelled", "the task was cancelled: enough"
    )  # fmt: skip
    it.handler.cancel_task("one")
    assert it.commit() == []
    it.restart()
    await asyncio.sleep(0.01)
    assert one(it.commit(), "results")["taskId"] == "two"
    assert topics(ask(it, id="three")) == ["results", "task:cancelled"]
    assert topics(ask(it, id="one")) == ["task:duplicate"]
    it.cancel_requests["task:four"] = "the plan was cancelled"
    it.handler.cancel("task:four")
    assert topics(it.commit()) == ["controls", "results", "task:cancelled"]


async def test_nobody_answers_in_a_tasks_place() -> None:
    """A user's plan under such an id is put aside, and the task is answered all the same."""
    it = coordinating({"tasks": [task("one")]})
    it.handler.process("plans", intake(1, orjson.dumps(plan("a") | {"id": "task:t1"}), source="plans"))
    [(_, _, outputs)] = it.partition.ended
    assert [output.topic for output in outputs] == ["dlq.plans", "events"]
    assert "id: must not begin with 'task:'" in dict(outputs[0].headers)["__dlq.errors.message"].decode()
    assert topics(ask(it)) == ["task:started", "tasks"]


async def test_a_memory_that_is_not_understood_still_answers_the_task() -> None:
    """As failed: its plan is lost."""
    it = coordinating({"tasks": [task("one")]})
    ask(it)
    key = next(key for key in it.state if b"/plan/" in key)
    memory = orjson.loads(it.state[key])
    memory["begun"]["templates"]["t"]["plan"] = {}
    it.state[key] = orjson.dumps(memory)
    it.restart()
    told = it.commit()
    assert (one(told, "results")["taskId"], one(told, "results")["error"]["code"]) == ("t1", "internal")
    assert topics(told) == ["results", "task:failed"]


async def test_answers_without_a_value_or_a_confidence_are_successes() -> None:
    """`allSettled` says neither what nor, when nothing succeeded, how sure; a task's result must have both."""
    it = coordinating({"strategy": "allSettled", "tasks": [task("one")]})
    ask(it)
    told = it.step("task:t1", 0, "failure", taskId="task:t1#0.0")
    result = one(told, "results")
    assert (result["status"], result["result"], result["confidence"]) == ("success", None, 0.0)


async def test_the_page_of_such_a_plan_shows_its_step_then_its_end() -> None:
    """Under the id that its steps' results carry."""
    it = coordinating({"tasks": [task("one")]})
    ask(it)
    view = it.handler.view("task:t1")
    assert isinstance(view, dict)
    assert [(step["taskId"], step["status"]) for step in view["steps"]] == [("t1", "running")]
    it.step("task:t1", 0, taskId="task:t1#0.0")
    page = it.handler.view("task:t1")
    assert isinstance(page, bytes)
    assert orjson.loads(page)["status"] == "success"
