"""Publishes what happens to a task: the records of its end, for the transaction, and progress events and metrics.

In: a task run, and what happened to it. Out: records to write with the end of its intake record. Events are sent at
once, or with that end if it comes before they are sent. It decides nothing and holds nothing.
"""

from __future__ import annotations

import asyncio
from math import inf, isfinite
from typing import TYPE_CHECKING, Any

from agents_io.calling.rules.breaker import Transition
from agents_io.errors import AgentError, AnswerTooLarge
from schemas.codec import Rejected, dumps
from schemas.messages import EventType
from schemas.times import format_time
from streams.dispatch.context import DispatchContext
from streams.dispatch.decisions import Forward, RunPlan, WaitForTime
from streams.dispatch.task_run import TaskRun
from streams.rules.dispatch.judging import Judged
from streams.rules.plans.task_plans import ends_at, plan_for
from streams.rules.records import LARGE_BYTES, Carried, Output
from streams.rules.source_record import SourceRecord
from streams.rules.task_records import Success, Timing, status_of_code
from streams.rules.tracing.spans import Ending, ended_in
from streams.rules.tracing.trace import trace_of

if TYPE_CHECKING:
    from streams.tracing.spans import WorkSpan

CIRCUIT_EVENTS: dict[str, EventType] = {
    "open": "circuit:open",
    "half-open": "circuit:half-open",
    "close": "circuit:close",
}


