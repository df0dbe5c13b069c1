"""plans: `plans`, `results` -> step tasks on `tasks`, `plan-results`, `controls` for what need not go on, `events`.

In: records of one owner partition: plans, and the results of their steps (both keyed by plan id). Out: what the rules in
`streams/rules/plans/` decide, with the plan's memory on `plan-state`, in the transaction that commits the offsets. A plan that
dispatch made of a pattern task ends in that task's `results`. Results that belong to no plan of this partition are skipped,
unread. It calls no agent.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from typing import Any

import structlog
from aiokafka.structs import ConsumerRecord

from schemas.codec import Rejected, decode_json, dumps, validate
from schemas.messages import Result
from schemas.partitioning import owner_partition
from streams.engine.handler import source_record_of
from streams.engine.partition_processor import PartitionProcessor
from streams.plans.clock import PlanClock
from streams.plans.intake import PlanRefused, id_of, opened, place_of_step
from streams.plans.memory import Active, PlanStore
from streams.plans.outcomes import PlanOutcomes, why_stopped
from streams.plans.parts import PlanParts
from streams.plans.spans import PlanSpans, marked
from streams.rules.dedup_window import digest
from streams.rules.plans.blueprint import InvalidPlan
from streams.rules.plans.result import view
from streams.rules.plans.run import Action, Over, PlanRun, StartStep, StopStep, failure
from streams.rules.plans.step_graph import End
from streams.rules.plans.step_ids import path_of, step_of, task_id
from streams.rules.plans.task_plans import OriginTask, origin_of, plan_of
from streams.rules.records import Output
from streams.rules.source_record import SourceRecord
from streams.rules.tracing.spans import ended_in, rejection

log = structlog.get_logger(__name__)

KEPT_FIELDS = tuple(
    str(info.alias)
    for name, info in Result.model_fields.items()
    if name not in ("task_id", "plan_id", "result", "metadata")
)
"""What a plan keeps of a step's result beside the answer."""
PLAN_ID_MARK = b'"planId"'
"""In the bytes of every result of a step."""
READ_BACK_S = 10.0
"""How long a plan continues past its time, or past a cancel request, until results from before this owner are read."""
RECHECK_MS = 50
MAX_BEGUN_BYTES = 128 * 1024 * 1024
"""Tasks of one plan that begin together, each with its own copy of the answers before it: they are written at once."""
MAX_RECENT_BYTES = 1024 * 1024
"""Results of ended plans, kept for the page of the plan."""


