"""The trace spans of one partition's tasks, begun with the work on a record, ended by the commit of its end.

In: task runs and records as they begin, move and end. Out: spans, and the context on records that belong to them.
Without a `Tracing` it does nothing.
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
    """`tracing`: makes the spans."""

    def __init__(self, tracing: Tracing | None, partition: PartitionProcessor) -> None:
        self._tracing = tracing
        self._partition = partition

    def begin(self, run: TaskRun) -> None:
        """Work on a task begins."""
        if self._tracing is not None:
            run.span = self._tracing.record(run.record, run.task_id)

    def end(self, run: TaskRun, outputs: Sequence[Output]) -> None:
        """The record ends with these outputs."""
        if run.span is not None:
            run.span.stamp(*outputs)
            self._partition.afterwards(run.span.close)

    def moved(self, run: TaskRun, output: Output) -> None:
        """Another record replaces its own; the work and its span continue."""
        if run.span is not None:
            run.span.stamp(output)

    def refused(self, record: SourceRecord, run: TaskRun | None, stage: str, outputs: Sequence[Output]) -> None:
        """A record that is not a valid task, or caused an error: `end` follows if it has a run."""
        if self._tracing is None:
            return
        span = run.span if run is not None and run.span is not None else self._tracing.record(record)
        span.note(rejection(stage))
        if run is None:
            span.stamp(*outputs)
            self._partition.afterwards(span.close)
