"""dispatch: `tasks`, `dispatch`, `parked` -> agents -> `results`, `data-points`, `events`; bad input -> dead letters.

A task's life, from top to bottom of this file:

  process   a record comes in: it is admitted as a task run, or refused
  _decide   the router decides, and the decision is carried out: call, forward, wait, look up, hand over, fail, duplicate
  _call     the result cache, then equal tasks under way, then the agent's queue
  on_...    the guarded call reports: begun, retrying, finished
  _finish   the only end of a record: its outputs go into the next transaction, with its offset

Each record ends in exactly one `partition.complete`. Only progress events are sent outside transactions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import structlog
from aiokafka.structs import ConsumerRecord

from agents_io.caller import Caller
from agents_io.errors import AgentError, BadResponse, Cancelled, Expired, InternalError
from agents_io.rules.breaker import Transition
from agents_io.transport import Answer
from schemas.codec import Rejected, dumps, header
from schemas.messages import AgentRegistration
from streams.dispatch.agent_queues import AgentQueues
from streams.dispatch.backlogs import Backlogs
from streams.dispatch.coalescing import SingleFlight
from streams.dispatch.context import DispatchContext
from streams.dispatch.decisions import Call, Decision, Duplicate, Fail, Forward, LookUp, RunPlan, WaitForAgent
from streams.dispatch.explain import Explainer
from streams.dispatch.home_memory import HomeMemory
from streams.dispatch.in_flight import InFlightTasks
from streams.dispatch.reporter import TaskReporter
from streams.dispatch.router import Router
from streams.dispatch.spans import TaskSpans
from streams.dispatch.task_run import TaskRun, read_task, trace_headers
from streams.dispatch.unassigned import PREFIX as UNASSIGNED
from streams.dispatch.unassigned import UnassignedTasks
from streams.engine.home import Home
from streams.rules.records import MOVED_HEADER, Letter, Output, Success

log = structlog.get_logger(__name__)

LONG_WAIT_S = 1.0
"""A task whose agent takes no call for longer than this is reported as waiting, and goes to another agent if it may."""


class DispatchProcessor:
    """The tasks of one partition, on their way to the agents that it owns."""

    def __init__(self, partition: Home, context: DispatchContext, stored: Iterable[bytes] = ()) -> None:
        """`stored`: what earlier owners of this partition wrote to the state topic."""
        self._partition = partition
        self._context = context
        self._state = HomeMemory(partition.number, context.settings, context.wall_ms, stored, context.cleared)
        self._tasks = InFlightTasks(self._state.seen, context.wall_ms)
        self._router = Router(partition.number, context, self._tasks)
        self._report = TaskReporter(context)
        self._spans = TaskSpans(context.tracing, partition)
        self._loop = asyncio.get_running_loop()
        self._backlogs = Backlogs(partition.number, context.read_again, self._process_again, self._lost, self._loaded)
        self._queues = AgentQueues(context.callers, context.memory, self._backlogs, self._leave, self._state.guard)
        self._unassigned = UnassignedTasks(
            context.memory, self._backlogs, self._retry_unassigned, self._expire, self._leave
        )
        self._flights = SingleFlight(self._lead, self._expire)
        self._explainer = Explainer(self._queues, self._unassigned, self._flights, self._backlogs, context.wall_ms)
        self._look_ups: set[asyncio.Task[None]] = set()
        self._to_relocate: set[tuple[str, int]] = set()
        self._held = False

    # A record's way through

    def process(self, source: str, record: ConsumerRecord) -> None:
        """One record of topic `source` (short name). Whatever goes wrong costs this record alone."""
        letter = _letter(source, record)
        run = self._tasks.arrived(header(letter.headers, MOVED_HEADER), letter) if source == "parked" else None
        if run is None:
            self._guard(letter, lambda: self._decide(self._admit(letter)))
        else:
            self._guard(letter, lambda: self._resume(run))

    def _resume(self, run: TaskRun) -> None:
        """The record that carries on a task of this owner has come."""
        if run.ending is not None:
            self._finish(run, *run.ending)
        else:
            self._queues.relocated(run)

    def _admit(self, letter: Letter, reloaded: str | None = None) -> TaskRun:
        run = read_task(letter, self._loop.time(), self._context.wall_ms(), self._context.settings)
        run.reloaded = reloaded
        self._spans.begin(run)
        run.observer = run.span
        if run.span is None:
            run.headers = trace_headers(letter.headers)
        self._tasks.add(run)
        return run

    def _decide(self, run: TaskRun, looked_up: bool = False) -> None:
        self._carry_out(run, self._router.route(run, looked_up))

    def _carry_out(self, run: TaskRun, decision: Decision) -> None:
        match decision:
            case Call(agent):
                self._call(run, agent)
            case Forward():
                self._finish(run, self._report.forwarded(run, decision), moved=True)
            case WaitForAgent():
                self._flights.left(run)
                self._report_waiting(run, "no_agent")
                self._unassigned.add(run)
            case LookUp():
                self._look_up(run)
            case RunPlan(template):
                self._finish(run, self._report.handed_over(run, template), moved=True)
            case Fail(error):
                self._fail(run, error)
            case Duplicate():
                self._finish(run, self._report.duplicate(run))

    def _call(self, run: TaskRun, agent: AgentRegistration) -> None:
        """The result cache, then equal tasks under way, then the agent's queue."""
        run.agent_id = agent.id
        found = self._state.answers.find(run, self._loop.time())
        if found is not None:
            self._finish(run, self._report.repeated(run, *found))
            return
        caller = self._queues.caller(agent, self)
        block, wait_s = self._queues.closed_for_s(caller)
        if block is not None and wait_s > LONG_WAIT_S:
            if block != "rate_limited" and (other := self._router.failover(run)) is not None:
                self._carry_out(run, other)
                return
            self._report_waiting(run, block, wait_s)
        if not self._flights.follows(run):
            self._report.not_cached(run)
            self._queues.put(run, caller)

    def _succeed(self, run: TaskRun, answer: Answer) -> None:
        try:
            success = Success(
                dumps(answer.value), answer.confidence, dumps(answer.metadata) if answer.metadata else b""
            )
        except Rejected as rejected:
            self._fail(run, BadResponse(rejected.reason))
            return
        self._state.answers.keep(run, run.agent_id or "", success, self._loop.time())
        for follower in self._flights.answered(run):
            self._finish(follower, self._report.repeated(follower, run.agent_id or "", success))
        self._finish(run, self._report.succeeded(run, success))

    def _fail(self, run: TaskRun, error: AgentError) -> None:
        self._finish(run, self._report.failed(run, error))

    def _finish(self, run: TaskRun, outputs: list[Output], moved: bool = False) -> None:
        """The end of a record. `moved`: the task goes on elsewhere, so that its id is still free there."""
        self._flights.left(run)
        self._unassigned.remove(run)
        if self._tasks.end(run, outputs, moved):
            self._spans.end(run, outputs)
            self._partition.complete(run.source, run.offset, outputs)
        self._queues.left(run)

    # What the guarded call reports

    def on_first_call(self, run: TaskRun) -> None:
        """The first call begins."""
        self._report.started(run)

    def on_retry(self, run: TaskRun, delay_s: float) -> None:
        """Another call follows. A task that named no agent goes to another one if the circuit of its own has opened."""
        self._partition.touch()  # the failed call counts, also if the next owner makes the next one
        self._report.retrying(run, delay_s)
        if run.any_agent:
            self._loop.call_soon(self._fail_over, run)

    def on_finished(self, run: TaskRun, outcome: Answer | AgentError) -> None:
        """The task has its answer, or there is none."""
        if isinstance(outcome, Cancelled):
            outcome = Cancelled(self._context.cancelled(run.task_id) or outcome.message)
        if isinstance(outcome, AgentError):
            self._guard(run.letter, partial(self._fail, run, outcome))
        else:
            self._guard(run.letter, partial(self._succeed, run, outcome))

    def on_circuit(self, agent_id: str, transition: Transition) -> None:
        """The circuit of an agent changed its state. Tasks that named no agent need not wait until it closes."""
        self._partition.touch()
        self._report.circuit(agent_id, transition)
        caller = self._queues.callers.get(agent_id)
        if caller is None:
            return
        self._context.circuit_changed(agent_id, caller)
        if transition.kind == "open" and not self._held:
            for run in caller.queue.items():
                self._fail_over(run)

    def _fail_over(self, run: TaskRun) -> None:
        caller = self._queues.callers.get(run.agent_id or "")
        if caller is None or self._held or caller.queue.breaker.shut_until(self._loop.time()) <= self._loop.time():
            return
        if not caller.queue.holds(run):
            return
        other = self._router.failover(run)
        if other is not None and caller.queue.remove(run):
            self._context.memory.release(run)
            self._guard(run.letter, lambda: self._carry_out(run, other))

    # Tasks that wait elsewhere than in a queue

    def _look_up(self, run: TaskRun) -> None:
        """The agent may have been registered a moment ago: read the topic to its end before the task is refused."""

        async def look_up() -> None:
            try:
                await self._context.agents.catch_up()
            except Exception:  # the task must not stay here: it is decided by what is known
                log.exception("the topic of agents could not be read to its end", task_id=run.task_id)
            if not self._held and self._tasks.at(run.source, run.offset) is run:
                self._guard(run.letter, lambda: self._decide(run, looked_up=True))

        task = self._loop.create_task(look_up())
        self._look_ups.add(task)
        task.add_done_callback(self._look_ups.discard)

    def _leave(self, run: TaskRun) -> None:
        """The record stays on its topic: forget the run, it is read again when it is its turn."""
        self._flights.left(run)
        self._tasks.leave(run)

    def _process_again(self, key: str, source: str, record: ConsumerRecord) -> None:
        """A record that waited on its topic for `key`."""
        letter = _letter(source, record)
        if not self._held:
            # One that waits for an agent was looked up when it first came.
            looked_up = key.startswith(UNASSIGNED)
            self._guard(letter, lambda: self._decide(self._admit(letter, key), looked_up))
        if (source, record.offset) in self._to_relocate:
            self._to_relocate.discard((source, record.offset))
            self.relieve(source, (record.offset,))

    def _loaded(self, key: str) -> None:
        self._queues.loaded(key)
        self._unassigned.loaded(key)

    def _lost(self, source: str, offset: int) -> None:
        """The record is gone from its topic (retention, deleted records) before it was its turn."""
        log.error("a waiting task is gone from its topic: its retention is shorter than the wait",
                  topic=source, partition=self._partition.number, offset=offset)  # fmt: skip
        self._to_relocate.discard((source, offset))
        self._partition.complete(source, offset, [])

    def _lead(self, run: TaskRun) -> None:
        """The equal task this one followed ended without an answer: it goes its own way."""
        if not self._held:
            self._guard(run.letter, partial(self._decide, run))

    def _retry_unassigned(self, run: TaskRun) -> bool:
        """Whether it still waits for an agent."""
        decision = self._router.route(run, looked_up=True)
        if isinstance(decision, WaitForAgent):
            return True
        self._unassigned.remove(run)
        self._guard(run.letter, lambda: self._carry_out(run, decision))
        return False

    def _expire(self, run: TaskRun) -> None:
        waits = "an equal task" if self._flights.waits(run) else "an agent that can take it"
        expired = Expired(f"the deadline passed while the task waited for {waits}")
        self._guard(run.letter, partial(self._fail, run, expired))

    def _report_waiting(self, run: TaskRun, reason: str, wait_s: float = float("inf")) -> None:
        if run.reloaded is None:
            self._report.waiting(run, reason, wait_s)

    # What must not happen to a record

    def _guard(self, letter: Letter, step: Callable[[], None]) -> None:
        """A record must end, also when our own code fails on it: a task as a failure, anything else as a dead letter."""
        try:
            step()
        except Rejected as rejected:
            self._refuse(letter, rejected)
        except Exception as error:
            log.exception("unexpected error while processing a record", topic=letter.topic, offset=letter.offset)
            reason = f"internal error: {type(error).__name__}"
            run = self._tasks.at(letter.topic, letter.offset)
            try:
                if run is not None and self._tasks.claim(run, run.task.target or ""):
                    self._fail(run, InternalError(reason))
                    return
            except Exception:
                log.exception("the failure of a record could not be reported", topic=letter.topic, offset=letter.offset)
            self._refuse(letter, Rejected("dispatch", reason))

    def _refuse(self, letter: Letter, rejected: Rejected) -> None:
        run, outputs = self._tasks.at(letter.topic, letter.offset), self._report.refused(letter, rejected)
        self._spans.refused(letter, run, rejected.stage, outputs)
        if run is None:
            self._partition.complete(letter.topic, letter.offset, outputs)
            return
        self._tasks.release_all(run)  # no answer was given: a replay of this record is no duplicate
        self._finish(run, outputs)

    # What the engine asks

    def room(self, source: str) -> bool:
        """Whether another record may be taken. Relocated tasks always may: their ends wait for them."""
        return source == "parked" or self._backlogs.room

    def resting(self) -> int:
        """Tasks that wait on their topic: they take no memory to speak of."""
        return len(self._backlogs)

    def changes(self) -> list[Output]:
        """What another owner would have to know, for the state topic."""
        return self._state.changes(self._queues.callers.values())

    def running(self) -> int:
        """Calls under way."""
        return self._queues.running()

    def relieve(self, source: str, offsets: Sequence[int]) -> None:
        """Records that hold the commit back: each is written to the end of `parked`, and its task goes on from there."""
        waiting = []
        for offset in offsets:
            run = self._tasks.at(source, offset)
            if run is None:
                waiting.append(offset)
            elif run.token is None and (run.agent_id is not None or self._unassigned.holds(run)):
                self._relocate(run)
        if waiting:
            self._to_relocate |= {
                (source, offset) for offset in self._backlogs.load_records(source, frozenset(waiting))
            }

    def _relocate(self, run: TaskRun) -> None:
        token = f"{run.source}/{run.letter.partition}/{run.offset}"
        output = self._report.relocated(run, token)
        self._spans.moved(run, output)
        if output.fallback is None:  # a record that is too large would not come back
            self._tasks.relocate(run, token)
            self._partition.complete(run.source, run.offset, [output])

    def explain(self, source: str, offset: int) -> dict[str, Any] | None:
        """What a record in flight waits for: reason, and if it is in memory taskId, agentId, age (ms) and since when."""
        run = self._tasks.at(source, offset)
        return self._explainer.record(source, offset) if run is None else self._explainer.run(run)

    def explain_task(self, task_id: str) -> dict[str, Any] | None:
        """What a task waits for; None if it is not in memory here."""
        run = self._tasks.of(task_id)
        return None if run is None else self._explainer.run(run)

    def hold(self) -> None:
        """Begin nothing more; what runs may finish."""
        self._held = True
        self._queues.hold()
        self._backlogs.hold()
        for look_up in self._look_ups:
            look_up.cancel()

    def close(self) -> None:
        """Cancel whatever runs; nothing more is completed."""
        self.hold()
        # The memory is shared with the worker's other partitions: also what is called, or failed while held, must leave it.
        for run in self._tasks.all():
            self._context.memory.release(run)
        self._queues.close()
        self._unassigned.close()
        self._backlogs.close()
        self._flights.clear()
        self._tasks.clear()

    # What others ask

    def cancel(self, task_id: str) -> None:
        """Wherever the task is in this partition, it ends now; a call under way is cut off."""
        run = self._tasks.of(task_id)
        if run is None:
            self._backlogs.load_task(task_id)
        elif self._flights.waits(run) or self._unassigned.holds(run):
            self.on_finished(run, Cancelled(""))
        elif run.agent_id in self._queues.callers:
            self._queues.callers[run.agent_id].cancel(run)

    def agent_changed(self, agent_id: str, agent: AgentRegistration | None) -> None:
        """An agent was registered again, or unregistered (None: new tasks for it fail, those taken are finished)."""
        self._queues.changed(agent_id, agent)

    def agent_available(self, agent: AgentRegistration) -> None:
        """An agent of any partition can be chosen, and could not before."""
        if not self._held:
            self._unassigned.appeared(agent)

    def clear_cache(self, agent_id: str | None) -> None:
        """Forget cached answers: those of this agent, or all."""
        self._state.answers.clear(agent_id, self._loop.time())
        self._partition.touch()

    @property
    def callers(self) -> Mapping[str, Caller[TaskRun]]:
        """Of the agents that this partition owns and that had tasks, by id."""
        return self._queues.callers


def _letter(source: str, record: ConsumerRecord) -> Letter:
    return Letter(source, record.partition, record.offset, record.key, record.value, record.headers, record.timestamp)
