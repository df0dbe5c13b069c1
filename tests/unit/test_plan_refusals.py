"""Plans that cannot be run, and what a bug of ours costs: a result if there is an id to answer, else a dead letter."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from schemas.codec import decode
from schemas.exact_json import loads
from schemas.messages import PlanResult
from streams.plans import handler
from streams.plans.outcomes import PlanOutcomes
from streams.rules.plans.run import PlanRun
from streams.rules.source_record import HOPS_HEADER, STEP_HEADER
from tests.support.coordinating import Coordinating, one, topics
from tests.support.partition_fakes import intake
from tests.support.plans import plan, task

pytestmark = pytest.mark.virtual_time


@pytest.mark.parametrize(
    ("value", "outcome", "reason"),
    [
        (b"{no json", "dlq.plans", "is not JSON"),
        (b"[]", "dlq.plans", "must be a JSON object"),
        ({"tasks": []}, "dlq.plans", "id: must be a string"),
        (plan("a", "a"), "plan-results", "tasks.1.id"),
        (plan("a", task("b") | {"payload": "x" * 3000}), "plan-results", "bytes; at most 2000 are accepted"),
    ],
)
async def test_what_cannot_be_run_is_answered_or_put_aside(value: Any, outcome: str, reason: str) -> None:
    """Answered where there is an id to answer to."""
    it = Coordinating(plans={"max_plan_bytes": 2000})
    raw = value if isinstance(value, bytes) else orjson.dumps(value)
    it.handler.process("plans", intake(1, raw, source="plans"))
    [(_, _, outputs)] = it.partition.ended
    found = next(output for output in outputs if output.topic == outcome)
    if outcome == "plan-results":
        result = decode(PlanResult, found.value, found.headers)
        assert (result.status, result.results) == ("failure", [])
        assert result.error is not None
        assert reason in result.error.message
    else:
        assert found.value == raw
        assert reason in dict(found.headers)["__dlq.errors.message"].decode()


async def test_a_refused_plan_names_what_was_given_and_what_is_allowed() -> None:
    """In its result; where there is no id to answer to, in the dead letter."""
    it = Coordinating()
    error = one(it.plan(plan("a", strategy="roulette")), "plan-results")["error"]
    assert error["code"] == "invalid_plan"
    assert error["message"] == "strategy: input should be 'all', 'race', 'allSettled' or 'weighted', not 'roulette'"
    for number, (data, reason) in enumerate(
        (
            (plan("a", id=7), "id: must be a string of 1 to 256 characters, not 7"),
            ([1], "value: must be a JSON object, not an array"),
        )
    ):
        it.plan(data)
        dead_letter, event = it.partition.ended[number + 1][2]
        assert dict(dead_letter.headers)["__dlq.errors.message"].decode() == reason
        assert loads(event.value or b"")["data"]["reason"] == reason


async def test_a_step_too_large_to_be_sent_fails_without_being_sent() -> None:
    """Its task would be refused by dispatch; as would one that a sequence's answers blew up."""
    it = Coordinating(dispatch={"max_task_bytes": 1500})
    told = it.plan(plan("a", "b", kind="sequential"))
    told = it.step("p", 0, result="x" * 1000)
    assert topics(told) == ["plan-results", "plan:failed"]
    assert one(told, "plan-results")["error"]["code"] == "too_large"


@pytest.mark.parametrize("broken_part", [(PlanOutcomes, "began"), (PlanRun, "begin"), (handler, "opened")])
async def test_a_bug_of_our_own_costs_one_plan_its_answer(
    monkeypatch: pytest.MonkeyPatch, broken_part: tuple[Any, str]
) -> None:
    """As it begins: it is answered as failed and nothing of it goes on, also after a restart; the next one is run."""
    it = Coordinating()

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(*broken_part, broken)
        told = it.plan(plan("x"))
    assert topics(told) == ["plan-results", "plan:failed"]
    assert one(told, "plan-results")["error"]["code"] == "internal"
    assert it.count("parallax_plans_active") == 0
    it.restart()
    assert topics(it.plan(plan("x"))) == ["plan:duplicate"]
    assert topics(it.plan(plan("x", id="b"))) == ["plan:started", "tasks"]


@pytest.mark.parametrize("name", [STEP_HEADER, HOPS_HEADER])
@pytest.mark.parametrize("number", [b"9" * 5000, "\u0663".encode() * 5000])
async def test_a_number_of_thousands_of_digits_in_a_header_costs_nothing(name: str, number: bytes) -> None:
    """Python reads no such number; the plan begins, as with any other header that is not ours."""
    it = Coordinating()
    headers = ((name, number + b"/" + number if name == STEP_HEADER else number),)
    assert "tasks" in topics(it.plan(plan("a"), headers=headers))


async def test_a_plan_is_refused_if_it_is_too_large_with_its_templates() -> None:
    """They are written with it as one record, which the broker would refuse again and again."""
    it = Coordinating(plans={"max_plan_bytes": 2000})
    it.templates["t"] = {"name": "t", "plan": {"tasks": [task("x") | {"payload": "x" * 1500}]}}
    asked = {"id": "a", "type": "pattern", "target": "t", "payload": "y" * 500}
    error = one(it.plan(plan(asked)), "plan-results")["error"]
    assert error["code"] == "too_large"
    assert "bytes with the templates it uses; at most 2000 are accepted" in error["message"]
    assert "tasks" in topics(it.plan(plan(asked | {"payload": "y"}, id="q")))


async def test_steps_that_begin_together_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a copy of the answer before it: thousands of them would take all memory, of this worker and of the next."""
    monkeypatch.setattr(handler, "MAX_BEGUN_BYTES", 10_000)
    it = Coordinating()
    others = [task(f"t{n}", dependencies=["a"]) for n in range(50)]
    it.plan(plan("a", *others, maxConcurrency=50, continueOnError=True, kind="dag"))
    told = it.step("p", 0, result="x" * 1000)
    begun = [row for row in told if row["topic"] == "tasks"]
    assert 4 <= len(begun) <= 5
    for row in begun:
        told = it.step("p", int(row["value"]["id"].rpartition("#")[2]))
    result = one(told, "plan-results")
    assert result["status"] == "success"
    assert {step["error"]["code"] for step in result["results"] if step["status"] == "failure"} == {"too_large"}
    assert "begin together" in result["results"][-1]["error"]["message"]
