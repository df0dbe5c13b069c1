"""One level of a running plan: which steps may start now, and when the level is over. A state machine, pure and without
time.

In: the ends of steps, in any order. Out: steps to start and, once, the verdict. After the verdict, and for steps that
have ended or never started, no input changes anything. `strategies.py` decides when a level is over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Any, Literal, NamedTuple

from schemas.messages import ResultStatus
from streams.rules.plans.blueprint import Blueprint

MAX_REASONS = 20
MAX_REASON_CHARS = 300


@dataclass(slots=True)
class End:
    """How a step ended. `value`: its answer as JSON, None without one or if it was dropped from memory.

    `wire`: the other fields of its `Result` (status, error, confidence, ...), without ids, answer and metadata.
    `place`: partition and offset of its record on `results`, if there is one.
    """

    wire: dict[str, Any]
    value: bytes | None = None
    place: tuple[int, int] | None = None
    dropped: bool = False
    """The value was dropped to bound memory; its record is at `place`."""

    @property
    def status(self) -> ResultStatus:
        return self.wire["status"]  # type: ignore[no-any-return]

    @property
    def confidence(self) -> float | None:
        return self.wire.get("confidence")


class PlanVerdict(NamedTuple):
    """How a step graph ended. `winner`: the step whose answer is the plan's own, if one step's is.

    `confidence`: of the plan's answer: that of the winner, the lowest or the mean of the steps that succeeded.
    """

    status: ResultStatus
    error: dict[str, Any] | None = None
    winner: int | None = None
    confidence: Literal["winner", "lowest", "mean"] = "lowest"


class PlanStrategy(NamedTuple):
    """How a plan runs. `judge`: the verdict after the end of a step; None while the plan goes on.

    `by_priority`: steps with the highest `metadata.priority` begin first.
    """

    judge: Callable[[StepGraph, int], PlanVerdict | None]
    by_priority: bool = False


@dataclass(slots=True)
class Moves:
    """The consequences of an input."""

    starts: list[int] = field(default_factory=list)
    verdict: PlanVerdict | None = None


SKIPPED = End({"status": "cancelled"})
"""The end of a step that never began because another one failed, which its result names."""


class StepGraph:
    """The steps of one blueprint. `ends`: by index; None for steps that have not ended."""

    __slots__ = (
        "_ready",
        "_strategy",
        "_waiting",
        "blueprint",
        "ends",
        "good",
        "in_flight",
        "left",
        "started",
        "verdict",
    )

    def __init__(self, blueprint: Blueprint, strategy: PlanStrategy) -> None:
        count = len(blueprint.steps)
        self.blueprint = blueprint
        self._strategy = strategy
        self.ends: list[End | None] = [None] * count
        self.started = bytearray(count)
        self.good: list[int] = []
        """Steps that succeeded, in the order of their ends."""
        self.in_flight = 0
        self.verdict: PlanVerdict | None = None
        self.left = count
        """Steps that have not ended."""
        self._waiting = [len(step.needs) for step in blueprint.steps]
        self._ready = [
            (-step.priority if strategy.by_priority else 0, n)
            for n, step in enumerate(blueprint.steps)
            if not step.needs
        ]
        heapify(self._ready)

    def begin(self) -> Moves:
        """The first steps."""
        return Moves(self._next())

    def ended(self, index: int, end: End) -> Moves:
        """A step's end."""
        if self.verdict is not None or not self.started[index] or self.ends[index] is not None:
            return Moves()
        self.ends[index] = end
        if end.status == "success":
            self.good.append(index)
        self.in_flight -= 1
        self.left -= 1
        if self.blueprint.kind == "dag":
            self._release(index)
        self.verdict = self._strategy.judge(self, index)
        return Moves([] if self.verdict is not None else self._next(), self.verdict)

    def stop(self, verdict: PlanVerdict) -> None:
        """End it from outside: cancelled, or out of time."""
        if self.verdict is None:
            self.verdict = verdict

    def open(self) -> list[int]:
        """Steps that were started and have not ended."""
        return [n for n, end in enumerate(self.ends) if end is None and self.started[n]]

    @property
    def done(self) -> int:
        """How many steps have ended, including skipped ones."""
        return len(self.ends) - self.left

    def failed(self, index: int) -> bool:
        """Whether a step has ended without success."""
        end = self.ends[index]
        return end is not None and end.status != "success"

    def successes(self) -> list[int]:
        """Steps that succeeded, in the order of the plan."""
        return sorted(self.good)

    def _next(self) -> list[int]:
        starts = []
        while self._ready and self.in_flight < self.blueprint.max_concurrency:
            index = heappop(self._ready)[1]
            self.started[index] = 1
            self.in_flight += 1
            starts.append(index)
        return starts

    def _release(self, index: int) -> None:
        """Steps that waited for this one may start; or, after a failure, are skipped with all that wait for them."""
        ended = [index]
        while ended:
            number = ended.pop()
            skips = self.failed(number) and not self.blueprint.continue_on_error
            for other in self.blueprint.dependents[number]:
                if self.ends[other] is not None:
                    continue
                if skips:
                    self.ends[other] = SKIPPED
                    self.left -= 1
                    ended.append(other)
                else:
                    self._waiting[other] -= 1
                    if self._waiting[other] == 0:
                        heappush(self._ready, (0, other))

    def why(self, index: int) -> dict[str, Any]:
        """The error of a plan that failed because of this step."""
        error = self._error(index)
        return {
            "code": error.get("code", "internal"),
            "message": f"step {self.blueprint.steps[index].id!r} ended as {self._status(index)}: "
            f"{str(error.get('message', ''))[:MAX_REASON_CHARS]}",
            "retryable": bool(error.get("retryable", False)),
        }

    def _status(self, index: int) -> str:
        end = self.ends[index]
        return "open" if end is None else end.status

    def _error(self, index: int) -> dict[str, Any]:
        end = self.ends[index]
        return {} if end is None else end.wire.get("error") or {}

    def every_reason(self) -> dict[str, Any]:
        """The error of a plan without a successful step, in the order of the plan."""
        own = [n for n in range(len(self.ends)) if self.ends[n] is not SKIPPED]
        reasons = [
            f"{self.blueprint.steps[n].id}: {self._error(n).get('code', 'internal')}: "
            f"{str(self._error(n).get('message', ''))[:MAX_REASON_CHARS]}"
            for n in own[:MAX_REASONS]
        ]
        if len(own) > MAX_REASONS:
            reasons.append(f"and {len(own) - MAX_REASONS} more")
        return {
            "code": self._error(own[0]).get("code", "internal"),
            "message": "every step failed: " + "; ".join(reasons),
            "retryable": any(bool(self._error(n).get("retryable")) for n in own),
        }

    def surest(self, among: list[int]) -> int:
        """The step with the highest confidence; of equals the first in the plan."""
        return max(among, key=lambda n: (self.confidence(n), -n))

    def confidence(self, index: int) -> float:
        """Of a step's answer; 1 if it states none."""
        end = self.ends[index]
        return 1.0 if end is None or end.confidence is None else end.confidence
