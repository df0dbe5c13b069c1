"""`parallax plan`: what it makes of the topics."""

from __future__ import annotations

from typing import Any

import pytest

from streams.cli.plan import draw, steps_of
from tests.support.plans import pattern, plan, task


def ended(name: str, step: str, status: str = "success") -> dict[str, Any]:
    """A step's result on `results`."""
    return {"taskId": name, "planId": "p", "status": status, "confidence": 0.5, "metadata": {"stepId": step}}


def test_a_plan_that_runs_shows_what_each_step_does() -> None:
    """Those within a pattern below it, one deeper; strangers' results are not shown."""
    sent = plan("a", task("b", dependencies=["a"]), task("c", dependencies=["b"]), pattern("d", "t"))
    begun = [{"type": "task:started", "data": {"taskId": name}} for name in ("p#0", "p#1", "p#3.0", "q#0")]
    steps = steps_of("p", sent, None, [ended("p#0", "a"), ended("p#3.1", "in"), ended("q#1", "x")], begun)
    assert [(step["depth"], step["taskId"], step["status"]) for step in steps] == [
        (0, "a", "success"), (1, "b", "running"), (2, "c", "waiting"), (0, "d", "waiting"), (1, "?", "running"),
        (1, "in", "success"),
    ]  # fmt: skip


def test_a_result_is_enough_to_show_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    """The plan itself may be gone from its topic."""
    failed = {"status": "failure", "error": {"code": "timeout", "message": "late"}}
    end: dict[str, Any] = {"planId": "p", "kind": "dag", "status": "failure", "executionTime": 7, "confidence": 0.25}
    end |= {"results": [{"taskId": "a", "status": "success"}, {"taskId": "b"} | failed], "error": failed["error"]}
    draw({"planId": "p", "plan": None, "result": end, "steps": steps_of("p", {}, end, [], [])})
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["p  dag  failure  2 of 2 steps ended  confidence 0.250  7 ms", "timeout: late"]
    assert [line.split()[:3] for line in lines[3:]] == [["✓", "a", "success"], ["✗", "b", "failure"]]


def test_what_is_no_plan_at_all_is_shown_as_nothing() -> None:
    """Whatever lies on the topic."""
    assert steps_of("p", {"tasks": 5}, {"results": [1]}, [], []) == []
