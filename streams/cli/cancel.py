"""`parallax cancel ID`: ask for a task to be cancelled, wherever it is.

In: a task id. Out: one record on `controls`, acknowledged. Whether there was still something to cancel is told by the task's
result (`parallax task ID`): every worker reads the wish, only the one that has the task ends it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli.options import Format, OutputFormat, Prefix, Servers, settings_from
from streams.cli.output import rows_as
from streams.cli.running import run

if TYPE_CHECKING:
    from streams.settings import Settings


def cancel(
    task_id: Annotated[str, typer.Argument(metavar="ID")],
    reason: Annotated[str | None, typer.Option(help="Goes into the task's result.")] = None,
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """Cancel a task: queued, parked or running.

    A call under way is cut off at the agent. A task that comes later with the same id is cancelled too, for about an hour.
    """
    settings = settings_from(bootstrap_servers, topic_prefix)
    run(settings, _cancel(settings, task_id, reason, output or Format.text))


async def _cancel(settings: Settings, task_id: str, reason: str | None, form: Format) -> None:
    from schemas.codec import pack, validate
    from schemas.messages import Control
    from streams.client import send_keyed

    wish = {"type": "cancel", "taskId": task_id} | ({} if reason is None else {"reason": reason})
    control = validate(Control, wish)
    await send_keyed(settings, "controls", [(task_id.encode(), pack(control.wire()))])
    rows_as(form, [{"taskId": task_id, "asked": True}], ("taskId", "asked"))
