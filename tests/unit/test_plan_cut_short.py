"""Plans that end before their steps, by their deadline or a cancel request, also if that came while nobody owned them."""

from __future__ import annotations

import asyncio
import time

import pytest

from streams.plans import handler
from tests.support.coordinating import Coordinating, one, topics
from tests.support.plans import plan, task
from tests.support.wait import until

pytestmark = pytest.mark.virtual_time


async def test_plans_end_in_time_also_when_the_time_passed_between_two_owners() -> None:
    """The deadline is of the plan's acceptance."""
    it = Coordinating()
    it.plan(plan("a", "b", timeout=60) | {"id": "soon"})
    await until(lambda: it.partition.touched == 1)
    told = it.commit()
    assert topics(told) == ["controls", "controls", "plan-results", "plan:failed"]
    assert one(told, "plan-results")["status"] == "timeout"
    it.plan(plan("a", timeout=5000) | {"id": "later"})
    it.skew_ms = 5001
    it.restart()
    await until(lambda: it.partition.touched == 2)
    assert one(it.commit(), "plan-results")["planId"] == "later"


async def test_a_pattern_is_out_of_time_before_its_plan_whatever_other_plans_wait_for() -> None:
    """Its deadline comes to be while another plan's is the next one."""
    it = Coordinating()
    it.templates["t"] = {"name": "t", "plan": {"timeout": 150, "tasks": [task("one")]}}
    nested = plan("a", {"id": "x", "type": "pattern", "target": "t", "payload": None}, kind="sequential")
    it.plan(plan("a", timeout=50) | {"id": "other"})
    it.plan(nested)
    it.step("p", 0)
    await until(lambda: it.partition.touched == 2)
    told = it.commit()
    assert {t["value"]["planId"] for t in told if t["topic"] == "plan-results"} == {"other", "p"}


async def test_a_wish_ends_a_plan_wherever_it_is() -> None:
    """Under way, before it came, and while nobody owned the partition."""
    it = Coordinating()
    it.plan(plan("a") | {"id": "one"})
    it.plan(plan("a") | {"id": "two"})
    it.cancel_requests |= {
        "one": "the plan was cancelled",
        "two": "the plan was cancelled",
        "three": "the plan was cancelled: no",
    }
    it.handler.cancel("one")
    assert one(it.commit(), "plan-results")["planId"] == "one"
    it.handler.cancel("nobody")
    it.restart()
    await asyncio.sleep(0.01)
    assert one(it.commit(), "plan-results")["planId"] == "two"
    told = it.plan(plan("a") | {"id": "three"})
    assert topics(told) == ["plan:started", "plan-results", "plan:failed"]
    assert one(told, "plan-results")["error"]["message"] == "the plan was cancelled: no"


async def test_a_plan_that_waited_on_its_topic_was_submitted_when_its_record_was_written() -> None:
    """Not when it was accepted: a request of meanwhile would not concern it."""
    it = Coordinating()
    it.plan(plan("a") | {"id": "one"})
    assert it.asked_of == [("one", 0)], "the record's timestamp"
    it.restart()
    [(_, submitted_ms)] = it.asked_of[1:]
    assert 0 < submitted_ms <= time.time_ns() // 1_000_000, "by then it is no matter any more"


def owned_again(ends_by: str) -> Coordinating:
    """Plan `one` at its next owner, who has not read the results yet: its time, or a cancel, came while it had none."""
    it = Coordinating()
    it.plan(plan("a", "b", timeout=1000) | {"id": "one"})
    if ends_by == "time":
        it.skew_ms += 5000
    else:
        it.cancel_requests["one"] = "unwanted"
    it.partition.is_caught_up = False
    it.restart()
    return it


@pytest.mark.parametrize("ends_by", ["time", "cancel"])
async def test_a_step_that_ended_while_nobody_owned_the_partition_is_heard_before_the_plan_ends(ends_by: str) -> None:
    """Its result lies there; the plan's time, or a request to cancel it, came before the next owner did."""
    for heard in (True, False):
        it = owned_again(ends_by)
        it.handler.cancel("one")
        await asyncio.sleep(handler.READ_BACK_S - 1.0)
        assert it.commit() == []
        if heard:
            it.step("one", 0)
            it.partition.is_caught_up = True
        await asyncio.sleep(1.1)
        result = one(it.commit(), "plan-results")
        assert result["status"] == ("timeout" if ends_by == "time" else "cancelled")
        assert [step["status"] for step in result["results"]] == ["success" if heard else "cancelled", "cancelled"]


@pytest.mark.parametrize("ends_by", ["time", "cancel"])
async def test_a_plan_whose_lost_owner_had_cancelled_the_steps_ends_as_it_would_have(ends_by: str) -> None:
    """The cancels went out at once, the plan's own end was never committed: the steps' ends come first."""
    it = owned_again(ends_by)
    told = it.step("one", 1, "cancelled")
    result = one(told, "plan-results")
    assert result["status"] == ("timeout" if ends_by == "time" else "cancelled")
