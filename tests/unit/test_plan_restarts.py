"""What the coordinator of plans remembers: plans go on after a restart as if there was none, and ids are answered once."""

from __future__ import annotations

from typing import Any, cast

import pytest

from streams.plans.memory import anything_under_way
from streams.rules.plans.step_ids import path_of
from tests.support.coordinating import Coordinating, one, topics
from tests.support.plans import plan, task

pytestmark = pytest.mark.virtual_time


async def test_a_restart_after_every_commit_changes_nothing_of_the_result() -> None:
    """Sequential with a failure in it: what each step is handed, and the end, are as without restarts."""
    outcomes = []
    for restarts in (False, True):
        it = Coordinating()
        told = it.plan(plan("a", "b", "c", kind="sequential", continueOnError=True))
        handed = []
        for number, status in enumerate(("success", "failure", "success")):
            handed.append(one(told, "tasks").get("context"))
            if restarts:
                it.restart()
            told = it.step("p", number, status)
        result = one(told, "plan-results")
        del result["timestamp"], result["executionTime"]
        outcomes.append((handed, result))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0] == [None, {"previous": 0, "results": {"a": 0}}, {"previous": 0, "results": {"a": 0}}]


async def test_many_steps_are_remembered_in_few_records() -> None:
    """And all are forgotten at the end."""
    it = Coordinating()
    it.plan(plan(*[f"t{n}" for n in range(300)], maxConcurrency=300))
    for number in range(299):
        it.step("p", number)
    assert 5 < len(it.state) < 40
    it.restart()
    assert it.handler.view("p")["done"] == 299  # type: ignore[index,call-overload]
    it.step("p", 299)
    assert len(it.state) == 1


async def test_what_is_remembered_in_several_records_is_put_together_in_its_order() -> None:
    """A sequence whose steps fill many chunks goes on where it was."""
    it = Coordinating()
    it.plan(plan(*[f"t{n}" for n in range(60)], kind="sequential"))
    for number in range(59):
        told = it.step("p", number, result="x" * 300)
    assert len(it.state) > 3
    it.state = dict(reversed(it.state.items()))
    it.restart()
    view = cast("dict[str, Any]", it.handler.view("p"))
    assert (view["done"], view["inFlight"], one(told, "tasks")["id"]) == (59, 1, "p#59")
    assert topics(it.step("p", 59)) == ["plan-results", "plan:completed"]


async def test_patterns_run_as_they_were_when_the_plan_began() -> None:
    """A template that changes, or goes, meanwhile changes nothing."""
    it = Coordinating()
    it.templates["t"] = {"name": "t", "plan": {"kind": "sequential", "tasks": [task("one"), task("two")]}}
    it.plan(plan({"id": "x", "type": "pattern", "target": "t", "payload": None}))
    it.templates.clear()
    it.restart()
    told = it.step("p", 0, taskId="p#0.0")
    assert one(told, "tasks")["id"] == "p#0.1"
    assert path_of("p", "p#0.1") == (0, 1)


async def test_the_steps_of_a_plan_belong_to_its_trace_also_after_a_restart() -> None:
    """Each with an id of its own, the same ones whenever they are sent; without a trace they say nothing of one."""
    chain = plan("a", "b", "c", kind="sequential")
    traced = ((("traceparent", f"00-{'ab' * 16}-{'12' * 8}-01".encode())), ("tracestate", b"x=1"))

    def traces(it: Coordinating, restarts: bool, headers: Any) -> list[tuple[bytes | None, bytes | None]]:
        found = it.plan(chain, headers=headers)
        for number in range(3):
            if restarts:
                it.restart()
            found += it.step("p", number)
        sent = [told["headers"] for told in found if told["topic"] == "tasks"]
        return [(headers.get("traceparent"), headers.get("tracestate")) for headers in sent]

    whole, broken = traces(Coordinating(), False, traced), traces(Coordinating(), True, traced)
    assert whole == broken
    assert len({parent for parent, _ in whole}) == 3
    assert {(parent[:36], parent[-3:], state) for parent, state in whole if parent} == {
        (b"00-" + b"ab" * 16 + b"-", b"-01", b"x=1")
    }
    assert traces(Coordinating(), True, ()) == [(None, None)] * 3
    assert traces(Coordinating(), True, (("traceparent", b"00-1-2-01"),)) == [(None, None)] * 3


async def test_a_plan_id_is_answered_once_also_after_a_restart() -> None:
    """Under way or over; the record that began it may be read again, though."""
    it = Coordinating()
    it.plan(plan("a"), offset=5)
    it.restart()
    assert it.plan(plan("a"), offset=5) == []
    assert topics(it.plan(plan("a"), offset=6)) == ["plan:duplicate"]
    it.step("p", 0)
    it.restart()
    assert topics(it.plan(plan("a"), offset=7)) == ["plan:duplicate"]
    assert it.count("parallax_plans_duplicate_total") == 2


async def test_a_plan_id_is_a_duplicate_for_as_long_as_its_steps_are_and_no_longer() -> None:
    """Sent again after 30 hours its steps might still be duplicates without an answer; after 49 it runs."""
    it = Coordinating()
    it.plan(plan("a"), offset=5)
    it.step("p", 0)
    for hours, duplicate in ((30, True), (49, False)):
        it.skew_ms = hours * 3_600_000
        assert ("plan:duplicate" in topics(it.plan(plan("a"), offset=hours))) is duplicate


async def test_results_are_missed_by_nobody_only_if_no_plan_is_remembered() -> None:
    """Ids of plans that are over wait for none; another application's plans are its own; what is not readable may wait."""
    it, other = Coordinating(), Coordinating()
    assert not anything_under_way(it.state.values(), "app")
    it.plan(plan("a", "b"))
    assert anything_under_way(it.state.values(), "app")
    assert not anything_under_way(it.state.values(), "other")
    it.step("p", 0)
    it.step("p", 1)
    assert it.state
    assert not anything_under_way(it.state.values(), "app")
    assert anything_under_way([*it.state.values(), b"{"], "app")
    other.plan(plan("a", id="q"))
    other.step("q", 0)
    assert not anything_under_way([*it.state.values(), *other.state.values()], "app")


async def test_a_memory_that_is_not_understood_costs_its_plan_not_the_partition() -> None:
    """The plan ends as failed; the others go on."""
    it = Coordinating()
    it.plan(plan("a") | {"id": "good"})
    it.plan(plan("a") | {"id": "ill"})
    key = next(key for key in it.state if key.endswith(b"ill"))
    it.state[key] = it.state[key].replace(b'"agent"', b'"agnt"')
    it.state[b"x"] = b"\xff"
    it.restart()
    told = it.commit()
    assert (one(told, "plan-results")["planId"], one(told, "plan-results")["error"]["code"]) == ("ill", "internal")
    assert topics(it.step("good", 0)) == ["plan-results", "plan:completed"]
