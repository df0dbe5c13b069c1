"""`parallax cancel ID`: cancel a task or a plan, wherever it is.

In: an id. Out: a record on `controls` for the task and one for the plan of that id, acknowledged. The result shows
whether it came in time (`parallax task`, `parallax plan`): every worker reads the request, the owner ends the task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli.options import USAGE, CommandError, Format, OutputFormat, Prefix, Servers, settings_from
from streams.cli.output import rows_as
from streams.cli.running import run

if TYPE_CHECKING:
    from streams.settings import Settings


def cancel(
    name: Annotated[str, typer.Argument(metavar="ID")],
    reason: Annotated[str | None, typer.Option(help="Appears in the result.")] = None,
    task: Annotated[bool, typer.Option("--task", help="Cancel only a task with this id, no plan.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Cancel only a plan with this id, no task.")] = False,
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """Cancel a task or a plan that waits, is delayed or is running.

    A call under way is cut off at the agent. Tasks sent later with the same id are cancelled too, for about an hour.
    """
    if task and plan:
        raise CommandError("--task and --plan exclude each other", USAGE)
    settings = settings_from(bootstrap_servers, topic_prefix)
    fields = [field for field, other in (("taskId", plan), ("planId", task)) if not other]
    run(settings, _cancel(settings, name, fields, reason, output or Format.text))


async def _cancel(settings: Settings, name: str, fields: list[str], reason: str | None, form: Format) -> None:
    from schemas.codec import pack, validate
    from schemas.messages import Control
    from streams.broker.client import send_keyed

    given = {} if reason is None else {"reason": reason}
    cancel_requests = [validate(Control, {"type": "cancel", field: name} | given) for field in fields]
    await send_keyed(
        settings, "controls", [(name.encode(), pack(cancel_request.wire())) for cancel_request in cancel_requests]
    )
    rows_as(form, [dict.fromkeys(fields, name) | {"asked": True}], (*fields, "asked"))
