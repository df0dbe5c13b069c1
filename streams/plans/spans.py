"""The trace spans of one partition's plans: begun with a plan, ended by the commit of its result.

In: plans and records as they begin and end. Out: spans, and `traceparent` on the records that belong to them. Without a
`Tracing` it does nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from streams.engine.partition_processor import PartitionProcessor
from streams.plans.memory import Active
from streams.rules.plans.run import Over
from streams.rules.records import Output
from streams.rules.source_record import SourceRecord
from streams.rules.tracing.spans import Ending, plan_ending

if TYPE_CHECKING:
    from streams.tracing.spans import Tracing, WorkSpan


class PlanSpans:
    """`tracing`: makes the spans."""

    def __init__(self, tracing: Tracing | None, partition: PartitionProcessor) -> None:
        self._tracing = tracing
        self._partition = partition

    def begin(self, active: Active) -> None:
        """A plan begins or continues here."""
        if self._tracing is not None:
            origin = active.origin
            active.span = self._tracing.plan(active.run, active.place, None if origin is None else origin.task.target)

    def over(self, active: Active, over: Over) -> None:
        """The plan has ended."""
        if active.span is not None:
            active.span.note(plan_ending(over.verdict.status, over.verdict.error, over.outcome.confidence))
            self._partition.afterwards(active.span.close)

    def unbegun(self, record: SourceRecord | None, ending: Ending, outputs: list[Output]) -> list[Output]:
        """A record whose plan was not begun, and the outputs for it."""
        if self._tracing is not None and record is not None:
            span: WorkSpan = self._tracing.record(record)
            span.note(ending)
            span.stamp(*outputs)
            self._partition.afterwards(span.close)
        return outputs


def marked(active: Active, outputs: list[Output]) -> list[Output]:
    """The outputs, with the span of their plan."""
    if active.span is not None:
        active.span.stamp(*outputs)
    return outputs
