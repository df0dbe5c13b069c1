"""A task's life in one partition, from top to bottom of this file.

  process      a record comes in: it is admitted as a task run, or refused
  _decide      a task whose time has not come goes to the topic `scheduled`;
               a task with an ordering key waits for the earlier ones of its key;
               the router decides, and `_carry_out` does it: call, forward, wait, look up, run a plan, fail, duplicate
  _call        the result cache, then equal tasks under way, then the agent's queue
  on_...       the guarded call reports: first call, retry, finished, circuit changed
  _finish      the only end of a record: its outputs go into the next transaction, with its offset

Each record ends in exactly one `partition.complete`. Only progress events are sent outside transactions, unless the end
of their task comes first. Where tasks wait is in `waiting.py`; what the engine and the role ask is in `handler.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial

from aiokafka.structs import ConsumerRecord

from agents_io.calling.rules.breaker import Transition
from agents_io.errors import AgentError, BadResponse, Cancelled
from agents_io.protocols.metadata_keys import answer_source
from agents_io.transport import Answer
from schemas.codec import Rejected, dumps, header
from schemas.messages import AgentRegistration
from streams.dispatch.context import DispatchContext
from streams.dispatch.decisions import (
    CallAgent,
    Decision,
    Duplicate,
    Fail,
    Forward,
    LookUp,
    RunPlan,
    WaitForAgent,
    WaitForTime,
)
from streams.dispatch.in_flight import InFlightTasks
from streams.dispatch.judging import Judging
from streams.dispatch.partition_state import PartitionState
from streams.dispatch.record_guard import RecordGuard
from streams.dispatch.reporter import TaskReporter
from streams.dispatch.router import Router
from streams.dispatch.spans import TaskSpans
from streams.dispatch.task_run import TaskRun, read_task, trace_headers
from streams.dispatch.waiting import WaitingTasks
from streams.engine.handler import source_record_of
from streams.engine.partition_processor import PartitionProcessor
from streams.rules.dispatch.judging import Judged
from streams.rules.records import Output
from streams.rules.source_record import MOVED_HEADER, SourceRecord
from streams.rules.task_records import Success

LONG_WAIT_S = 1.0
"""A task whose agent takes no call for longer than this is reported as waiting, and moves to another agent if it
may.
"""


class DispatchProcessor:
    """Processes the tasks of one partition for the agents that it owns. `state`: for the next owner."""

    def __init__(self, partition: PartitionProcessor, context: DispatchContext, stored: Iterable[bytes] = ()) -> None:
        """`stored`: records that earlier owners of this partition wrote to the state topic."""
        self._partition = partition
        self._context = context
        self.state = PartitionState(
            number=partition.number,
            settings=context.settings,
            wall_ms=context.wall_ms,
            values=stored,
            cleared=context.cleared,
            answer_source=lambda agent_id: (
                "" if (agent := context.agents.get(agent_id)) is None else answer_source(agent)
            ),
        )
        self.tasks = InFlightTasks(self.state.seen, context.wall_ms)
        self._router = Router(partition.number, context, self.tasks)
        self._report = TaskReporter(context)
        self._spans = TaskSpans(context.tracing, partition)
        self._judging = Judging(context, self._report)
        self._guard = RecordGuard(
            partition=partition,
            tasks=self.tasks,
            report=self._report,
            spans=self._spans,
            finish=self._finish,
            fail=self._fail,
            may_answer=self._router.may_answer,
        )
        self.waiting = WaitingTasks(
            steps=self,
            partition=partition,
            context=context,
            tasks=self.tasks,
            state=self.state,
            report=self._report,
            spans=self._spans,
        )
        self._loop = asyncio.get_running_loop()

    # Intake

    def process(self, source: str, record: ConsumerRecord) -> None:
        """Process one record of topic `source` (short name). A failure affects this record alone."""
        taken = source_record_of(source, record)
        run = self.tasks.arrived(header(taken.headers, MOVED_HEADER), taken) if source == "parked" else None
        if run is None:
            self._guard.run(taken, lambda: self._decide(self._admit(taken)))
        else:
            self._guard.run(taken, lambda: self._resume(run))

    def process_again(self, record: SourceRecord, waited_for: str, looked_up: bool) -> None:
        """Process a record that waited on its topic for `waited_for`. `looked_up`: its agent was looked up when it
        first came.
        """
        self._guard.run(record, lambda: self._decide(self._admit(record, waited_for, looked_up), looked_up))

    def decide_again(self, run: TaskRun, looked_up: bool = False) -> None:
        """Decide again about a task that waited in memory. `looked_up`: the topic of agents was read to its end for
        it.
        """
        self._guard.run(run.record, lambda: self._decide(run, looked_up))

    def assign(self, run: TaskRun) -> bool:
        """Choose an agent for a task that waits for one. True if one was found, or the task need not wait any more."""
        run.waited_for_agent = True
        decision = self._router.route(run, looked_up=True)
        if isinstance(decision, WaitForAgent):
            return False
        self.waiting.unassigned.remove(run)
        self._guard.run(run.record, lambda: self._carry_out(run, decision))
        return True

    def _resume(self, run: TaskRun) -> None:
        """The record that continues a task of this owner has come."""
        if run.ending is not None:
            self._finish(run, *run.ending)
        elif self.waiting.ordering.waits(run):
            self.waiting.ordering.relocated(run)
        else:
            self.waiting.queues.relocated(run)

    def _admit(self, record: SourceRecord, waited_for: str | None = None, waited_for_agent: bool = False) -> TaskRun:
        run = read_task(record, self._loop.time(), self._context.wall_ms(), self._context.settings)
        run.reloaded = waited_for
        run.waited_for_agent = waited_for_agent
        self._spans.begin(run)
        run.observer = run.span
        if run.span is None:
            run.headers = trace_headers(record.headers)
        self.tasks.add(run)
        return run

    # Routing

    def ends_without_call(self, run: TaskRun) -> bool:
        """Whether the task will end without a call: it is cancelled, or its deadline has passed."""
        return self._router.ends_without_call(run)

    def _decide(self, run: TaskRun, looked_up: bool = False) -> None:
        if run.not_before_ms is not None and (decision := self._router.schedule(run)) is not None:
            self._carry_out(run, decision)
            return
        if run.ordering_key is not None and not self.waiting.ordering.enter(run):
            return  # an earlier task of its key has not ended
        self._carry_out(run, self._router.route(run, looked_up))

    def _carry_out(self, run: TaskRun, decision: Decision) -> None:
        match decision:
            case CallAgent(agent):
                self._call(run, agent)
            case Forward():
                self._finish(run, self._report.forwarded(run, decision), moved=True)
            case WaitForTime():
                self._finish(run, self._report.scheduled(run, decision), moved=True)
            case WaitForAgent():
                self._report.waiting(run, "no_agent")
                self.waiting.for_agent(run)
            case LookUp():
                self.waiting.for_look_up(run)
            case RunPlan():
                self._finish(run, self._report.handed_over(run, decision), moved=True)
            case Fail(error):
                self._fail(run, error)
            case Duplicate():
                self._finish(run, self._report.duplicate(run))

    def _call(self, run: TaskRun, agent: AgentRegistration) -> None:
        """Try the result cache, then equal tasks under way, then the agent's queue."""
        run.agent_id = agent.id
        # An answer that is judged elsewhere is not cached here, and a judge's answer does not answer the task.
        is_rated_here = run.judged is None and run.judge(agent) is None
        found = self.state.answers.find(run, self._loop.time()) if is_rated_here else None
        if found is not None:
            self._finish(run, self._report.repeated(run, *found))
            return
        queues = self.waiting.queues
        caller = queues.caller(agent, self)
        block, wait_s = queues.closed_for_s(caller)
        if block is not None and wait_s > LONG_WAIT_S:
            if block != "rate_limited" and (other := self._router.failover(run)) is not None:
                self._carry_out(run, other)
                return
            self._report.waiting(run, block, wait_s)
        if not (is_rated_here and self.waiting.flights.follows(run)):
            self._report.not_cached(run)
            queues.put(run, caller)
        if run.to_relocate:
            self.waiting.relocation.go_on(run)

    # Called by the guarded call

    def on_first_call(self, run: TaskRun) -> None:
        """The first call begins."""
        self._report.started(run)

    def on_retry(self, run: TaskRun, delay_s: float) -> None:
        """Another call follows. A task that named no agent moves to another one if its agent's circuit has opened."""
        self._partition.touch()  # the failed call counts, even if another owner makes the next one
        self._report.retrying(run, delay_s)
        if run.any_agent:
            self._loop.call_soon(self._fail_over, run)

    def on_finished(self, run: TaskRun, outcome: Answer | AgentError) -> None:
        """The task has its answer, or an error."""
        if isinstance(outcome, Cancelled):
            outcome = Cancelled(self._context.cancelled(run.task_id, run.origin_ms) or outcome.message)
        if isinstance(outcome, AgentError):
            self._guard.run(run.record, partial(self._end, run, outcome))
        else:
            self._guard.run(run.record, partial(self._succeed, run, outcome))

    def on_circuit(self, agent_id: str, transition: Transition) -> None:
        """An agent's circuit changed its state. Tasks that named no agent need not wait until it closes."""
        self._partition.touch()
        self._report.circuit(agent_id, transition)
        caller = self.waiting.queues.callers.get(agent_id)
        if caller is None:
            return
        self._context.circuit_changed(agent_id, caller)
        if transition.kind == "open":
            for run in caller.waiting():
                self._fail_over(run)

    def _fail_over(self, run: TaskRun) -> None:
        """Move the task to another agent, if it waits for one whose circuit is open."""
        caller = self.waiting.queues.open_circuit(run)
        other = None if caller is None or self.waiting.held else self._router.failover(run)
        if caller is not None and other is not None and caller.queue.remove(run):
            self._context.memory.release(run)
            self._guard.run(run.record, lambda: self._carry_out(run, other))

    # The end

    def _succeed(self, run: TaskRun, answer: Answer) -> None:
        if run.judged is not None:
            self._judge(run, run.judged, answer)
            return
        try:
            success = Success(
                dumps(answer.value), answer.confidence, dumps(answer.metadata) if answer.metadata else b""
            )
        except Rejected as rejected:
            self._fail(run, BadResponse(rejected.reason))
            return
        caller = self.waiting.queues.callers.get(run.agent_id or "")
        judge = None if caller is None else run.judge(caller.agent)
        if caller is not None and judge is not None:
            # Not `moved`: the id counts as answered here from now on.
            self._finish(run, self._judging.sent(run, caller.agent, judge, success))
            return
        self.state.answers.keep(run, run.agent_id or "", success, self._loop.time())
        for follower in self.waiting.flights.answered(run):
            self._finish(follower, self._report.repeated(follower, run.agent_id or "", success))
        self._finish(run, self._report.succeeded(run, success))

    def _end(self, run: TaskRun, error: AgentError) -> None:
        self._carry_out(run, self._router.end(run, error))

    def _fail(self, run: TaskRun, error: AgentError) -> None:
        if run.judged is not None:
            self._judge(run, run.judged, error)
        else:
            self._finish(run, self._report.failed(run, error))

    def _judge(self, run: TaskRun, judged: Judged, end: Answer | AgentError) -> None:
        """The judge has answered, or cannot: end the task."""
        verdict = self._judging.verdict(run, judged, end)
        if isinstance(verdict, Success):
            self._finish(run, self._report.succeeded(run, verdict))
        else:
            self._finish(run, self._report.failed(run, verdict))

    def _finish(self, run: TaskRun, outputs: list[Output], moved: bool = False) -> None:
        """End a record. `moved`: the task continues elsewhere, so its id is still free there."""
        self.waiting.ended(run)
        if self.tasks.end(run, outputs, moved):
            self._spans.end(run, outputs)
            # Events of a moment ago are included before the end: no separate request, and the right order.
            reported = self._context.withdraw(run.task_id.encode())
            self._partition.complete(run.source, run.offset, [*reported, *outputs])
        if run.ordered is not None and run.token is None:
            self.waiting.ordering.left(run)
        self.waiting.queues.left(run)
