"""`parallax cache clear`: make every worker drop cached answers.

In: an agent id, or none for all. Out: one acknowledged record on `controls`. A worker that starts later reads the
request too, while `controls` is kept (an hour), and drops older answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli.options import Format, OutputFormat, Prefix, Servers, settings_from
from streams.cli.output import rows_as
from streams.cli.running import run

if TYPE_CHECKING:
    from streams.settings import Settings

app = typer.Typer(help="The result cache.", rich_markup_mode=None)


@app.callback()
def cache() -> None:
    """The result cache."""


@app.command("clear")
def clear(
    agent: Annotated[
        str | None, typer.Option(metavar="ID", help="only answers of this agent (or function:NAME, ...)")
    ] = None,
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """Drop cached answers: the next task is answered by its agent.

    The answer to a task that was under way when the request came is not cached either.
    """
    settings = settings_from(bootstrap_servers, topic_prefix)
    run(settings, _clear(settings, agent, output or Format.text))


async def _clear(settings: Settings, agent: str | None, form: Format) -> None:
    from schemas.codec import pack, validate
    from schemas.messages import Control
    from streams.broker.client import send_keyed

    control = validate(Control, {"type": "cache-clear"} | ({} if agent is None else {"agentId": agent}))
    await send_keyed(settings, "controls", [((agent or "cache-clear").encode(), pack(control.wire()))])
    rows_as(form, [{"agentId": agent or "all", "asked": True}], ("agentId", "asked"))
