"""The plans of one partition, and their state that moves with it to another worker.

In: the state topic's records of this partition; then changes of the plans. Out: what changed since the last commit, as
records of the state topic for the same transaction: a plan's beginning once, its steps in chunks, tombstones at its
end. An unreadable record is skipped; the plan it belongs to ends as failed.
"""

from __future__ import annotations

from binascii import Error as NotBase64
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from schemas.codec import Rejected, decode, dumps
from schemas.messages import PlanBegun, PlanMemory, PlanSteps
from streams.rules.dedup_window import GENERATIONS, Chunk, DedupWindow
from streams.rules.plans.blueprint import InvalidPlan
from streams.rules.plans.records import PlanRecorder
from streams.rules.plans.run import PlanRun
from streams.rules.plans.task_plans import OriginTask, origin_of
from streams.rules.plans.templates import read_plan
from streams.rules.records import Output
from streams.rules.tracing.trace import restored

if TYPE_CHECKING:
    from streams.tracing.spans import WorkSpan

log = structlog.get_logger(__name__)

SMALL_CHUNK = 4 * 1024
"""A chunk of steps below this is written again with those that follow, so that short plans have one."""
LARGE_CHUNK = 512 * 1024
LONGEST_MEMORY = 1 + 2 / GENERATIONS
"""Dispatch remembers a step's id for at most this many windows."""
PARTS = 8


@dataclass(slots=True)
class Active:
    """A plan under way. `plan_json`: as it was sent; None once it is on the state topic."""

    run: PlanRun
    place: tuple[int, int]
    plan_json: bytes | None = None
    templates: dict[str, Any] = field(default_factory=dict)
    sequence: int = 0
    rows: list[bytes] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    """Its keys on the state topic."""
    published_steps: int = 0
    """Steps done when progress was published last."""
    plan_bytes: int = 0
    held: int = 0
    """Bytes counted for it so far."""
    origin: OriginTask | None = None
    """The task it answers; None: it has its own result."""
    span: WorkSpan | None = None
    """Its span; None: tracing is off."""


def anything_under_way(values: Iterable[bytes], app: str) -> bool:
    """Whether the state topic's partition has a plan of this application that may still wait for results.

    If not, and the group never committed here, the existing results belong to no such plan, but to plans that have
    ended, to other applications, or to plain tasks. A plan that this owner accepts sends its tasks only afterwards. If
    there is a plan although offsets are missing (they expire), its steps may have ended meanwhile: `results` must then
    be read from the beginning. An unreadable record may be such a plan.
    """
    for value in values:
        try:
            memory = decode(PlanMemory, value, ())
        except Rejected:
            return True
        if memory.app == app and memory.seen is None:
            return True
    return False


