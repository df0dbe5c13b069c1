"""What a step receives of the steps before it. Pure.

In: a step graph and one of its steps. Out: `context` for the step's task, or None. In a sequence: `previous` (the last
answer) and `results` (answers by task id); in a dag the same of the steps it depends on. With `metadata.input`: only
the selection of that JMESPath expression from the two, as `input`. Failed steps have no answer and are left out.

Bounded: `results` of a sequence hold the newest answers up to `MAX_RESULTS` and `MAX_BYTES`; `omitted` is the number of
older ones that are missing; an expression sees all. An answer that was dropped from memory is `{"reference": {...}}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from agents_io.rules.answer import compile_path
from agents_io.rules.paths import select
from schemas.exact_json import loads
from streams.rules.plans.blueprint import InvalidPlan
from streams.rules.plans.step_graph import End, StepGraph

MAX_RESULTS = 100
MAX_BYTES = 256 * 1024


def reference(end: End) -> dict[str, Any]:
    """Where the whole result of a step is: topic, partition, offset; the topic alone if the position is unknown."""
    if end.place is None:
        return {"topic": "results"}
    return {"topic": "results", "partition": end.place[0], "offset": end.place[1]}


def context(graph: StepGraph, index: int) -> dict[str, Any] | None:
    """The context of a step that is about to start. Raises `InvalidPlan` when its expression cannot be applied."""
    blueprint = graph.blueprint
    step = blueprint.steps[index]
    if blueprint.kind == "sequential":
        before = graph.good
    elif blueprint.kind == "dag":
        before = [n for n in step.needs if not graph.failed(n)]
    else:
        before = []
    if step.select is not None:
        return {"input": _selected(step.select, {n: _parsed(graph, n) for n in before}, graph, index)}
    if blueprint.kind == "parallel" or (not step.needs if blueprint.kind == "dag" else index == 0):
        return None
    shown = _newest(graph, before) if blueprint.kind == "sequential" else before
    found: dict[str, Any] = {
        "previous": _json(graph, before[-1]) if before else None,
        "results": {blueprint.steps[n].id: _json(graph, n) for n in shown},
    }
    if len(shown) < len(before):
        found["omitted"] = len(before) - len(shown)
    return found


def _newest(graph: StepGraph, before: list[int]) -> list[int]:
    room = MAX_BYTES
    shown: list[int] = []
    for n in reversed(before[-MAX_RESULTS:]):
        end = graph.ends[n]
        room -= len(end.value or b"") if end is not None else 0
        if room < 0 and shown:
            break
        shown.append(n)
    return shown[::-1]


def _selected(expression: str, values: Mapping[int, Any], graph: StepGraph, index: int) -> Any:
    steps = graph.blueprint.steps
    previous = next(reversed(list(values.values())), None)
    try:
        return select(
            compile_path("input", expression),
            {"previous": previous, "results": {steps[n].id: value for n, value in values.items()}},
        )
    except ValueError as error:
        raise InvalidPlan(f"tasks.{index}.metadata.input: {str(error)[:200]}") from None


def _json(graph: StepGraph, index: int) -> Any:
    end = graph.ends[index]
    if end is None or end.dropped:
        return {"reference": reference(end)} if end is not None else None
    return None if end.value is None else orjson.Fragment(end.value)


def _parsed(graph: StepGraph, index: int) -> Any:
    end = graph.ends[index]
    if end is None or end.dropped:
        return {"reference": reference(end)} if end is not None else None
    return None if end.value is None else loads(end.value)
