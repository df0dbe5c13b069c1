"""Records that hold their topic's commit back are written to the end of `parked`, and their tasks go on from there.

In: the offsets that the engine finds far behind. Out: a new record for each task that is under way or waits; the old record ends.
A task that waits on its topic is read back first. The run itself goes on: `InFlightTasks` joins it with the new record.
"""

from __future__ import annotations

from collections.abc import Sequence

from streams.dispatch.backlogs import Backlogs
from streams.dispatch.in_flight import InFlightTasks
from streams.dispatch.reporter import TaskReporter
from streams.dispatch.spans import TaskSpans
from streams.dispatch.task_run import TaskRun
from streams.dispatch.unassigned import UnassignedTasks
from streams.engine.partition_processor import PartitionProcessor


class Relocation:
    """Moves the records of one partition."""

    def __init__(
        self,
        partition: PartitionProcessor,
        tasks: InFlightTasks,
        unassigned: UnassignedTasks,
        backlogs: Backlogs,
        report: TaskReporter,
        spans: TaskSpans,
    ) -> None:
        self._partition = partition
        self._tasks = tasks
        self._unassigned = unassigned
        self._backlogs = backlogs
        self._report = report
        self._spans = spans
        self._to_read: set[tuple[str, int]] = set()

    def unblock(self, source: str, offsets: Sequence[int]) -> None:
        """Each of these records ends soon, and its task goes on from another one."""
        waiting = []
        for offset in offsets:
            run = self._tasks.at(source, offset)
            if run is None:
                waiting.append(offset)
            elif run.token is None and (run.agent_id is not None or self._unassigned.holds(run)):
                self._relocate(run)
        if waiting:
            self._to_read |= {(source, offset) for offset in self._backlogs.load_records(source, frozenset(waiting))}

    def read_back(self, source: str, offset: int) -> None:
        """A record that waited on its topic was processed again."""
        if (source, offset) in self._to_read:
            self._to_read.discard((source, offset))
            self.unblock(source, (offset,))

    def lost(self, source: str, offset: int) -> None:
        """A record that waited on its topic is gone from it."""
        self._to_read.discard((source, offset))

    def _relocate(self, run: TaskRun) -> None:
        token = f"{run.source}/{run.record.partition}/{run.offset}"
        output = self._report.relocated(run, token)
        self._spans.moved(run, output)
        if output.fallback is None:  # a record that is too large would not come back
            self._tasks.relocate(run, token)
            self._partition.complete(run.source, run.offset, [output])