class TaskReporter:
    """Reports on the tasks of one partition."""

    def __init__(self, context: DispatchContext) -> None:
        self._context = context
        self._loop = asyncio.get_running_loop()

    # On the way

    def started(self, run: TaskRun) -> None:
        """The first call begins. A call to a judge is not reported: the task has started before."""
        if run.judged is not None:
            return
        target = run.task.target
        if target is not None and run.task.type == "http":
            target = target.partition("?")[0]  # the rest may hold a secret
        data = {"taskId": run.task_id, "type": run.task.type, "target": target}
        self._event("task:started", run.task_id, data, span=run.span)

    def retrying(self, run: TaskRun, delay_s: float) -> None:
        """A call failed; another follows."""
        data = {"taskId": run.task_id, "attempt": run.calls, "delay": round(delay_s * 1000)}
        self._context.metrics.retries.inc()
        self._event("task:retrying", run.task_id, data, f"/{run.calls}", run.span)

    def circuit(self, agent_id: str, transition: Transition) -> None:
        """The circuit of an agent changed its state."""
        data: dict[str, Any] = {"agentId": agent_id}
        if transition.kind == "open":
            data["failures"] = transition.failures
        self._context.metrics.circuit(transition.kind)
        self._event(CIRCUIT_EVENTS[transition.kind], agent_id, data, f"/{self._context.wall_ms()}")

    def waiting(self, run: TaskRun, reason: str, wait_s: float = inf) -> None:
        """The task waits for something that may take long; reported once.

        `wait_s`: the shortest possible wait in seconds; infinite if unknown.
        """
        if run.reloaded is not None:
            return
        now_ms = self._context.wall_ms()
        data: dict[str, Any] = {"taskId": run.task_id, "agentId": run.agent_id, "reason": reason}
        if isfinite(wait_s):
            data["until"] = format_time(now_ms + round(wait_s * 1000))
        self._context.metrics.parked.labels(reason).inc()
        self._event("task:parked", run.task_id, data, f"/{now_ms}", run.span)

    # The end of a record

    def succeeded(self, run: TaskRun, success: Success) -> list[Output]:
        """An agent answered, or its answer was judged."""
        agent_id = (run.agent_id or "") if run.judged is None else run.judged.agent_id
        return self._answered(run, agent_id, success, Ending("success", agent_id=agent_id, calls=run.calls))

    def repeated(self, run: TaskRun, agent_id: str, success: Success) -> list[Output]:
        """The answer came from the cache: no call."""
        self._context.metrics.cache_hits.inc()
        self._event("task:cache-hit", run.task_id, {"taskId": run.task_id}, span=run.span)
        ending = Ending("success", agent_id=agent_id, cached=True, confidence=success.confidence)
        return self._answered(run, agent_id, success, ending)

    def not_cached(self, run: TaskRun) -> None:
        """The cache has no answer: an agent must be called."""
        if run.cache_key is not None and run.reloaded is None:
            self._context.metrics.cache_misses.inc()

    def failed(self, run: TaskRun, error: AgentError) -> list[Output]:
        """The task ended with an error."""
        self._finished(run, status_of_code(error.code))
        if run.span is not None:
            run.span.note(ended_in(error.code, run.agent_id, run.calls if run.agent_id is not None else None))
        return self._context.recorder.failed(
            run.task, run.echo, error.as_task_error(run.agent_id), self.timing(run), self._context.wall_ms(),
            spoke=run.calls > 0 and error.counts_against_agent,
        )  # fmt: skip

    def refused(self, record: SourceRecord, rejected: Rejected) -> list[Output]:
        """The record is not a valid task."""
        self._context.metrics.dead_letters.labels(rejected.stage).inc()
        return self._context.recorder.dead_letter(record, rejected.stage, rejected.reason, self._context.wall_ms())

    def duplicate(self, run: TaskRun) -> list[Output]:
        """Another record with this task id answers, or has answered."""
        self._context.metrics.duplicates.inc()
        self._note(run, "duplicate")
        return [self._context.recorder.duplicate(run.record, run.task_id, self._context.wall_ms())]

    def forwarded(self, run: TaskRun, to: Forward) -> list[Output]:
        """The task goes to another partition."""
        self._context.metrics.forwarded.inc()
        self._note(run, "forwarded")
        reason = None
        if run.not_before_ms is not None and run.cancel_reason is None:
            # Only as it is cancelled it does not wait for its time; the next worker may not have heard of that yet.
            reason = self._context.cancelled(run.task_id, run.origin_ms)
        now_ms = self._context.wall_ms()
        return [
            self._context.recorder.forward(
                run.record, to.key, to.agent_id, run.carried(), run.hops + 1, to.partition, now_ms, reason
            )
        ]

    def scheduled(self, run: TaskRun, decision: WaitForTime) -> list[Output]:
        """The task waits on `scheduled` until its time."""
        now_ms, until_ms = self._context.wall_ms(), decision.not_before_ms
        self.waiting(run, "not_before", (until_ms - now_ms) / 1000)
        self._note(run, "scheduled")
        return [
            self._context.recorder.schedule(
                run.record, run.claimed_id, until_ms, run.chosen, run.carried(), decision.partition, now_ms
            )
        ]

    def to_judge(self, run: TaskRun, judged: Judged, partition: int) -> list[Output]:
        """The answer goes to the owner of its judge, with the task."""
        self._context.metrics.forwarded.inc()
        self._note(run, "forwarded")
        now_ms = self._context.wall_ms()
        carried = Carried(run.origin_ms, run.deadline_ms)
        output = self._context.recorder.to_judge(run.record, judged.judge, judged.header(), carried, partition, now_ms)
        reason = f"the answer of {judged.answer.size} bytes is larger than a record to its judge may be"
        return [self._or_failed(run, output, reason, run.agent_id, now_ms)]

    def handed_over(self, run: TaskRun, decision: RunPlan) -> list[Output]:
        """The plan coordinator runs this task's template and answers it; or answers only, if that is not to run."""
        self._context.metrics.handed_over.inc()
        self._note(run, "handed-over")
        now_ms = self._context.wall_ms()
        ends_ms = ends_at(run.task, decision.template, now_ms, run.deadline_ms)
        refused = None if decision.refused is None else decision.refused.as_task_error(None)
        plan = plan_for(run.task, run.echo, run.origin_ms, now_ms, ends_ms, refused)
        output = self._context.recorder.message("plans", plan["id"], dumps(plan), now_ms)
        trace = trace_of(run.record.headers)
        output.headers += [] if trace is None else trace.headers()
        reason = f"the task of {output.size} bytes is larger than the plans topic accepts"
        return [self._or_failed(run, output, reason, None, now_ms)]

    def _or_failed(self, run: TaskRun, output: Output, reason: str, agent_id: str | None, now_ms: int) -> Output:
        """A record that moves the task; if it is too large for the broker, the task's failure instead."""
        if output.size > LARGE_BYTES:
            error = AnswerTooLarge(reason).as_task_error(agent_id)
            output.fallback = self._context.recorder.failed(run.task, {}, error, self.timing(run), now_ms)[0]
        return output

    def relocated(self, run: TaskRun, token: str) -> Output:
        """The record that replaces this one while the task continues; another owner would start it again."""
        return self._context.recorder.relocate(
            run.record, run.task_id, run.agent_id or run.chosen, run.carried(), token, self._context.wall_ms(),
            "" if run.ordering_key is None else f"{run.first_record.topic}/{run.first_record.offset}",
        )  # fmt: skip

    def _event(
        self, kind: EventType, subject: str, data: dict[str, Any], tail: str = "", span: WorkSpan | None = None
    ) -> None:
        output = self._context.recorder.event(kind, subject, data, self._context.wall_ms(), tail=tail)
        if span is not None:
            span.stamp(output)
        self._context.emit(output)

    def _answered(self, run: TaskRun, agent_id: str, success: Success, ending: Ending) -> list[Output]:
        self._finished(run, "success")
        if run.span is not None:
            run.span.note(ending)
        worth = self._context.calibrated(agent_id, success.confidence)
        return self._context.recorder.succeeded(
            run.task,
            run.echo,
            agent_id,
            success,
            self.timing(run),
            bool(ending.cached),
            self._context.wall_ms(),
            worth,
        )

    @staticmethod
    def _note(run: TaskRun, outcome: str) -> None:
        if run.span is not None:
            run.span.note(Ending(outcome))

    def _finished(self, run: TaskRun, status: str) -> None:
        self._context.metrics.finished(status, self._loop.time() - run.admitted_at)

    def timing(self, run: TaskRun) -> Timing:
        """The times of the task so far; for a judged one, from its agent's first call on."""
        if run.judged is not None:
            judged, now_ms = run.judged, self._context.wall_ms()
            wait_ms, execution_ms = float(judged.started_ms - run.origin_ms), float(now_ms - judged.started_ms)
            return Timing(max(0.0, execution_ms), judged.retries, judged.call_ms, max(0.0, wait_ms))
        now, waited_ms = self._loop.time(), float(self._context.wall_ms() - run.origin_ms)
        if run.first_call_at == 0.0:
            return Timing(0.0, max(0, run.calls - 1), wait_ms=max(0.0, waited_ms))
        execution_ms = (now - run.first_call_at) * 1000
        call_ms = (now - run.last_call_at) * 1000
        return Timing(execution_ms, max(0, run.calls - 1), call_ms, max(0.0, waited_ms - execution_ms))
