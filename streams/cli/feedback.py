"""`parallax feedback ID success|failure`: reports the true outcome of an answered task to the statistics.

In: a task id. Reads `data-points` once and sends the task's point again with the true `success` and `feedback: true`, to
the partition where the first one lies: its series is counted there. Reporting the same twice changes nothing.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.options import NOT_FOUND, CommandError, Format, OutputFormat, Prefix, Servers, settings_from
from streams.cli.output import rows_as
from streams.cli.running import run

if TYPE_CHECKING:
    from streams.broker.client import Record
    from streams.settings import Settings


class FeedbackOutcome(StrEnum):
    """The true outcome of a task."""

    success = "success"
    failure = "failure"


def feedback(
    task_id: Annotated[str, typer.Argument(metavar="ID")],
    outcome: Annotated[FeedbackOutcome, typer.Argument(metavar="success|failure")],
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """Report the true outcome of an answered task.

    Corrects the success rate of its windows and calibrates the agent's confidence: results then carry
    calibratedConfidence. Exit 4 if no data point of the task is found.
    """
    settings = settings_from(bootstrap_servers, topic_prefix)
    run(settings, _feedback(settings, task_id, outcome is FeedbackOutcome.success, output or Format.text))


async def _feedback(settings: Settings, task_id: str, success: bool, form: Format) -> None:
    from schemas.codec import Rejected, decode, pack
    from schemas.messages import ConfidenceDataPoint
    from streams.broker.client import read_all, sending

    found: tuple[Record, ConfidenceDataPoint] | None = None
    async for record in read_all(settings, "data-points"):
        if record.value is None:
            continue
        try:
            point = decode(ConfidenceDataPoint, record.value, record.headers)
        except Rejected:
            continue  # it became a dead letter of the statistics
        if point.task_id == task_id and point.confidence > 0 and not point.feedback:
            found = record, point
    if found is None:
        raise CommandError(f"task {task_id}: no data point of an answer found", NOT_FOUND)
    record, point = found
    labelled = point.model_copy(update={"success": success, "feedback": True})
    async with sending(settings) as sender:
        await sender.send("data-points", record.key, pack(labelled.wire()), record.partition)
    row: dict[str, Any] = {
        "taskId": task_id,
        "agentId": point.agent_id,
        "confidence": point.confidence,
        "success": success,
    }
    rows_as(form, [row], tuple(row))
