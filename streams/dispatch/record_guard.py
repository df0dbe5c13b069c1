"""Ensures that a record ends even if our own code fails on it: a task as a failure, where its id is compared; anything
else as a dead letter.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from agents_io.errors import AgentError, InternalError
from schemas.codec import Rejected
from streams.dispatch.in_flight import InFlightTasks
from streams.dispatch.reporter import TaskReporter
from streams.dispatch.spans import TaskSpans
from streams.dispatch.task_run import TaskRun
from streams.engine.partition_processor import PartitionProcessor
from streams.rules.records import Output
from streams.rules.source_record import SourceRecord

log = structlog.get_logger(__name__)


class RecordGuard:
    """`finish` ends the record of a task run with its outputs; `fail` ends it as a failed task, if it `may_answer`."""

    def __init__(
        self,
        *,
        partition: PartitionProcessor,
        tasks: InFlightTasks,
        report: TaskReporter,
        spans: TaskSpans,
        finish: Callable[[TaskRun, list[Output]], None],
        fail: Callable[[TaskRun, AgentError], None],
        may_answer: Callable[[TaskRun], bool],
    ) -> None:
        self._partition = partition
        self._tasks = tasks
        self._report = report
        self._spans = spans
        self._finish = finish
        self._fail = fail
        self._may_answer = may_answer

    def run(self, record: SourceRecord, step: Callable[[], None]) -> None:
        """Run `step`; never raises."""
        try:
            step()
        except Rejected as rejected:
            self._refuse(record, rejected)
        except Exception as error:
            log.exception("unexpected error while processing a record", topic=record.topic, offset=record.offset)
            reason = f"internal error: {type(error).__name__}"
            run = self._tasks.at(record.topic, record.offset)
            try:
                if run is not None and self._may_answer(run):
                    self._fail(run, InternalError(reason))
                    return
            except Exception:
                log.exception("the failure of a record could not be reported", topic=record.topic, offset=record.offset)
            self._refuse(record, Rejected("dispatch", reason))

    def _refuse(self, record: SourceRecord, rejected: Rejected) -> None:
        run, outputs = self._tasks.at(record.topic, record.offset), self._report.refused(record, rejected)
        self._spans.refused(record, run, rejected.stage, outputs)
        if run is None:
            self._partition.complete(record.topic, record.offset, outputs)
            return
        self._tasks.release_all(run)  # no answer was given: a replay of this record must not be a duplicate
        self._finish(run, outputs)
