"""Writes records that hold back their topic's commit to the end of `parked`, from where their tasks continue.

In: the offsets that the engine finds far behind. Out: a new record for each task that is under way or waits; the old
record ends. A task that waits on its topic is read back first. The run itself continues: `InFlightTasks` joins it with
the new record.
"""

from __future__ import annotations

from collections.abc import Sequence

from streams.dispatch.backlogs import Backlogs
from streams.dispatch.in_flight import InFlightTasks
from streams.dispatch.ordering import OrderedTasks
from streams.dispatch.reporter import TaskReporter
from streams.dispatch.spans import TaskSpans
from streams.dispatch.task_run import TaskRun
from streams.dispatch.unassigned import UnassignedTasks
from streams.engine.partition_processor import PartitionProcessor


class Relocation:
    """Relocates the records of one partition."""

    def __init__(
        self,
        *,
        partition: PartitionProcessor,
        tasks: InFlightTasks,
        unassigned: UnassignedTasks,
        ordering: OrderedTasks,
        backlogs: Backlogs,
        report: TaskReporter,
        spans: TaskSpans,
    ) -> None:
        self._partition = partition
        self._tasks = tasks
        self._unassigned = unassigned
        self._ordering = ordering
        self._backlogs = backlogs
        self._report = report
        self._spans = spans
        self._to_read: set[tuple[str, int]] = set()

    def unblock(self, source: str, offsets: Sequence[int]) -> None:
        """Relocate these records: each ends soon, and its task continues from another one."""
        waiting = []
        for offset in offsets:
            run = self._tasks.at(source, offset)
            if run is None:
                waiting.append(offset)
            elif run.token is None:
                run.to_relocate = True
                self.go_on(run)
        if waiting:
            self._to_read |= {(source, offset) for offset in self._backlogs.load_records(source, frozenset(waiting))}

    def go_on(self, run: TaskRun) -> None:
        """A task may be relocated now, and after it those behind it of its ordering key, in order."""
        for each in (run, *self._ordering.followers(run)):
            self._relocate_in_order(each)

    def go_on_with(self, name: str) -> None:
        """The same for tasks that were left on their topic under this name and read back."""
        for each in self._ordering.followers_named(name):
            self._relocate_in_order(each)

    def _relocate_in_order(self, run: TaskRun) -> None:
        if not run.to_relocate:
            return
        if self._tasks.at(run.source, run.offset) is not run:  # it has ended, or waits on its topic by now
            run.to_relocate = False
            self.unblock(run.source, (run.offset,))
        elif (
            run.token is None and self._ordering.may_relocate(run) and (self._is_here(run) or self._ordering.waits(run))
        ):
            run.to_relocate = False
            self._relocate(run)

    def _is_here(self, run: TaskRun) -> bool:
        """Whether the task is called here, or waits here for an agent; not yet while its agent is looked up."""
        return run.agent_id is not None or self._unassigned.holds(run)

    def read_back(self, source: str, offset: int) -> None:
        """A record that waited on its topic was processed again."""
        if (source, offset) in self._to_read:
            self._to_read.discard((source, offset))
            self.unblock(source, (offset,))

    def lost(self, source: str, offset: int) -> None:
        """A record that waited on its topic is gone."""
        self._to_read.discard((source, offset))

    def _relocate(self, run: TaskRun) -> None:
        token = f"{run.source}/{run.record.partition}/{run.offset}"
        output = self._report.relocated(run, token)
        self._spans.moved(run, output)
        if output.fallback is None:  # a record that is too large would not come back
            self._tasks.relocate(run, token)
            self._partition.complete(run.source, run.offset, [output])
