"""The console script `parallax`: every command registered, every failure one line and an exit code.

Exit codes: 0 ok, 1 an operation failed, 2 usage, 3 Kafka not reachable, 4 not found, 124 wait timed out, 130 Ctrl-C.
Start-up imports nothing but typer: each command imports what it needs when it runs.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

import typer

from streams.cli import (
    acls,
    agent,
    agents,
    anomalies,
    bench,
    cache,
    cancel,
    dlq,
    doctor,
    explaining,
    feedback,
    functions,
    info,
    init,
    plan,
    process,
    schedules,
    stats,
    strimzi,
    submit,
    tail,
    task,
    tasks,
    topics,
    workers,
)
from streams.cli.options import OK
from streams.cli.running import explain


def build() -> typer.Typer:
    """The whole command tree."""
    app = typer.Typer(
        name="parallax",
        help="The data plane between Kafka and AI agents.",
        epilog="Settings: flag > environment PARALLAX_* > parallax.toml > default; see `parallax config`.",
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=False,
    )
    app.command("dev")(process.dev)
    app.command("worker")(process.worker)
    app.command("init")(init.init)
    app.add_typer(init.app, name="new")
    app.add_typer(topics.app, name="topics")
    app.add_typer(agents.app, name="agents")
    app.add_typer(agent.app, name="agent")
    app.command("submit")(submit.submit)
    app.command("tail")(tail.tail)
    app.command("task")(task.task)
    app.command("explain")(explaining.explain)
    app.add_typer(workers.app, name="workers")
    app.add_typer(schedules.app, name="schedules")
    app.add_typer(tasks.app, name="tasks")
    app.command("retry")(tasks.retry)
    app.command("plan")(plan.plan)
    app.command("cancel")(cancel.cancel)
    app.add_typer(cache.app, name="cache")
    app.add_typer(functions.app, name="functions")
    app.command("stats")(stats.stats)
    app.command("anomalies")(anomalies.anomalies)
    app.command("feedback")(feedback.feedback)
    app.add_typer(bench.app, name="bench")
    app.add_typer(dlq.app, name="dlq")
    app.command("doctor")(doctor.doctor)
    app.command("config")(info.config)
    info.docs_app.command("acls")(acls.acls)
    info.docs_app.command("strimzi")(strimzi.strimzi)
    app.add_typer(info.docs_app, name="docs")
    app.command("version")(info.version)
    return app


def invoke(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code. Never raises for a user's mistake.

    If the reader of stdout goes away (`parallax tail results | head`), typer ends the process quietly with 1.
    """
    try:
        code = build()(args=list(arguments), prog_name="parallax", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        return explain(error)
    return code if isinstance(code, int) else OK


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.exit(invoke(sys.argv[1:] or ["--help"]))


if __name__ == "__main__":
    main()