class PlanStore:
    """Plans by id, and the ids of plans that have ended. `lost`: plans whose state is unreadable."""

    def __init__(
        self,
        *,
        number: int,
        recorder: PlanRecorder,
        wall_ms: Callable[[], int],
        window_ms: int,
        max_ids: int,
        owns: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """`owns`: whether a plan id belongs to this partition. Rows of plans that moved to an added partition stay
        here.
        """
        self.active: dict[str, Active] = {}
        self.by_key: dict[bytes, Active] = {}
        # A plan must be remembered longer than its steps: sent again too soon, its steps would be duplicates without an answer.
        self.seen = DedupWindow(round(window_ms * LONGEST_MEMORY), max_ids, PARTS)
        self.bytes = 0
        """Estimated JSON size of the plans under way and the answers they hold."""
        self.lost: list[tuple[PlanBegun, OriginTask | None]] = []
        self._number = number
        self._owns = owns
        self._recorder = recorder
        self._wall_ms = wall_ms
        self._changed: dict[str, Active] = {}
        self._gone: list[str] = []

    def add(self, active: Active) -> None:
        self._put(active)
        self.touch(active)

    def _put(self, active: Active) -> None:
        name = active.run.plan.id
        self.active[name] = active
        self.by_key[name.encode()] = active
        self._count(active)

    def _count(self, active: Active) -> None:
        holds = active.plan_bytes + active.run.kept_bytes
        self.bytes += holds - active.held
        active.held = holds

    def touch(self, active: Active) -> None:
        """The plan has changed."""
        self._changed[active.run.plan.id] = active
        self._count(active)

    def remove(self, active: Active) -> None:
        """The plan has ended."""
        name = active.run.plan.id
        del self.active[name], self.by_key[name.encode()]
        self._changed.pop(name, None)
        self.bytes -= active.held
        self._gone += active.keys

    def changes(self) -> list[Output]:
        """What changed since the last call."""
        now_ms = self._wall_ms()
        outputs: list[Output] = []
        for active in self._changed.values():
            self._write(active, outputs, now_ms)
        self._changed.clear()
        outputs += [self._recorder.forget(key, self._number) for key in self._gone]
        self._gone.clear()
        if (chunk := self.seen.flush()) is not None:
            outputs.append(self._recorder.seen(chunk, self._number, now_ms))
        return outputs

    def _write(self, active: Active, outputs: list[Output], now_ms: int) -> None:
        run = active.run
        if active.plan_json is not None:
            outputs.append(
                self._recorder.begun(run, active.plan_json, active.templates, active.place, self._number, now_ms)
            )
            active.keys.append(self._recorder.begun_key(run.plan.id))
            active.plan_json = None
        fresh = deque(dumps(entry) for entry in run.entries)
        run.entries.clear()
        while fresh:
            size = sum(map(len, active.rows))
            while fresh and (size + len(fresh[0]) <= LARGE_CHUNK or not active.rows):
                size += len(fresh[0])
                active.rows.append(fresh.popleft())
            outputs.append(self._recorder.steps(run.plan.id, active.sequence, active.rows, self._number, now_ms))
            key = self._recorder.steps_key(run.plan.id, active.sequence)
            if active.keys[-1] != key:
                active.keys.append(key)
            if fresh or size >= SMALL_CHUNK:
                active.sequence += 1
                active.rows = []

    def restore(self, values: Iterable[bytes]) -> None:
        """`values`: the newest value of each key of the state topic's partition."""
        begun: dict[str, PlanBegun] = {}
        steps: dict[str, list[PlanSteps]] = {}
        chunks: list[tuple[Chunk, int]] = []
        for value in values:
            try:
                memory = decode(PlanMemory, value, ())
                if memory.app != self._recorder.app:
                    continue
                if memory.seen is not None:
                    chunks.append((Chunk.of(memory.seen), memory.at))
            except (Rejected, NotBase64) as error:
                log.warning("a record of the state topic cannot be read", partition=self._number, error=str(error))
                continue
            if memory.begun is not None:
                begun[memory.begun.plan_id] = memory.begun
            if memory.steps is not None:
                steps.setdefault(memory.steps.plan_id, []).append(memory.steps)
        self.seen.restore(chunks)
        for plan_id, beginning in begun.items():
            if not self._owns(plan_id):
                continue
            self._resume(beginning, sorted(steps.get(plan_id, ()), key=lambda chunk: chunk.sequence))

    def _resume(self, begun: PlanBegun, chunks: list[PlanSteps]) -> None:
        keys = [self._recorder.begun_key(begun.plan_id)]
        keys += [self._recorder.steps_key(begun.plan_id, chunk.sequence) for chunk in chunks]
        origin: OriginTask | None = None
        try:
            origin = origin_of(begun.plan)
            run = PlanRun(
                plan=read_plan(begun.plan),
                accepted_ms=begun.accepted,
                templates=begun.templates,
                trace=restored(begun.trace),
            )
            run.begin()
            for chunk in chunks:
                run.replay(chunk.entries)
        except (InvalidPlan, Rejected, KeyError, TypeError, ValueError) as error:
            log.error("a plan in progress cannot be read any more", plan_id=begun.plan_id, error=repr(error))
            self.lost.append((begun, origin))
            self._gone += keys
            return
        active = Active(run, (begun.place[0], begun.place[1]), keys=keys, published_steps=run.graph.done, origin=origin)
        active.plan_bytes = len(dumps(begun.plan))
        if chunks:
            active.sequence = chunks[-1].sequence
            active.rows = [dumps(entry) for entry in chunks[-1].entries]
            if sum(map(len, active.rows)) >= SMALL_CHUNK:
                active.sequence, active.rows = active.sequence + 1, []
        self._put(active)
