"""`parallax agent serve MODULE:FUNCTION`: run a function that `@agent` marked, over HTTP, dialled in, or on Kafka."""

from __future__ import annotations

import asyncio
import errno
import importlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from streams.cli.options import FAILED, USAGE, CommandError, settings_from
from streams.cli.running import REACH_TIMEOUT_S

app = typer.Typer(help="Run your own agents.", rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Run your own agents."""


@app.command("serve")
def serve(
    name: Annotated[str, typer.Argument(metavar="MODULE:FUNCTION", help="a function marked with @agent")],
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="serve over HTTP at this port; 0: a free one  [default: 9000]")
    ] = None,
    host: Annotated[str, typer.Option(help="the address to serve at")] = "127.0.0.1",
    dial: Annotated[
        list[str] | None, typer.Option(metavar="HOST:PORT", help="dial in to a worker's gRPC port; repeat for several")
    ] = None,
    consume: Annotated[str | None, typer.Option(metavar="HOST:PORT,...", help="read requests from this Kafka")] = None,
    topic: Annotated[str | None, typer.Option(metavar="TOPIC", help="with --consume  [default: NAME.requests]")] = None,
    token_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="with --dial: the variable that holds the gateway's token")
    ] = None,
    ca_file: Annotated[Path | None, typer.Option(metavar="FILE", help="with --dial: use TLS and trust this CA")] = None,
) -> None:
    """Run an agent until SIGTERM or Ctrl-C: over HTTP (--port), dialled in (--dial) or on Kafka (--consume)."""
    import os

    if sum(one is not None for one in (port, dial or None, consume)) > 1:
        raise CommandError("agent serve: --port, --dial and --consume exclude each other", USAGE)
    if topic is not None and consume is None:
        raise CommandError("agent serve: --topic needs --consume", USAGE)
    found = load_agent(name)
    try:
        if dial:
            token = None if token_env is None else os.environ.get(token_env)
            if token_env is not None and token is None:
                raise CommandError(f"--token-env: {token_env} is not set", USAGE)
            found.dial(*dial, token=token, ca_file=None if ca_file is None else str(ca_file))
        elif consume:
            from streams.broker.kafka import client_options, reach
            from streams.broker.noise import quiet_logs

            quiet_logs()
            settings = settings_from(consume, None)
            asyncio.run(reach(settings, REACH_TIMEOUT_S))
            found.consume(topic=topic, **client_options(settings))
        else:
            found.serve(9000 if port is None else port, host=host)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            at = f"{host}:{9000 if port is None else port}"
            raise CommandError(f"agent serve: {at} is in use; choose another with --port (0: a free one)") from None
        raise CommandError(f"agent serve: {error}", FAILED) from None
    except Exception as error:
        from agents_io.serving.gateway import DialFailed
        from agents_io.serving.kafka import ConsumeFailed

        if isinstance(error, (DialFailed, ConsumeFailed)):
            raise CommandError(f"agent serve: {error}", FAILED) from None
        raise


def load_agent(name: str) -> Any:
    """The agent that `module:function` names; modules of the working directory are found. Raises `CommandError`."""
    from agents_io.rules.callables import describe_import_error
    from agents_io.serving import AgentFunction

    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise CommandError(f"agent serve: want MODULE:FUNCTION, not {name!r}", USAGE)
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name.removesuffix(".py"))
    except ModuleNotFoundError as error:
        raise CommandError(f"agent serve: {module_name}: {error}", USAGE) from None
    except (Exception, SystemExit) as error:  # the module's own fault, whatever it is
        reason = describe_import_error(error)
        raise CommandError(f"agent serve: {module_name} cannot be imported: {reason}", USAGE) from None
    found = getattr(module, attribute, None)
    if not isinstance(found, AgentFunction):
        names = [key for key, value in vars(module).items() if isinstance(value, AgentFunction)]
        hint = f"; marked are {', '.join(names)}" if names else "; mark one with @agent"
        raise CommandError(f"agent serve: {module_name} has no agent {attribute!r}{hint}", USAGE)
    return found
