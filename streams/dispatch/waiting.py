"""Where the tasks of one partition wait: in their agent's queue, for an agent, for an equal task, for a look-up, or on
their topic.

In: task runs, with what they wait for. Out: each again, to `TaskSteps`, at its turn or when its deadline passes. The
parts that decide when are `AgentQueues`, `UnassignedTasks`, `SingleFlight`, `LookUps`, `OrderedTasks` and `Backlogs`.
"""

from __future__ import annotations

from typing import Protocol

from aiokafka.structs import ConsumerRecord

from agents_io.errors import AgentError, Cancelled, Expired
from agents_io.transport import Answer
from streams.dispatch.agent_queues import AgentQueues
from streams.dispatch.backlogs import Backlogs
from streams.dispatch.coalescing import SingleFlight
from streams.dispatch.context import DispatchContext
from streams.dispatch.explain import Explainer
from streams.dispatch.in_flight import InFlightTasks
from streams.dispatch.look_ups import LookUps
from streams.dispatch.ordered_key import PREFIX as ORDERED
from streams.dispatch.ordering import OrderedTasks
from streams.dispatch.partition_state import PartitionState
from streams.dispatch.relocation import Relocation
from streams.dispatch.reporter import TaskReporter
from streams.dispatch.spans import TaskSpans
from streams.dispatch.task_run import TaskRun
from streams.dispatch.unassigned import PREFIX as UNASSIGNED
from streams.dispatch.unassigned import UnassignedTasks
from streams.engine.handler import source_record_of
from streams.engine.partition_processor import PartitionProcessor
from streams.rules.source_record import SourceRecord


class TaskSteps(Protocol):
    """The next steps of a task that has waited. None of these raises."""

    def process_again(self, record: SourceRecord, waited_for: str, looked_up: bool) -> None:
        """Process a record that waited on its topic."""
        ...

    def decide_again(self, run: TaskRun, looked_up: bool = False) -> None:
        """Decide again about a task that waited in memory."""
        ...

    def assign(self, run: TaskRun) -> bool:
        """Choose an agent for a task that waits for one; True if it need not wait any more."""
        ...

    def on_finished(self, run: TaskRun, outcome: Answer | AgentError) -> None:
        """End a task without a call."""
        ...

    def ends_without_call(self, run: TaskRun) -> bool:
        """Whether the task will end without a call: it is cancelled, or its deadline has passed."""
        ...


