"""What a plan says is read as the contract has it, and refused with the field's name where it cannot be run."""

from __future__ import annotations

from typing import Any

import pytest

from streams.rules.plans.blueprint import UNBOUNDED_MS, InvalidPlan
from streams.rules.plans.templates import read_plan
from tests.support.plans import plan, task


@pytest.mark.parametrize(
    ("fields", "tasks", "kind", "strategy"),
    [
        ({}, ["a", "b"], "parallel", "all"),
        ({"strategy": "race", "continueOnError": False}, ["a"], "parallel", "race"),
        ({"continueOnError": False}, [task("a"), task("b")], "sequential", None),
        ({}, [task("a"), task("b", dependencies=["a"])], "dag", None),
        ({"kind": "dag"}, ["a"], "dag", None),
        ({"kind": "sequential"}, ["a"], "sequential", None),
    ],
)
def test_the_kind_follows_from_what_is_given(
    fields: dict[str, Any], tasks: list[Any], kind: str, strategy: str
) -> None:
    """Strategy, then continueOnError, then dependencies."""
    found = read_plan(plan(*tasks, **fields))
    assert (found.kind, found.strategy) == (kind, strategy)


def test_defaults_depend_on_the_kind() -> None:
    """Ten at once in parallel, one at a time in a sequence; no time limit unless the plan gives one."""
    parallel, sequential = read_plan(plan("a")), read_plan(plan("a", kind="sequential", maxConcurrency=5))
    assert (parallel.timeout_ms, parallel.max_concurrency, parallel.threshold) == (UNBOUNDED_MS, 10, 0.8)
    assert (sequential.timeout_ms, sequential.max_concurrency) == (UNBOUNDED_MS, 1)
    assert read_plan(plan("a", timeout=5)).timeout_ms == 5


def test_a_plan_may_have_a_deadline() -> None:
    """RFC 3339 or epoch ms; what is no time is refused by name."""
    assert read_plan(plan("a")).deadline_ms is None
    assert read_plan(plan("a", metadata={"deadline": 5000})).deadline_ms == 5000
    assert read_plan(plan("a", metadata={"deadline": "1970-01-01T00:00:05Z"})).deadline_ms == 5000
    with pytest.raises(InvalidPlan, match=r"metadata\.deadline"):
        read_plan(plan("a", metadata={"deadline": "soon"}))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (plan(), "tasks: list should have at least 1 item"),
        (plan("a", "b", "a"), "tasks.2.id: 'a' is the id of tasks.0 already"),
        (plan("a", kind="dag", strategy="race"), "strategy: only a parallel plan has one, this is dag"),
        (plan("a", strategy="all", continueOnError=True), "continueOnError: a parallel plan goes on"),
        (plan("a", metadata={"confidenceThreshold": 2}), "metadata.confidenceThreshold: must be a number"),
        (plan("a", metadata={"consensus": "loudest"}), "metadata.consensus: must be 'merge', 'vote', 'best' or 'mean'"),
        (plan(task("a", input="a[")), "tasks.0.metadata.input: is not JMESPath"),
        (plan(task("a", dependencies=["b"]), "b", kind="sequential"), "tasks.0.metadata.dependencies: only a dag"),
        (plan("a", task("b", dependencies=["a", "z"])), "tasks.1.metadata.dependencies.1: the plan has no task 'z'"),
        (plan(task("a", dependencies=["a"])), "tasks.0.metadata.dependencies: a cycle: a -> a"),
        (
            plan(
                "x",
                task("a", dependencies=["x", "c"]),
                task("b", dependencies=["a"]),
                task("c", dependencies=["b"]),
                task("z", dependencies=["c"]),
            ),
            "tasks.1.metadata.dependencies: a cycle: a -> c -> b -> a",
        ),
        ({"id": "p", "tasks": [{"id": "a", "type": "agnt", "payload": 1, "target": "x"}]}, "tasks.0.type: input should be"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused_with_field_and_reason(data: dict[str, Any], reason: str) -> None:
    """The user reads it in the plan's result."""
    with pytest.raises(InvalidPlan) as caught:
        read_plan(data)
    assert str(caught.value).startswith(reason)


def test_ten_thousand_tasks_in_a_chain_are_no_recursion() -> None:
    """As deep as a plan may be; a long cycle is shown in part."""
    chain = [task("t0")] + [task(f"t{n}", dependencies=[f"t{n - 1}"]) for n in range(1, 10_000)]
    found = read_plan(plan(*chain))
    assert found.dependents[0] == (1,)
    with pytest.raises(InvalidPlan) as caught:
        read_plan(plan(task("t0", dependencies=["t9999"]), *chain[1:]))
    assert " -> ... -> t0" in str(caught.value)
    assert len(str(caught.value)) < 300
