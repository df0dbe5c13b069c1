"""Takes an answer to its judge, and the judgement back to a result.

In: answers of agents whose confidence comes from a judge. Out: the record that carries such an answer to the partition
that owns the judge, in the transaction that ends the task's own record; there, the judge's answer as the task's end.
The judge is called like every agent: by its owner, within its limits.
"""

from __future__ import annotations

from agents_io.errors import AgentError, BadResponse, Cancelled
from agents_io.rules.answer import checked_confidence
from agents_io.transport import Answer
from schemas.messages import AgentRegistration
from schemas.partitioning import owner_partition
from streams.dispatch.context import DispatchContext
from streams.dispatch.reporter import TaskReporter
from streams.dispatch.task_run import TaskRun
from streams.rules.dispatch.judging import Judged, rated, with_verdict
from streams.rules.records import Output
from streams.rules.task_records import Success


class Judging:
    """Judging for the tasks of one partition."""

    def __init__(self, context: DispatchContext, report: TaskReporter) -> None:
        self._context = context
        self._report = report

    def sent(self, run: TaskRun, agent: AgentRegistration, judge: str, answer: Success) -> list[Output]:
        """The task continues at the owner of its judge."""
        timing = self._report.timing(run)
        judged = Judged(
            agent.id,
            judge,
            answer,
            self._context.wall_ms() - round(timing.execution_ms),
            timing.call_ms or 0.0,
            timing.retries,
            _default(agent),
        )
        return self._report.to_judge(run, judged, owner_partition(judge, self._context.partition_count()))

    @staticmethod
    def verdict(run: TaskRun, judged: Judged, end: Answer | AgentError) -> Success | AgentError:
        """The end of a task whose judge has answered, or cannot."""
        if isinstance(end, Answer):
            try:
                return with_verdict(judged, rated(end), end)
            except BadResponse as error:
                end = error
        if judged.otherwise is not None and not isinstance(end, Cancelled) and not run.cancelled:
            return with_verdict(judged, judged.otherwise, None)
        end.message = f"judge {judged.judge!r}: {end.message}"
        return end


def _default(agent: AgentRegistration) -> float | None:
    """`metadata.defaultConfidence`: also for answers that were not judged."""
    default = (agent.metadata or {}).get("defaultConfidence")
    try:
        return None if default is None else checked_confidence(default)
    except BadResponse:
        return None
