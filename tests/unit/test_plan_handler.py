"""The coordinator of one partition's plans: what it writes for each record, and how many plans it takes."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import orjson
import pytest

from schemas.exact_json import loads
from tests.support.coordinating import Coordinating, one, topics
from tests.support.plans import plan, task

pytestmark = pytest.mark.virtual_time


async def test_a_plan_is_begun_and_ended_in_the_commits_of_its_records() -> None:
    """Tasks keyed by their agent; then one result, and no trace on the state topic but that it was there."""
    it = Coordinating()
    told = it.plan(plan("a", "b"))
    assert topics(told) == ["plan:started", "tasks", "tasks"]
    assert [t["key"] for t in told if t["topic"] == "tasks"] == [b"a1", b"a1"]
    assert len(it.state) == 1
    assert topics(it.step("p", 0)) == []
    assert len(it.state) == 2
    told = it.step("p", 1)
    assert topics(told) == ["plan-results", "plan:completed"]
    assert [step["result"] for step in one(told, "plan-results")["results"]] == [0, 1]
    assert [b"/seen/" in key for key in it.state] == [True]
    assert [loads(output.value or b"")["data"]["done"] for output in it.emitted] == [1]
    assert it.count("parallax_plans_total", status="success") == 1
    assert it.count("parallax_plans_active") == 0


async def test_losers_are_cancelled_in_the_commit_of_the_result() -> None:
    """Keyed by their task id, which is how dispatch knows them."""
    it = Coordinating()
    it.plan(plan("a", "b", "c", strategy="race", maxConcurrency=2))
    told = it.step("p", 1)
    assert topics(told) == ["controls", "plan-results", "plan:completed"]
    assert one(told, "controls") == {"type": "cancel", "taskId": "p#0", "reason": "its plan has its answer"}
    assert [output.topic for output in it.emitted] == ["controls"], "the request goes out at once too"


async def test_what_is_no_step_of_a_plan_here_is_skipped_and_changes_nothing() -> None:
    """Other tasks' results, strangers', doubles, garbage, late ones: no output, no state, one skip each."""
    it = Coordinating()
    it.plan(plan("a", "b"))
    it.step("p", 0)
    state = dict(it.state)
    assert it.take("results", {"taskId": "x"}, key="x") == []
    assert it.take("results", b"garbage", key="p") == []
    assert it.step("p", 0) == []
    assert it.step("p", 9) == []
    assert it.take("results", {"taskId": "p", "status": "success"}, key="p") == []
    assert it.step("q", 0) == []
    assert it.take("results", b"{}", key=None) == []
    assert len(it.partition.skipped) == 7
    assert it.state == state
    it.step("p", 1)
    assert it.step("p", 1) == []


async def test_no_more_plans_are_taken_than_may_be_under_way() -> None:
    """Results always are; an end makes room and says so."""
    it = Coordinating(plans={"max_active": 1})
    it.plan(plan("a"))
    assert (it.handler.room("plans"), it.handler.room("results")) == (False, True)
    it.step("p", 0)
    await asyncio.sleep(0)
    assert it.handler.room("plans")
    large = Coordinating(plans={"max_active_bytes": 2000})
    large.plan(plan("a", "b"))
    assert large.handler.room("plans")
    large.step("p", 0, result="x" * 2000)
    assert not large.handler.room("plans")
    large.restart()
    assert not large.handler.room("plans")
    large.step("p", 1)
    assert large.handler.room("plans")


async def test_the_page_of_a_plan_shows_its_steps_then_its_result() -> None:
    """And nothing of plans that are not known."""
    it = Coordinating()
    it.plan(plan("a", task("b", dependencies=["a"])))
    it.step("p", 0)
    view = cast("dict[str, Any]", it.handler.view("p"))
    assert [(step["taskId"], step["status"]) for step in view["steps"]] == [("a", "success"), ("b", "running")]
    assert (view["done"], view["total"], view["inFlight"], view["steps"][1]["dependencies"]) == (1, 2, 1, ["a"])
    it.step("p", 1)
    assert loads(cast("bytes", it.handler.view("p")))["status"] == "success"
    assert it.handler.view("other") is None


async def test_half_an_emoji_in_a_plan_costs_nothing() -> None:
    """Nor does a byte order mark."""
    it = Coordinating()
    raw = orjson.dumps(plan("a", "b", kind="sequential")).replace(b'"payload":"a"', b'"payload":"cut \\ud83d"')
    assert one(it.plan(b"\xef\xbb\xbf" + raw), "tasks")["payload"] == "cut \ufffd"
    it.step("p", 0)
    assert one(it.step("p", 1), "plan-results")["status"] == "success"
