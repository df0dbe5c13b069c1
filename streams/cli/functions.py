"""`parallax functions ls`: the functions that a worker started here would offer. No broker.

In: the setting `functions.modules` and the installed entry points. Out: names, how each runs, where it is defined. It
imports those modules, as a worker would, and calls nothing.
"""

from __future__ import annotations

import typer

from streams.cli.options import CommandError, Format, OutputFormat, Prefix, Servers, settings_from
from streams.cli.output import rows_as, say

app = typer.Typer(help="Functions that tasks may name.", rich_markup_mode=None)


@app.callback()
def functions() -> None:
    """Functions that tasks may name."""


@app.command("ls")
def ls(bootstrap_servers: Servers = None, topic_prefix: Prefix = None, output: OutputFormat = None) -> None:
    """List the functions of the modules in functions.modules and of the entry points parallax.functions.

    Modules must be importable: installed, or on PYTHONPATH.
    """
    from agents_io.protocols.functions.catalogue import FunctionsError, load_functions

    try:
        known = load_functions(settings_from(bootstrap_servers, topic_prefix).functions.modules)
    except FunctionsError as error:
        raise CommandError(str(error)) from None
    rows = [
        {"name": one.name, "runs": "on the loop" if one.is_async else "in a thread", "defined": one.where}
        for one in map(known.get, known.names)
        if one is not None
    ]
    rows_as(output or Format.text, rows, ("name", "runs", "defined"))
    if not rows:
        say("no functions; name modules with @function in them: PARALLAX_FUNCTIONS__MODULES=my.module")
