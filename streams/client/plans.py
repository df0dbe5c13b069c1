"""Builders of plans: steps that run in parallel, in sequence, or as a graph.

    parallel([step("a1", question), step("a2", question)], strategy="race")
    sequence([step("fetch", url), step("summarize", None, input="results.\"0\"")])
    dag({"fetch": step("fetch", url), "sum": step("summarize", None, after=["fetch"])})

A step's id is its name in a `dag`, else `id` or its place, counted from 0. Ids belong to the plan: other plans may use them too.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.messages import Plan, Strategy
from streams.client.errors import InvalidTask
from streams.client.requests import Request, TaskKind, check, encode, task_data, wire_metadata
from streams.client.times import Duration, Moment, duration_ms, moment_text
from streams.rules.plans.blueprint import InvalidPlan
from streams.rules.plans.templates import read_plan


class NewId(str):
    """The id of a plan that was made without one. `sent`: whether a client has sent it."""

    sent = False


@dataclass(frozen=True)
class Step:
    """One task of a plan, made by `step`. `after`: names of the steps it waits for, in a `dag`."""

    target: str | None
    payload: Any
    after: tuple[str, ...] = ()
    id: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)

    def data(self, name: str, *, graph: bool = False) -> dict[str, Any]:
        """The task's JSON object."""
        fields = dict(self.fields)
        if graph:
            fields["metadata"] = {**fields.get("metadata", {}), "dependencies": list(self.after)}
        return task_data(name, self.target, self.payload, **fields)


def step(
    target: str | None,
    payload: Any = None,
    *,
    after: Sequence[str] = (),
    id: str | None = None,
    type: TaskKind | None = None,
    timeout: Duration | None = None,
    deadline: Moment | None = None,
    expires_in: Duration | None = None,
    not_before: Moment | None = None,
    capabilities: Sequence[str] | None = None,
    **metadata: Any,
) -> Step:
    """A step; arguments as for `Client.run`. `input="..."`: a JMESPath expression that selects from earlier results."""
    if isinstance(after, str):
        raise InvalidTask(f"after: must be a list of names, not {after!r}")
    fields = {
        "kind": type,
        "timeout": timeout,
        "deadline": deadline,
        "expires_in": expires_in,
        "not_before": not_before,
        "capabilities": capabilities,
        "metadata": metadata or None,
    }
    return Step(target, payload, tuple(after), id, {name: value for name, value in fields.items() if value is not None})


def parallel(
    steps: Sequence[Step],
    *,
    strategy: Strategy = "all",
    id: str | None = None,
    max_concurrency: int | None = None,
    timeout: Duration | None = None,
    deadline: Moment | None = None,
    expires_in: Duration | None = None,
    **metadata: Any,
) -> dict[str, Any]:
    """Run all at once. `strategy`: all (fails with the first failure), race, allSettled, weighted. Returns the plan's
    JSON object.
    """
    return _plan(
        "parallel", _named(steps), id, max_concurrency, timeout, deadline, expires_in, metadata, strategy=strategy
    )


def sequence(
    steps: Sequence[Step],
    *,
    continue_on_error: bool = False,
    id: str | None = None,
    timeout: Duration | None = None,
    deadline: Moment | None = None,
    expires_in: Duration | None = None,
    **metadata: Any,
) -> dict[str, Any]:
    """Run one after the other; each sees earlier results in `context`. Returns the plan's JSON object."""
    rest = {"continueOnError": continue_on_error}
    return _plan("sequential", _named(steps), id, None, timeout, deadline, expires_in, metadata, **rest)


def dag(
    steps: Mapping[str, Step],
    *,
    id: str | None = None,
    max_concurrency: int | None = None,
    timeout: Duration | None = None,
    deadline: Moment | None = None,
    expires_in: Duration | None = None,
    **metadata: Any,
) -> dict[str, Any]:
    """Run as a graph: each step starts when those named in its `after` have ended. Returns the plan's JSON object."""
    tasks = [one.data(name, graph=True) for name, one in steps.items()]
    return _plan("dag", tasks, id, max_concurrency, timeout, deadline, expires_in, metadata)


def _named(steps: Sequence[Step]) -> list[dict[str, Any]]:
    return [one.data(one.id or str(place)) for place, one in enumerate(steps)]


def _plan(
    kind: str,
    tasks: list[dict[str, Any]],
    name: str | None,
    max_concurrency: int | None,
    timeout: Duration | None,
    deadline: Moment | None,
    expires_in: Duration | None,
    metadata: Mapping[str, Any],
    **rest: Any,
) -> dict[str, Any]:
    plan: dict[str, Any] = {"id": name or NewId(uuid.uuid4().hex), "kind": kind, "tasks": tasks, **rest}
    if max_concurrency is not None:
        plan["maxConcurrency"] = max_concurrency
    if timeout is not None:
        plan["timeout"] = duration_ms(timeout, "timeout")
    found = wire_metadata(metadata)
    if deadline is not None:
        found["deadline"] = moment_text(deadline, "deadline")
    if expires_in is not None:
        found["expiresIn"] = duration_ms(expires_in, "expires_in")
    if found:
        plan["metadata"] = found
    return plan


def plan_request(plan: Mapping[str, Any] | Plan) -> Request:
    """The record of a plan: from a builder's result, a JSON object, or a `Plan`. Raises `InvalidTask`."""
    if not isinstance(plan, (Plan, Mapping)):
        raise InvalidTask(f"plan: must be what parallel, sequence and dag return, not {type(plan).__name__}")
    data = plan.wire() if isinstance(plan, Plan) else dict(plan)
    data.setdefault("id", NewId(uuid.uuid4().hex))
    raw = encode(data)
    check(Plan, data)
    try:
        read_plan(data)
    except InvalidPlan as error:
        raise InvalidTask(str(error)) from None
    return Request(data["id"], data["id"].encode(), raw)
