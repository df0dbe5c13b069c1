"""A plan under way: its levels (one more for each pattern that is a local template), its deadlines, and its state.

In: events (begun, a step's end, cancelled, time) with `now_ms`, epoch ms. Out: actions, in order. Pure: the same events
in the same order give the same actions, so it survives a restart: `entries` are the events, `replay` repeats them.
After `Over` nothing changes any more; a repeated event changes nothing.

Steps are identified by paths (`step_ids.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from typing import Any, NamedTuple

import orjson

from schemas.exact_json import dumps, loads
from schemas.times import format_time, parse_time
from streams.rules.plans.answer import PlanAnswer, outcome, too_large
from streams.rules.plans.blueprint import UNBOUNDED_MS, Blueprint, InvalidPlan, PlanStep
from streams.rules.plans.context import context
from streams.rules.plans.step_graph import End, Moves, PlanVerdict, StepGraph
from streams.rules.plans.step_ids import Path, task_id
from streams.rules.plans.strategies import strategy_of
from streams.rules.plans.templates import Templates, expand
from streams.rules.tracing.trace import Trace

ROOT: Path = ()
MAX_KEPT_BYTES = 4 * 1024 * 1024
"""Answers a plan holds; beyond that the oldest are dropped from memory (they are on `results`)."""
NOT_PASSED_ON = frozenset(("dependencies", "input"))


class StartStep(NamedTuple):
    """Send this step's task."""

    path: Path


class StopStep(NamedTuple):
    """Cancel this step's task: its result is no longer needed."""

    path: Path


class Over(NamedTuple):
    """The plan has ended."""

    verdict: PlanVerdict
    outcome: PlanAnswer


Action = StartStep | StopStep | Over


@dataclass(slots=True)
class _Node:
    graph: StepGraph
    began_ms: int
    deadline_ms: int


def failure(code: str, message: str, now_ms: int) -> End:
    """The end of a step that cannot be sent."""
    error = {"code": code, "message": message, "retryable": False}
    return End(
        {
            "status": "failure",
            "error": error,
            "executionTime": 0,
            "retries": 0,
            "cached": False,
            "timestamp": format_time(now_ms),
        }
    )