class WaitingTasks:
    """`held`: no task is returned any more."""

    def __init__(
        self,
        *,
        steps: TaskSteps,
        partition: PartitionProcessor,
        context: DispatchContext,
        tasks: InFlightTasks,
        state: PartitionState,
        report: TaskReporter,
        spans: TaskSpans,
    ) -> None:
        self.held = False
        self._steps = steps
        self._partition = partition
        self._tasks = tasks
        self.backlogs = Backlogs(
            number=partition.number,
            read_again=context.read_again,
            process=self._read_back,
            lost=self._lost,
            loaded=self._loaded,
        )
        self.queues = AgentQueues(
            factory=context.callers,
            memory=context.memory,
            backlogs=self.backlogs,
            leave=self._leave,
            stored=state.guard,
        )
        self.unassigned = UnassignedTasks(
            memory=context.memory,
            backlogs=self.backlogs,
            retry=self._still_waits,
            expire=self._expire,
            leave=self._leave,
        )
        self.flights = SingleFlight(self._lead, self._expire)
        self._look_ups = LookUps(context.agents.catch_up, self._looked_up)
        self.ordering = OrderedTasks(
            memory=context.memory, backlogs=self.backlogs, decide=self._turn, unwanted=steps.ends_without_call, leave=self._leave,
            caught_up=lambda: partition.caught_up("parked"),
        )  # fmt: skip
        self.relocation = Relocation(
            partition=partition,
            tasks=tasks,
            unassigned=self.unassigned,
            ordering=self.ordering,
            backlogs=self.backlogs,
            report=report,
            spans=spans,
        )
        self.explainer = Explainer(
            queues=self.queues,
            unassigned=self.unassigned,
            flights=self.flights,
            ordering=self.ordering,
            backlogs=self.backlogs,
            wall_ms=context.wall_ms,
        )

    def for_agent(self, run: TaskRun) -> None:
        """No agent is available: wait for one."""
        self.flights.left(run)
        self.unassigned.add(run)
        if run.to_relocate:
            self.relocation.go_on(run)

    def for_look_up(self, run: TaskRun) -> None:
        """Read the topic of agents to its end first."""
        self._look_ups.start(run)

    @property
    def room(self) -> bool:
        """Whether another task may come."""
        return self.backlogs.room and self.ordering.room

    def ended(self, run: TaskRun) -> None:
        """The task waits for nothing any more."""
        self.flights.left(run)
        self.unassigned.remove(run)

    def cancel(self, task_id: str) -> None:
        """End a waiting task now, wherever it waits; a call under way is cut off."""
        self.backlogs.load_task(task_id)  # what waits on its topic is decided again, and then found to be cancelled
        for run in self._tasks.of(task_id):
            if self.ordering.waits(run):
                self._steps.decide_again(run)
            elif self.flights.waits(run) or self.unassigned.holds(run):
                self._steps.on_finished(run, Cancelled(""))
            elif run.agent_id in self.queues.callers:
                self.queues.callers[run.agent_id].cancel(run)

    def hold(self) -> None:
        """Start nothing more; calls under way may finish."""
        self.held = True
        self.queues.hold()
        self.backlogs.hold()
        self._look_ups.cancel()

    def close(self) -> None:
        """Cancel the calls under way, and forget everything."""
        self.hold()
        self.queues.close()
        self.unassigned.close()
        self.ordering.close()
        self.backlogs.close()
        self.flights.clear()

    def _leave(self, run: TaskRun) -> None:
        """Leave the record on its topic and forget the run: it is read again at its turn."""
        self.flights.left(run)
        if run.ordering_key is not None:
            self.ordering.set_aside(run)
        self._tasks.leave(run)

    def _turn(self, run: TaskRun) -> None:
        """The tasks of its key before it have ended, or its deadline has passed."""
        if not self.held:
            self._steps.decide_again(run)
            self.relocation.go_on(run)

    def _read_back(self, key: str, source: str, record: ConsumerRecord) -> None:
        if not self.held:
            self.ordering.returns(source, record.offset)
            # A task that waits for an agent was looked up when it first came.
            self._steps.process_again(source_record_of(source, record), key, key.startswith(UNASSIGNED))
            self.ordering.returned(source, record.offset)
        self.relocation.read_back(source, record.offset)

    def _loaded(self, key: str) -> None:
        self.queues.loaded(key)
        self.unassigned.loaded(key)
        if key.startswith(ORDERED):
            self.relocation.go_on_with(key)
            self.ordering.loaded(key)

    def _lost(self, source: str, offset: int) -> None:
        """The record is gone from its topic (retention, deleted records) before its turn."""
        self.relocation.lost(source, offset)
        self.ordering.returns(source, offset)
        self.ordering.returned(source, offset)
        self._partition.complete_expired(source, offset)

    def _looked_up(self, run: TaskRun) -> None:
        if not self.held and self._tasks.at(run.source, run.offset) is run:
            self._steps.decide_again(run, looked_up=True)

    def _lead(self, run: TaskRun) -> None:
        """The equal task this one followed ended without an answer: route it by itself."""
        if not self.held:
            self._steps.decide_again(run)

    def _still_waits(self, run: TaskRun) -> bool:
        return not self._steps.assign(run)

    def _expire(self, run: TaskRun) -> None:
        waits = "an equal task" if self.flights.waits(run) else "an agent that can take it"
        self._steps.on_finished(run, Expired(f"the deadline passed while the task waited for {waits}"))
