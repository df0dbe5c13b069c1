"""Every record that the plan coordinator writes: step tasks, cancels, results, events, and its own state. Pure.

In: what happened to a plan. Out: `Output`s, binary CloudEvents like all records of the pipeline; one that may be too
large for its topic has a smaller form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from schemas.codec import pack
from schemas.messages import EventType, TaskError
from schemas.times import format_time
from schemas.topics import BY_NAME
from streams.rules.dedup_window import Chunk
from streams.rules.dispatch.routing import owner_key
from streams.rules.plans.result import plan_result, progress
from streams.rules.plans.run import Over, PlanRun
from streams.rules.plans.task_plans import OriginTask, end_of, error_of
from streams.rules.records import LARGE_BYTES, Output
from streams.rules.source_record import OWN_HEADERS, STEP_HEADER, SourceRecord
from streams.rules.task_records import Success, TaskRecorder, Timing
from streams.rules.tracing.trace import Trace

TASK_TYPE = BY_NAME["tasks"].ce_type
CONTROL_TYPE = BY_NAME["controls"].ce_type
STATE = "plan-state"


class PlanRecorder(TaskRecorder):
    """Builds the coordinator's records. `app_id` also prefixes its keys on the state topic."""

    def __init__(self, app_id: str, prefix: str, group: str) -> None:
        super().__init__(app_id=app_id, processor="plans", prefix=prefix, group=group)
        self.app = app_id

    def task(self, task: dict[str, Any], value: bytes, now_ms: int, trace: Trace | None = None) -> Output:
        """A step's task (`value`: its JSON), with the key of its agent's owner partition. `trace`: of its plan."""
        key = owner_key(task)
        subject = task["id"].encode()
        headers = self._headers(TASK_TYPE, subject, subject, format_time(now_ms).encode())
        if trace is not None:
            headers += trace.step(task["id"])
        return Output("tasks", key.encode(), value, headers)

    def stop(self, task_id: str, reason: str, now_ms: int) -> Output:
        """The request to cancel a step's task."""
        key = task_id.encode()
        value = pack({"type": "cancel", "taskId": task_id, "reason": reason[:1024]})
        return Output(
            "controls", key, value, self._headers(CONTROL_TYPE, key + b"/cancel", key, format_time(now_ms).encode())
        )

    def ended(self, run: PlanRun, over: Over, now_ms: int) -> list[Output]:
        """The plan's result and its event. Smaller forms: references for answers, then no results of steps."""
        output = self._plan_result(plan_result(run, over, now_ms), now_ms)
        if output.size > LARGE_BYTES:
            output.fallback = self._plan_result(plan_result(run, over, now_ms, whole=False), now_ms)
            output.fallback.fallback = self._plan_result(
                plan_result(run, over, now_ms, whole=False, each=False), now_ms
            )
        data = progress(run) | {"status": over.verdict.status, "executionTime": run.age_ms(now_ms)}
        if over.outcome.confidence is not None:
            data["confidence"] = over.outcome.confidence
        if over.verdict.error is not None:
            data["error"] = over.verdict.error
        return [output, self._ended_event(run.plan.id, over.verdict.status, data, now_ms)]

    def refused(self, wire: dict[str, Any], now_ms: int) -> list[Output]:
        """The result of a plan that was not begun, and its event."""
        data = {name: wire[name] for name in ("planId", "status", "error", "executionTime")}
        return [self._plan_result(wire, now_ms), self._ended_event(wire["planId"], wire["status"], data, now_ms)]

    def _ended_event(self, plan_id: str, status: str, data: dict[str, Any], now_ms: int) -> Output:
        kind: EventType = "plan:completed" if status == "success" else "plan:failed"
        return self.event(kind, plan_id, data, now_ms)

    def _plan_result(self, wire: dict[str, Any], now_ms: int) -> Output:
        return self.message("plan-results", wire["planId"], pack(wire), now_ms)

    def answered(self, origin: OriginTask, run: PlanRun, over: Over, now_ms: int) -> list[Output]:
        """The result of the task that a plan answers, its event, and the pattern's data point if the pattern ended by
        itself.
        """
        end = end_of(origin, run, over)
        timing = Timing(max(0, now_ms - origin.accepted_ms), 0, run.age_ms(now_ms), origin.wait_ms)
        if end.status == "success":
            success = Success(end.value or b"null", 0.0 if end.confidence is None else end.confidence)
            return self.succeeded(origin.task, origin.echo, origin.agent_id, success, timing, False, now_ms)
        error = error_of(origin, end)
        spoke = end.status != "cancelled" and error.code != "invalid_plan"
        return self.failed(origin.task, origin.echo, error, timing, now_ms, spoke, end.status)

    def unanswered(self, origin: OriginTask, code: str, reason: str, now_ms: int) -> list[Output]:
        """The result of a task whose plan was not begun, and its event."""
        error = TaskError.model_validate({"code": code, "message": reason, "retryable": False})
        timing = Timing(max(0, now_ms - origin.accepted_ms), wait_ms=origin.wait_ms)
        return self.failed(origin.task, origin.echo, error, timing, now_ms)

    def plan_duplicate(self, record: SourceRecord, plan_id: str, now_ms: int) -> Output:
        """`plan:duplicate`: a plan of this id is under way, or has its result."""
        tail = f"/{record.partition}/{record.offset}"
        data = {"planId": plan_id, "partition": record.partition, "offset": record.offset}
        return self.event("plan:duplicate", plan_id, data, now_ms, tail=tail)

    def plan_forward(self, record: SourceRecord, plan_id: str, partition: int, now_ms: int) -> Output:
        """The same bytes to the partition where the results of its steps come in."""
        headers = [h for h in record.headers if h[0] not in OWN_HEADERS]
        output = Output("plans", plan_id.encode(), record.value, headers, partition=partition)
        if output.size > LARGE_BYTES:
            reason = f"the record of {output.size} bytes is larger than the plans topic accepts"
            output.fallback = self.dead_letter(record, "emit", reason, now_ms)[0]
        return output

    def step_forward(self, record: SourceRecord, place: tuple[int, int], partition: int) -> Output:
        """A step's result to the partition where its plan is, since partitions were added. `place`: partition and offset of
        the result."""
        headers = [h for h in record.headers if h[0] not in OWN_HEADERS]
        headers.append((STEP_HEADER, f"{place[0]}/{place[1]}".encode()))
        return Output("plans", record.key, record.value, headers, partition=partition)

    # What is remembered

    def begun(self, run: PlanRun, plan_json: bytes, templates: dict[str, Any], place: tuple[int, int], partition: int,
              now_ms: int) -> Output:  # fmt: skip
        """A plan was accepted."""
        content = {
            "planId": run.plan.id,
            "plan": orjson.Fragment(plan_json),
            "templates": templates,
            "accepted": format_time(run.accepted_ms),
            "place": place,
        }
        if run.trace is not None:
            content["trace"] = list(run.trace)
        return self._memory(self.begun_key(run.plan.id), "begun", content, partition, now_ms)

    def steps(self, plan_id: str, sequence: int, rows: Sequence[bytes], partition: int, now_ms: int) -> Output:
        """Outcomes of a plan's steps: one chunk, written again as long as it is small."""
        content = {"planId": plan_id, "sequence": sequence, "entries": [orjson.Fragment(row) for row in rows]}
        return self._memory(self.steps_key(plan_id, sequence), "steps", content, partition, now_ms)

    def seen(self, chunk: Chunk, partition: int, now_ms: int) -> Output:
        """Ids of plans that have their results."""
        return self._memory(f"{self.app}/seen/{chunk.slot}", "seen", chunk.row(), partition, now_ms)

    def forget(self, key: str, partition: int) -> Output:
        return Output(STATE, key.encode(), None, partition=partition)

    def begun_key(self, plan_id: str) -> str:
        """The key of a plan's beginning on the state topic."""
        return f"{self.app}/plan/{plan_id}"

    def steps_key(self, plan_id: str, sequence: int) -> str:
        """The key of a chunk of a plan's steps on the state topic."""
        return f"{self.app}/steps/{sequence}/{plan_id}"

    def _memory(self, key: str, kind: str, content: dict[str, Any], partition: int, now_ms: int) -> Output:
        value = pack({"app": self.app, "at": format_time(now_ms), kind: content})
        return Output(STATE, key.encode(), value, partition=partition)