class PlanHandler:
    """The plans of one partition."""

    def __init__(self, partition: PartitionProcessor, parts: PlanParts, kept: Iterable[bytes] = ()) -> None:
        """`kept`: records that earlier owners of this partition wrote to the state topic."""
        settings = parts.settings
        self._partition = partition
        self._parts = parts
        self._store = PlanStore(
            number=partition.number,
            recorder=parts.recorder,
            wall_ms=parts.wall_ms,
            window_ms=settings.dispatch.idempotency_window,
            max_ids=settings.dispatch.idempotency_ids,
            owns=lambda plan_id: self._owner(plan_id) == partition.number,
        )
        self._tell = PlanOutcomes(parts)
        self._spans = PlanSpans(parts.tracing, partition)
        self._loop = asyncio.get_running_loop()
        self._pending: list[Output] = []
        self._clock = PlanClock(parts.wall_ms, self._due)
        self._recent: OrderedDict[str, bytes] = OrderedDict()
        self._recent_bytes = 0
        self._closed = False
        self._read_back_until = self._loop.time() + READ_BACK_S
        self._resume(kept)

    # Called by the partition

    def room(self, source: str) -> bool:
        """False for `plans` while the limit of plans under way, or of their bytes, is reached."""
        limits = self._parts.settings.plans
        return source != "plans" or (
            len(self._store.active) < limits.max_active and self._store.bytes < limits.max_active_bytes
        )

    def running(self) -> int:
        """0: nothing is called here."""
        return 0

    def changes(self) -> list[Output]:
        """Changes by timers and cancel requests, and the state for another owner."""
        pending, self._pending = self._pending, []
        return pending + self._store.changes()

    def explain(self, source: str, offset: int) -> dict[str, Any] | None:
        """None: records are finished as they are taken."""
        return None

    def unblock(self, source: str, offsets: Sequence[int]) -> None:
        """Nothing to do: no record is kept here, so none holds back a commit."""

    def hold(self) -> None:
        """Start nothing without a record any more."""
        self._closed = True
        self._clock.stop()

    def close(self) -> None:
        """The next owner continues from what is committed."""
        self.hold()
        self._parts.metrics.active.dec(len(self._store.active))
        self._store.active.clear()
        self._store.by_key.clear()
        self._pending.clear()

    def process(self, source: str, record: ConsumerRecord) -> None:
        """Process one record: a plan to begin, or the end of a step."""
        if source == "results":
            active = self._store.by_key.get(record.key)
            if active is not None and self._guarded(active, source, record, (record.partition, record.offset)):
                return
            moved = self._step_moved(record, (record.partition, record.offset)) if active is None else None
            if moved is None:
                self._partition.skip(source, record.offset)
            else:
                self._partition.complete(source, record.offset, [moved])
            return
        source_record = source_record_of(source, record)
        if (place := place_of_step(source_record)) is not None:
            active = self._store.by_key.get(record.key)
            if active is None or not self._guarded(active, source, record, place):
                moved = self._step_moved(record, place)
                self._partition.complete(source, record.offset, [] if moved is None else [moved])
            return
        try:
            outputs = self._accept(source_record)
        except Rejected as rejected:
            outputs = self._reject(source_record, rejected)
        except Exception as error:
            log.exception(
                "unexpected error while running a plan", topic=source_record.topic, offset=source_record.offset
            )
            outputs = self._reject(source_record, Rejected("plans", f"internal error: {type(error).__name__}"))
        self._partition.complete(source, record.offset, outputs)

    def _reject(self, record: SourceRecord, rejected: Rejected) -> list[Output]:
        outputs = self._tell.rejected(record, rejected, self._parts.wall_ms())
        return self._spans.unbegun(record, rejection(rejected.stage), outputs)

    # Called by others

    def cancel(self, plan_id: str) -> None:
        active = self._store.active.get(plan_id)
        if active is not None and not self._closed and self._cancel_reason(active) is not None:
            due_ms = self._due(plan_id, self._parts.wall_ms())
            if due_ms is not None:
                self._clock.set(plan_id, due_ms)

    def cancel_task(self, task_id: str) -> None:
        """This task was cancelled: if a plan here answers it, the plan ends."""
        self.cancel(plan_of(task_id))

    def _cancel_reason(self, active: Active, submitted_ms: int | None = None) -> str | None:
        """`submitted_ms`: of a plan that begins; one under way was submitted no later than it was accepted."""
        at_ms = active.run.accepted_ms if submitted_ms is None else submitted_ms
        why = self._parts.cancelled(active.run.plan.id, at_ms)
        if why is None and active.origin is not None:
            return self._parts.task_cancelled(active.origin.task.id, at_ms)
        return why

    def view(self, plan_id: str) -> dict[str, Any] | bytes | None:
        """A plan as the page shows it; for one that has ended, its result as JSON; None if it is unknown here."""
        active = self._store.active.get(plan_id)
        return self._recent.get(plan_id) if active is None else view(active.run)

    # Beginning

    def _resume(self, kept: Iterable[bytes]) -> None:
        now_ms = self._parts.wall_ms()
        self._store.restore(kept)
        for lost, origin in self._store.lost:
            why = PlanRefused("internal", "what was known of the plan is not readable")
            self._pending += self._refuse(lost.plan_id, lost.plan, origin, why, now_ms)
        self._parts.metrics.active.inc(len(self._store.active))
        for active in list(self._store.active.values()):
            self._spans.begin(active)
            due_ms = active.run.due_ms if self._cancel_reason(active) is None else now_ms
            self._clock.set(active.run.plan.id, due_ms)
        if self._pending:
            self._partition.touch()

    def _accept(self, record: SourceRecord) -> list[Output]:
        """Begin a plan; or answer at once why it cannot begin."""
        data = decode_json(record.value, record.headers).data
        plan_id = id_of(data)
        moved = self._moved(record, plan_id)
        if moved is not None:
            return [moved]
        origin, now_ms = origin_of(data), self._parts.wall_ms()
        known = self._store.active.get(plan_id)
        if known is not None and known.place == (record.partition, record.offset):
            return []  # read again after a restart on a broker without transactions
        if known is not None or self._store.seen.has(digest("plan", plan_id), now_ms):
            return self._tell.duplicate(record, plan_id, origin, now_ms)
        try:
            if origin is not None and origin.refused is not None:
                raise PlanRefused(origin.refused.code, origin.refused.message)
            return self._begin(opened(data, origin, record, self._parts, now_ms), record, now_ms)
        except PlanRefused as why:
            return self._refuse(plan_id, data, origin, why, now_ms, record)
        except Exception as error:
            log.exception("unexpected error while running a plan", topic=record.topic, offset=record.offset)
            self._take_back(plan_id)
            fault = PlanRefused("internal", f"internal error: {type(error).__name__}")
            return self._refuse(plan_id, data, origin, fault, now_ms, record)

    def _begin(self, active: Active, record: SourceRecord, now_ms: int) -> list[Output]:
        self._spans.begin(active)
        self._store.add(active)
        self._parts.metrics.active.inc()
        reason = self._cancel_reason(active, min(record.timestamp_ms, now_ms))
        actions = active.run.begin() if reason is None else active.run.cancel(reason, now_ms)
        return [*self._tell.began(active, actions, now_ms), *self._carry_out(active, actions, now_ms)]

    def _take_back(self, plan_id: str) -> None:
        """The plan failed as it began: nothing of it was sent."""
        active = self._store.active.get(plan_id)
        if active is not None:
            self._store.remove(active)
            self._clock.forget(plan_id)
            self._parts.metrics.active.dec()

    def _moved(self, record: SourceRecord, plan_id: str) -> Output | None:
        """Forward a plan whose steps' results will be in another partition. It is never begun in a wrong one: the
        results would not reach it there, and the next owner would not resume it.
        """
        number = self._owner(plan_id)
        if number == self._partition.number:
            return None
        return self._parts.recorder.plan_forward(record, plan_id, number, self._parts.wall_ms())

    def _owner(self, plan_id: str) -> int:
        return owner_partition(plan_id, self._parts.partition_count())

    def _step_moved(self, record: ConsumerRecord, place: tuple[int, int]) -> Output | None:
        """Forward the result of a step whose plan belongs to another partition since partitions were added; else None.

        Results of plain tasks have no planId: most are recognised without being decoded.
        """
        if not record.key or not record.value or PLAN_ID_MARK not in record.value:
            return None
        number = self._owner(record.key.decode("utf-8", "replace"))
        if number == self._partition.number:
            return None
        try:
            data = decode_json(record.value, record.headers).data
            if not step_of(data["planId"], data["taskId"]):
                return None
        except (Rejected, KeyError, TypeError, AttributeError):
            return None
        return self._parts.recorder.step_forward(source_record_of("results", record), place, number)

    def _refuse(
        self, plan_id: str, data: dict[str, Any], origin: OriginTask | None, why: PlanRefused, now_ms: int,
        record: SourceRecord | None = None,
    ) -> list[Output]:  # fmt: skip
        self._store.seen.add(digest("plan", plan_id), now_ms)
        outputs, page = self._tell.refused(plan_id, data, origin, why.code, why.reason, now_ms)
        self._remember(plan_id, page)
        return self._spans.unbegun(record, ended_in(why.code, None, None), outputs)

    # Going on

    def _guarded(self, active: Active, source: str, record: ConsumerRecord, place: tuple[int, int]) -> bool:
        try:
            return self._step_ended(active, source, record, place)
        except Exception:  # the plan ends by its time limit then
            log.exception(
                "unexpected error while processing a step's result", partition=record.partition, offset=record.offset
            )
            return False

    def _step_ended(self, active: Active, source: str, record: ConsumerRecord, place: tuple[int, int]) -> bool:
        """Whether this record ends a step of this plan, and was applied. `place`: where its result is."""
        run = active.run
        try:
            data = decode_json(record.value, record.headers).data
            validate(Result, data)
            path = path_of(run.plan.id, data["taskId"]) if data.get("planId") == run.plan.id else None
            value = dumps(data["result"]) if data.get("result") is not None else None
        except Rejected as rejected:
            log.warning("result ignored", partition=record.partition, offset=record.offset, reason=rejected.reason)
            return False
        if path is None:
            return False
        now_ms = self._parts.wall_ms()
        wire = {name: data[name] for name in KEPT_FIELDS if data.get(name) is not None}
        before = len(run.entries)
        cancelled = self._cancel_reason(active) if wire["status"] == "cancelled" else None
        actions = run.ended(path, End(wire, value, place), now_ms, cancelled)
        if len(run.entries) == before:
            return False  # it had ended before, or never began
        self._parts.metrics.steps.labels(wire["status"]).inc()
        self._store.touch(active)
        outputs = self._carry_out(active, actions, now_ms)
        self._tell.progressed(active, now_ms)
        self._partition.complete(source, record.offset, outputs)
        return True

    def _carry_out(self, active: Active, actions: list[Action], now_ms: int) -> list[Output]:
        run, recorder = active.run, self._parts.recorder
        outputs: list[Output] = []
        begun_bytes = 0
        todo = deque(actions)
        while todo:
            action = todo.popleft()
            if isinstance(action, Over):
                outputs += self._over(active, action, now_ms)
            elif isinstance(action, StopStep):
                # Sent at once, since the agent's work is useless now; and in the transaction, so it is never missing. What
                # stops a step stays true whatever becomes of the commit: a result, a cancel request, the time.
                stop = recorder.stop(task_id(run.plan.id, action.path), why_stopped(run), now_ms)
                self._parts.emit(stop)
                outputs.append(stop)
            elif run.wanted(action.path):
                if begun_bytes > MAX_BEGUN_BYTES:
                    message = (
                        f"the steps that begin together have more than {MAX_BEGUN_BYTES} bytes with their contexts"
                    )
                    end: End | None = failure("too_large", message, now_ms)
                else:
                    end = self._send(run, action, outputs, now_ms)
                if end is not None:
                    todo.extend(run.ended(action.path, end, now_ms))
                else:
                    begun_bytes += len(outputs[-1].value or b"")
        if not run.over:
            self._clock.set(run.plan.id, run.due_ms)
        return marked(active, outputs)

    def _send(self, run: PlanRun, start: StartStep, outputs: list[Output], now_ms: int) -> End | None:
        """The task of a step; or the step's end, if there can be no task."""
        limit = self._parts.max_task_bytes
        try:
            task = run.task(start.path)
            value = dumps(task)
        except InvalidPlan as error:
            return failure("invalid_plan", str(error), now_ms)
        except Rejected as rejected:
            return failure("too_large", rejected.reason, now_ms)
        if len(value) > limit:
            message = f"the task has {len(value)} bytes with its context; at most {limit} are accepted"
            return failure("too_large", message, now_ms)
        outputs.append(self._parts.recorder.task(task, value, now_ms, run.trace))
        return None

    def _over(self, active: Active, over: Over, now_ms: int) -> list[Output]:
        plan_id = active.run.plan.id
        self._store.remove(active)
        self._clock.forget(plan_id)
        self._store.seen.add(digest("plan", plan_id), now_ms)
        outputs, page = self._tell.ended(active, over, now_ms)
        self._remember(plan_id, page)
        self._spans.over(active, over)
        self._loop.call_soon(self._partition.wake)
        return outputs

    def _remember(self, plan_id: str, result: bytes) -> None:
        if len(result) * 16 > MAX_RECENT_BYTES:
            return
        self._recent[plan_id] = result
        self._recent_bytes += len(result)
        while self._recent_bytes > MAX_RECENT_BYTES:
            self._recent_bytes -= len(self._recent.popitem(last=False)[1])

    # Time

    def _by_itself(self, active: Active, actions: list[Action], now_ms: int) -> None:
        """A change without a record: it is committed with the next commit."""
        if actions:
            self._store.touch(active)
            self._pending += self._carry_out(active, actions, now_ms)
            self._partition.touch()

    def _due(self, plan_id: str, now_ms: int) -> int | None:
        """A deadline of this plan may have come, or it is cancelled. Returns when to check again. Steps that ended
        while the partition had no owner are applied first.
        """
        active = self._store.active.get(plan_id)
        if active is None:
            return None
        if self._loop.time() < self._read_back_until and not self._partition.caught_up("results"):
            return now_ms + RECHECK_MS
        why, run = self._cancel_reason(active), active.run
        self._by_itself(active, run.time(now_ms) if why is None else run.cancel(why, now_ms), now_ms)
        return None if run.over else run.due_ms
