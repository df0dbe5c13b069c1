"""The spans of one partition's tasks, if anybody wants them: begun with the work on a record, ended by the commit of its end.

In: jobs and records as they begin, move and end. Out: spans, and the context on records that belong to them. Without a `Tracing`
nothing is done here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from streams.dispatch.task_run import TaskRun
from streams.engine.partition_processor import PartitionProcessor
from streams.rules.records import Output
from streams.rules.source_record import SourceRecord
from streams.rules.tracing.spans import rejection

if TYPE_CHECKING:
    from streams.tracing.spans import Tracing


class TaskSpans:
    """`tracing`: who makes them."""

    def __init__(self, tracing: Tracing | None, partition: PartitionProcessor) -> None:
        self._tracing = tracing
        self._partition = partition

    def begin(self, run: TaskRun) -> None:
        """Work on a task begins."""
        if self._tracing is not None:
            run.span = self._tracing.record(run.record, run.task_id)

    def end(self, run: TaskRun, outputs: Sequence[Output]) -> None:
        """Its record ends with these."""
        if run.span is not None:
            run.span.stamp(*outputs)
            self._partition.afterwards(run.span.close)

    def moved(self, run: TaskRun, output: Output) -> None:
        """Another record takes the place of its own; the work goes on, and so does its span."""
        if run.span is not None:
            run.span.stamp(output)

    def refused(self, record: SourceRecord, run: TaskRun | None, stage: str, outputs: Sequence[Output]) -> None:
        """A record that is no task, or broke something: `end` follows if it has a run."""
        if self._tracing is None:
            return
        span = run.span if run is not None and run.span is not None else self._tracing.record(record)
        span.note(rejection(stage))
        if run is None:
            span.stamp(*outputs)
            self._partition.afterwards(span.close)
