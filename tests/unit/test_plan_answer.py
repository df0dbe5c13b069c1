"""The answer of a plan and its confidence, by the table in `streams/rules/plans/answer.py`."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.plans import bad, finish, good, plan, run_of, task


def answers(how: str | None, *said: tuple[Any, float | None], **fields: Any) -> dict[str, Any]:
    """The result of a plan whose steps say this; the last of them fails."""
    names = [f"t{n}" for n in range(len(said))]
    metadata = {} if how is None else {"metadata": {"consensus": how}}
    run = run_of(plan(*names, "x", **({"strategy": "allSettled"} | metadata | fields)))
    ends = {(n,): good(value, confidence) for n, (value, confidence) in enumerate(said)}
    return finish(run, {**ends, (len(said),): bad()})


@pytest.mark.parametrize(
    ("how", "said", "result", "confidence"),
    [
        ("vote", [("a", 0.4), ("b", 0.7), ("a", 0.4)], "a", 0.266666667),
        ("vote", [({"x": 1, "y": 2}, 0.5), ({"y": 2, "x": 1}, 0.5)], {"x": 1, "y": 2}, 0.5),
        ("vote", [("a", 0.5), ("b", 0.5)], "a", 0.25),
        ("vote", [(None, 0.5)], None, 0.5),
        ("best", [("a", 0.4), ("b", 0.7), ("c", 0.7)], "b", 0.7),
        ("mean", [(1, 0.5), (2, 0.5)], 1.5, 0.5),
        ("mean", [(1, 0.0), (2, 0.0)], 1.5, 0.0),
        ("mean", [(3, None)], 3.0, 1.0),
        ("merge", [({"a": 1}, 0.5), ({"a": 2, "b": 3}, 0.4)], {"a": 1, "b": 3}, 0.45),
        ("merge", [("a", 0.5), ({"b": 1}, 0.7)], ["a", {"b": 1}], 0.6),
        (None, [("a", 0.5), ("b", 0.7)], None, 0.6),
    ],
)
def test_what_the_answers_come_to(how: str | None, said: list[Any], result: Any, confidence: float) -> None:
    """Failed steps have no voice."""
    found = answers(how, *said)
    assert (found["status"], found.get("result"), found["confidence"]) == ("success", result, confidence)


def test_a_mean_of_what_is_no_number_is_a_failed_plan() -> None:
    """The steps' results are there all the same."""
    found = answers("mean", ("a", 1.0), (1, 1.0))
    assert (found["status"], found["error"]["code"], len(found["results"])) == ("failure", "bad_response", 3)
    assert "the answer of 't0' is not a number" in found["error"]["message"]


def test_nothing_good_says_nothing() -> None:
    """No confidence without an answer."""
    found = finish(run_of(plan("a", strategy="allSettled", metadata={"consensus": "vote"})), {(0,): bad()})
    assert (found["status"], "confidence" in found, "result" in found) == ("success", False, False)


def test_a_chain_is_as_sure_as_its_weakest_link() -> None:
    """Sequences and graphs; a graph with one last step answers with it, with several it has no answer of its own."""
    sure = {(0,): good("a", 0.3), (1,): good("b", 0.8)}
    found = finish(run_of(plan("a", "b", kind="sequential")), sure)
    assert (found["result"], found["confidence"]) == ("b", 0.3)
    found = finish(run_of(plan("a", task("b", dependencies=["a"]))), sure)
    assert (found["result"], found["confidence"]) == ("b", 0.3)
    found = finish(run_of(plan("a", "b", kind="dag")), sure)
    assert ("result" in found, found["confidence"]) == (False, 0.3)
