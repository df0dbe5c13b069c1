"""`parallax feedback ID success|failure`: reports the true outcome of an answered task to the statistics.

In: a task id. Reads `data-points` once and sends the task's point again with the true `success` and `feedback: true`, to
the partition where the first one lies: its series is counted there. Reporting the same twice changes nothing.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli.options import NOT_FOUND, CommandError, Format, OutputFormat, Prefix, Servers, settings_from
from streams.cli.output import rows_as
from streams.cli.running import run

if TYPE_CHECKING:
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
    from schemas.exact_json import loads
    from streams.broker.client import sending
    from streams.client.errors import NotFound
    from streams.client.history import feedback_request

    try:
        request = await feedback_request(settings, task_id, success, since=0)
    except NotFound:
        raise CommandError(f"task {task_id}: no data point of an answer found", NOT_FOUND) from None
    async with sending(settings) as sender:
        await sender.send("data-points", request.key, request.value, request.partition)
    point = loads(request.value)
    row = {"taskId": task_id, "agentId": point["agentId"], "confidence": point["confidence"], "success": success}
    rows_as(form, [row], tuple(row))
