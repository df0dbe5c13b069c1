"""A checked plan: kind inferred, defaults filled in, dependencies resolved to indices. Pure.

In: a validated `Plan` and the JSON it came from. Out: a `Blueprint`, or `InvalidPlan` naming field and reason. It runs
nothing.

Without `kind`: `strategy` -> parallel, `continueOnError` -> sequential, any `metadata.dependencies` -> dag, else
parallel. A field that the kind would silently ignore (a strategy of a dag, dependencies of a sequence) is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from agents_io.errors import Unsupported
from agents_io.rules.answer import compile_path
from schemas.messages import Plan, PlanKind, Strategy, shown
from schemas.times import parse_time

Consensus = Literal["merge", "vote", "best", "mean"]
UNBOUNDED_MS = 10 * 365 * 86_400_000
"""The time limit of a plan without one: its steps have their own, and `dispatch.max_wait` bounds each."""
DEFAULT_THRESHOLD = 0.8
MAX_STEPS = 10_000
"""Steps of a plan, including those of its templates."""
MAX_NAMED = 12
"""Tasks of a cycle that are named."""


class InvalidPlan(Exception):
    """A plan that cannot run; the message names the field and the reason."""


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One task of a plan. `task`: as it was sent. `needs`: the steps it depends on, by index. `select`: JMESPath."""

    id: str
    task: Mapping[str, Any]
    priority: int = 0
    needs: tuple[int, ...] = ()
    select: str | None = None


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A plan ready to run. `dependents`: for each step the steps that wait for it (dag only). `threshold`: of `weighted`."""

    id: str
    kind: PlanKind
    strategy: Strategy | None
    steps: tuple[PlanStep, ...]
    dependents: tuple[tuple[int, ...], ...]
    max_concurrency: int
    continue_on_error: bool
    timeout_ms: int
    threshold: float
    consensus: Consensus | None
    deadline_ms: int | None = None
    """When the plan must have ended, epoch ms; None: it gives no deadline."""


def inferred_kind(plan: Plan) -> PlanKind:
    """The kind given, or the one that the other fields imply.

    >>> inferred_kind(Plan.model_validate({"id": "p", "strategy": "race", "tasks": [
    ...     {"id": "a", "type": "agent", "target": "x", "payload": 1}]}))
    'parallel'
    """
    if plan.kind is not None:
        return plan.kind
    if plan.strategy is not None:
        return "parallel"
    if plan.continue_on_error is not None:
        return "sequential"
    return "dag" if any(task.metadata.dependencies for task in plan.tasks) else "parallel"


def likely_kind(data: Mapping[str, Any]) -> PlanKind:
    """The likely kind of an invalid plan: its result must name one.

    >>> likely_kind({"tasks": [{"metadata": {"dependencies": ["x"]}}]}), likely_kind({"kind": 5, "continueOnError": True})
    ('dag', 'sequential')
    """
    for kind in get_args(PlanKind):
        if data.get("kind") == kind:
            return kind  # type: ignore[no-any-return]
    if data.get("strategy") is not None:
        return "parallel"
    if data.get("continueOnError") is not None:
        return "sequential"
    tasks = data.get("tasks")
    for task in tasks if isinstance(tasks, list) else ():
        metadata = task.get("metadata") if isinstance(task, dict) else None
        if isinstance(metadata, dict) and metadata.get("dependencies"):
            return "dag"
    return "parallel"


def blueprint(plan: Plan, raw_tasks: Sequence[Mapping[str, Any]]) -> Blueprint:
    """The checked plan. `raw_tasks`: its tasks as they came. Raises `InvalidPlan`."""
    kind = inferred_kind(plan)
    if kind != "parallel" and plan.strategy is not None:
        raise InvalidPlan(f"strategy: only a parallel plan has one, this is {kind}")
    if kind == "parallel" and plan.continue_on_error:
        raise InvalidPlan("continueOnError: a parallel plan goes on after a failure with strategy 'allSettled'")
    index: dict[str, int] = {}
    for number, task in enumerate(plan.tasks):
        if index.setdefault(task.id, number) != number:
            raise InvalidPlan(f"tasks.{number}.id: {task.id!r} is the id of tasks.{index[task.id]} already")
    needs = _needs(plan, kind, index)
    dependents = _dependents(needs) if kind == "dag" else ()
    if kind == "dag":
        _refuse_cycles(plan, needs, dependents)
    return Blueprint(
        id=plan.id,
        kind=kind,
        strategy=(plan.strategy or "all") if kind == "parallel" else None,
        steps=tuple(
            PlanStep(task.id, raw_tasks[n], task.metadata.priority, needs[n], _select(n, task.metadata.input))
            for n, task in enumerate(plan.tasks)
        ),
        dependents=dependents,
        max_concurrency=1 if kind == "sequential" else plan.max_concurrency,
        continue_on_error=bool(plan.continue_on_error),
        timeout_ms=plan.timeout or UNBOUNDED_MS,
        threshold=_threshold(plan.metadata or {}),
        consensus=_consensus(plan.metadata or {}),
        deadline_ms=_deadline(plan.metadata or {}),
    )


def _select(number: int, expression: str | None) -> str | None:
    if expression is not None:
        try:
            compile_path("input", expression)
        except Unsupported as error:
            raise InvalidPlan(f"tasks.{number}.{error.message}") from None
    return expression


def _deadline(metadata: Mapping[str, Any]) -> int | None:
    found = metadata.get("deadline")
    if found is None:
        return None
    try:
        return parse_time(found)
    except ValueError as error:
        raise InvalidPlan(f"metadata.deadline: {error}") from None


def _threshold(metadata: Mapping[str, Any]) -> float:
    found = metadata.get("confidenceThreshold")
    if found is None:
        return DEFAULT_THRESHOLD
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 <= found <= 1:
        raise InvalidPlan(f"metadata.confidenceThreshold: must be a number between 0 and 1, not {shown(found)}")
    return float(found)


def _consensus(metadata: Mapping[str, Any]) -> Consensus | None:
    found = metadata.get("consensus")
    if found is not None and found not in get_args(Consensus):
        raise InvalidPlan(f"metadata.consensus: must be 'merge', 'vote', 'best' or 'mean', not {shown(found)}")
    return found


def _needs(plan: Plan, kind: PlanKind, index: Mapping[str, int]) -> list[tuple[int, ...]]:
    needs: list[tuple[int, ...]] = []
    for number, task in enumerate(plan.tasks):
        wanted = task.metadata.dependencies or ()
        if wanted and kind != "dag":
            raise InvalidPlan(f"tasks.{number}.metadata.dependencies: only a dag plan has them, this is {kind}")
        for place, name in enumerate(wanted):
            if name not in index:
                raise InvalidPlan(f"tasks.{number}.metadata.dependencies.{place}: the plan has no task {name!r}")
        needs.append(tuple(dict.fromkeys(index[name] for name in wanted)))
    return needs


def _dependents(needs: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    found: list[list[int]] = [[] for _ in needs]
    for number, wanted in enumerate(needs):
        for other in wanted:
            found[other].append(number)
    return tuple(map(tuple, found))


def _refuse_cycles(plan: Plan, needs: Sequence[tuple[int, ...]], dependents: Sequence[tuple[int, ...]]) -> None:
    """Remove steps without dependencies, again and again: what is left is on a cycle or behind one."""
    waiting = [len(wanted) for wanted in needs]
    free = [number for number, count in enumerate(waiting) if count == 0]
    left = set(range(len(needs)))
    while free:
        number = free.pop()
        left.discard(number)
        for other in dependents[number]:
            waiting[other] -= 1
            if waiting[other] == 0:
                free.append(other)
    if not left:
        return
    at = min(left)
    path: list[int] = []
    seen: dict[int, int] = {}
    while at not in seen:  # each remaining step needs another remaining one, so this ends in a cycle
        seen[at] = len(path)
        path.append(at)
        at = next(other for other in needs[at] if other in left)
    cycle = path[seen[at] :]
    names = [plan.tasks[number].id for number in [*cycle, at]]
    shown = " -> ".join(names) if len(names) <= MAX_NAMED else " -> ".join([*names[:MAX_NAMED], "...", names[-1]])
    raise InvalidPlan(f"tasks.{cycle[0]}.metadata.dependencies: a cycle: {shown}")
