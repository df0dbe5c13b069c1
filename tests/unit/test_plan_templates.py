"""Local patterns: parameters, and what is refused before a plan begins."""

from __future__ import annotations

from typing import Any

import pytest

from streams.rules.plans.blueprint import InvalidPlan
from streams.rules.plans.templates import expand, read_plan, read_templates, used
from tests.support.plans import pattern, plan, task


def template(name: str, *tasks: Any, **fields: Any) -> dict[str, Any]:
    """A template of these tasks."""
    return {"name": name, "plan": {"tasks": list(tasks)}} | fields


def test_parameters_keep_their_type_alone_and_become_text_within_text() -> None:
    """The payload's fields over the defaults; `payload` and `context` are always there."""
    asked = task("a") | {
        "payload": {"n": "${n}", "text": "${n} of ${list}, ${word}", "all": "${payload}", "c": "${context}"}
    }
    made = expand(template("t", asked, parameters={"n": 1, "word": "w"}), {"n": 2, "list": [1]}, {"previous": 5})
    wanted = {"n": 2, "text": "2 of [1], w", "all": {"n": 2, "list": [1]}, "c": {"previous": 5}}
    assert made.steps[0].task["payload"] == wanted


def test_a_missing_parameter_is_named_with_its_place() -> None:
    """Where in the template it stands."""
    with pytest.raises(InvalidPlan) as caught:
        expand(template("t", "x", task("a") | {"payload": {"deep": ["${no}"]}}), None, None)
    assert str(caught.value) == "tasks.1.payload.deep.0: the pattern's parameter 'no' is not given"


def test_the_templates_a_plan_needs_are_kept_with_it() -> None:
    """Those its patterns use too, no others."""
    rows = [template("a", pattern("x", "b")), template("b", task("y")), template("c", task("z"))]
    assert used(read_plan(plan(pattern("p", "a"), pattern("q", "elsewhere"))), read_templates(rows)).keys() == {
        "a",
        "b",
    }


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([template("a", pattern("x", "a"))], "tasks: patterns in a circle: a -> a"),
        ([template("a", pattern("x", "b")), template("b", pattern("y", "a"))], "tasks: patterns in a circle: a -> b -> a"),
        (
            [template("a", pattern("x", "b"))] + [template(n, pattern("x", m)) for n, m in ("bc", "cd", "de", "ef")]
            + [template("f", task("x"))],
            "tasks: patterns nested deeper than 5: a -> b -> c -> d -> e -> f",
        ),
        (
            [template(n, *(pattern(f"x{k}", m) for k in range(12))) for n, m in ("ab", "bc", "cd")]
            + [template("d", *(task(f"x{k}") for k in range(12)))],
            "tasks: 22621 with those of its patterns; at most 10000 are allowed",
        ),
    ],
)  # fmt: skip
def test_circles_depth_and_numbers_are_refused_before_it_begins(rows: list[Any], reason: str) -> None:
    """Not when the plan is half done."""
    with pytest.raises(InvalidPlan) as caught:
        used(read_plan(plan(pattern("p", "a"))), read_templates(rows))
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([1], "template 0: must be an object with a name"),
        ({"name": "a", "plan": 1}, "template a: plan and parameters must be objects"),
        (template("a", task("x"), task("x")), "template a: tasks.1.id: 'x' is the id of tasks.0 already"),
    ],
)
def test_a_template_that_is_no_plan_is_refused_when_it_is_read(row: Any, reason: str) -> None:
    """At the worker's start."""
    with pytest.raises(InvalidPlan) as caught:
        read_templates([row])
    assert str(caught.value) == reason