class PlanRun:
    """One plan. `templates`: those it uses, by name. `entries`: events since they were last taken, for the snapshot.
    `trace`: the trace of its steps.
    """

    def __init__(self, *, plan: Blueprint, accepted_ms: int, templates: Templates, trace: Trace | None = None) -> None:
        self.plan = plan
        self.accepted_ms = accepted_ms
        self.trace = trace
        self.over: Over | None = None
        self.entries: list[dict[str, Any]] = []
        self._templates = templates
        self._nodes: dict[Path, _Node] = {}
        self._deadlines: list[tuple[int, Path]] = []
        self._holding: deque[End] = deque()
        self.kept_bytes = 0
        self._open(ROOT, plan, accepted_ms)

    @property
    def graph(self) -> StepGraph:
        """The plan's own steps."""
        return self._nodes[ROOT].graph

    @property
    def due_ms(self) -> int:
        """When to call `time` next, epoch ms."""
        while self._deadlines:
            due, path = self._deadlines[0]
            node = self._nodes.get(path)
            if node is not None and node.deadline_ms == due:
                return due
            heappop(self._deadlines)
        return self._nodes[ROOT].deadline_ms

    def age_ms(self, now_ms: int) -> int:
        """Since it was accepted, maybe by another worker, whose clock may have been ahead."""
        return max(0, now_ms - self.accepted_ms)

    def begin(self) -> list[Action]:
        """The first steps."""
        return self._work(deque(), ROOT, self.graph.begin(), self.accepted_ms)

    def ended(self, path: Path, end: End, now_ms: int, cancelled: str | None = None) -> list[Action]:
        """The end of a step whose task was sent, or could not be. `cancelled`: the reason of a request to cancel the
        plan.
        """
        node = self._nodes.get(path[:-1]) if path else None
        if self.over or node is None or path in self._nodes or path[-1] >= len(node.graph.ends):
            return []
        graph, index = node.graph, path[-1]
        if not graph.started[index] or graph.ends[index] is not None:
            return []
        entry: dict[str, Any] = {"p": path, "at": now_ms, "wire": end.wire}
        if end.value is not None:
            entry["value"] = orjson.Fragment(end.value)
        if end.place is not None:
            entry["place"] = end.place
        self.entries.append(entry)
        return self._work(deque([(path, end)]), None, None, now_ms, cancelled)

    def cancel(self, reason: str, now_ms: int) -> list[Action]:
        """A cancel was requested."""
        if self.over:
            return []
        return self._end_from_outside(ROOT, _cancelled(reason), now_ms)

    def time(self, now_ms: int) -> list[Action]:
        """End what is out of time: the plan, or a pattern within it."""
        actions: list[Action] = []
        while not self.over and self.due_ms <= now_ms:
            late = self._nodes[ROOT].deadline_ms <= now_ms
            path = ROOT if late else self._deadlines[0][1]
            if path:
                self.entries.append({"p": path, "at": now_ms})
            actions += self._end_from_outside(path, self._too_late(path), now_ms)
        return actions

    def replay(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Repeat the events from before a restart, after `begin`; their actions were carried out then."""
        for entry in entries:
            path = tuple(entry["p"])
            if "wire" not in entry:
                if path in self._nodes and not self.over:
                    self._end_from_outside(path, self._too_late(path), entry["at"])
                continue
            value = dumps(entry["value"]) if "value" in entry else None
            place = tuple(entry["place"]) if "place" in entry else None
            self.ended(path, End(entry["wire"], value, place), entry["at"])
        self.entries.clear()

    def wanted(self, path: Path) -> bool:
        """Whether a step is still to be started."""
        node = self._nodes.get(path[:-1])
        return not self.over and node is not None and node.graph.ends[path[-1]] is None

    def step(self, path: Path) -> PlanStep:
        """The step with that path, which must exist."""
        return self._nodes[path[:-1]].graph.blueprint.steps[path[-1]]

    def task(self, path: Path) -> dict[str, Any]:
        """The task to send for a step. Raises `InvalidPlan` if its `metadata.input` cannot be applied."""
        graph = self._nodes[path[:-1]].graph
        step = graph.blueprint.steps[path[-1]]
        wire: dict[str, Any] = {"id": task_id(self.plan.id, path), "planId": self.plan.id}
        wire |= {name: step.task[name] for name in ("type", "target", "capabilities", "payload") if name in step.task}
        found = self._context(path)
        if found is not None:
            wire["context"] = found
        given = step.task.get("metadata") or {}
        wire["metadata"] = {k: v for k, v in given.items() if k not in NOT_PASSED_ON} | {"stepId": step.id}
        if (deadline := self._step_deadline(path, given)) is not None:
            wire["metadata"]["deadline"] = deadline
        return wire

    # Within

    def _step_deadline(self, path: Path, given: Mapping[str, Any]) -> str | None:
        """A step inherits the deadline of its plan (and of the pattern it is in), unless its own comes first."""
        bound = self._nodes[path[:-1]].deadline_ms
        if bound >= self.accepted_ms + UNBOUNDED_MS:
            return None
        own = given.get("deadline")
        return format_time(bound if own is None else min(bound, parse_time(own)))

    def _context(self, path: Path) -> dict[str, Any] | None:
        """What a step receives beside its payload: the results before it, over its own context."""
        graph = self._nodes[path[:-1]].graph
        own = graph.blueprint.steps[path[-1]].task.get("context")
        found = context(graph, path[-1])
        return found if own is None else {**own, **(found or {})}

    def _open(self, path: Path, plan: Blueprint, now_ms: int) -> StepGraph:
        bounds = [now_ms + plan.timeout_ms]
        if plan.deadline_ms is not None:
            bounds.append(plan.deadline_ms)
        if path:
            bounds.append(self._nodes[path[:-1]].deadline_ms)
        node = self._nodes[path] = _Node(StepGraph(plan, strategy_of(plan)), now_ms, min(bounds))
        heappush(self._deadlines, (node.deadline_ms, path))
        return node.graph

    def _too_late(self, path: Path) -> PlanVerdict:
        node, what = self._nodes[path], "pattern" if path else "plan"
        allowed_ms = node.graph.blueprint.timeout_ms
        if node.deadline_ms < node.began_ms + allowed_ms:
            message = f"the deadline {format_time(node.deadline_ms)} passed before the {what} ended"
            return PlanVerdict("timeout", {"code": "expired", "message": message, "retryable": False})
        message = f"the {what} did not end within {allowed_ms} ms"
        return PlanVerdict("timeout", {"code": "timeout", "message": message, "retryable": True})

    def _end_from_outside(self, path: Path, verdict: PlanVerdict, now_ms: int) -> list[Action]:
        self._nodes[path].graph.stop(verdict)
        return self._work(deque(), path, Moves([], verdict), now_ms)

    def _work(
        self,
        todo: deque[tuple[Path, End | None]],
        path: Path | None,
        moves: Moves | None,
        now_ms: int,
        cancelled: str | None = None,
    ) -> list[Action]:
        """Process until nothing more follows. `todo`: steps to start (None) or that ended; a queue, since plans can be
        deep.
        """
        actions: list[Action] = []
        if path is not None and moves is not None:
            self._follow(path, moves, todo, actions, now_ms)
        while todo and not self.over:
            at, end = todo.popleft()
            node = self._nodes.get(at[:-1])
            if node is None or node.graph.verdict is not None:
                continue
            if end is None:
                self._start(at, todo, actions, now_ms)
            else:
                self._hold(end)
                moves = node.graph.ended(at[-1], end)
                if moves.verdict is not None and (own := self._own_end(at[:-1], end, cancelled, now_ms)) is not None:
                    moves.verdict = node.graph.verdict = own
                self._follow(at[:-1], moves, todo, actions, now_ms)
        return actions

    def _own_end(self, path: Path, end: End, cancelled: str | None, now_ms: int) -> PlanVerdict | None:
        """The end that a plan or a pattern has by itself, if that may have ended this step.

        An earlier owner may have cancelled the steps and died before it had committed the end. And steps inherit the
        deadline: without an owner they expire before their plan does.
        """
        was_cancelled = end.wire.get("status") == "cancelled"
        if was_cancelled and cancelled is not None:
            return _cancelled(cancelled)
        has_expired = (end.wire.get("error") or {}).get("code") == "expired"
        is_late = self._nodes[path].deadline_ms <= now_ms
        return self._too_late(path) if is_late and (was_cancelled or has_expired) else None

    def _follow(
        self, path: Path, moves: Moves, todo: deque[tuple[Path, End | None]], actions: list[Action], now_ms: int
    ) -> None:
        todo.extend(((*path, index), None) for index in moves.starts)
        if moves.verdict is None:
            return
        graph, verdict = self._nodes[path].graph, moves.verdict
        answer = outcome(graph, verdict)
        if answer.dropped and path != ROOT:  # a plan's result says where the record of the step is; a pattern's cannot
            answer = too_large(f"pattern {self.step(path).task['target']!r}")
        if answer.error is not None:
            verdict = graph.verdict = PlanVerdict("failure", answer.error)
        self._stop(path, actions)
        if path == ROOT:
            self.over = Over(verdict, answer)
            actions.append(self.over)
            return
        node = self._close(path)
        todo.append((path, _end_of(node, verdict, answer, now_ms)))

    def _stop(self, path: Path, actions: list[Action]) -> None:
        """Cancel the running steps below: their results are no longer needed."""
        for index in self._nodes[path].graph.open():
            below = (*path, index)
            if below in self._nodes:
                self._stop(below, actions)
                self._close(below)
            else:
                actions.append(StopStep(below))

    def _close(self, path: Path) -> _Node:
        """End a pattern: of its answers only its own is kept."""
        node = self._nodes.pop(path)
        for end in node.graph.ends:
            if end is not None:
                self._let_go(end, dropped=False)
        return node

    def _start(self, path: Path, todo: deque[tuple[Path, End | None]], actions: list[Action], now_ms: int) -> None:
        step = self.step(path)
        template = self._templates.get(step.task.get("target", "")) if step.task.get("type") == "pattern" else None
        if template is None:
            actions.append(StartStep(path))
            return
        try:
            plan = expand(template, step.task.get("payload"), _plain(self._context(path)))
        except InvalidPlan as error:
            todo.append((path, failure("invalid_plan", f"pattern {template['name']!r}: {error}", now_ms)))
            return
        if (allowed_ms := (step.task.get("metadata") or {}).get("timeout")) is not None:
            plan = replace(plan, timeout_ms=min(allowed_ms, template["plan"].get("timeout") or allowed_ms))
        self._follow(path, self._open(path, plan, now_ms).begin(), todo, actions, now_ms)

    def _hold(self, end: End) -> None:
        """Keep an answer if there is room for it: the newest are kept."""
        if end.value is None:
            return
        self._holding.append(end)
        self.kept_bytes += len(end.value)
        while self.kept_bytes > MAX_KEPT_BYTES and len(self._holding) > 1:
            self._let_go(self._holding.popleft(), dropped=True)

    def _let_go(self, end: End, dropped: bool) -> None:
        if end.value is not None:
            self.kept_bytes -= len(end.value)
            end.value, end.dropped = None, dropped


def _cancelled(reason: str) -> PlanVerdict:
    return PlanVerdict("cancelled", {"code": "cancelled", "message": reason, "retryable": False})


def _plain(before: dict[str, Any] | None) -> Any:
    return None if before is None else loads(dumps(before))


def _end_of(node: _Node, verdict: PlanVerdict, answer: PlanAnswer, now_ms: int) -> End:
    """A pattern's end, as the end of its step."""
    wire: dict[str, Any] = {"status": verdict.status}
    if verdict.error is not None:
        wire["error"] = verdict.error
    if answer.confidence is not None:
        wire["confidence"] = answer.confidence
    execution_ms = max(0, now_ms - node.began_ms)  # as in `PlanRun.age_ms`
    wire |= {"executionTime": execution_ms, "retries": 0, "cached": False, "timestamp": format_time(now_ms)}
    return End(wire, answer.value)
