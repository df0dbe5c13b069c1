"""The options of every command, and the errors that carry an exit code.

In: the command line. Out: settings (flag > environment > file > default). Never connects to Kafka.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from streams.settings import Settings

OK = 0
FAILED = 1
USAGE = 2
UNREACHABLE = 3
NOT_FOUND = 4
TIMED_OUT = 124
INTERRUPTED = 130


class CommandError(Exception):
    """Ends the command: one line for stderr and the exit code."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Format(StrEnum):
    """How data is written to stdout."""

    text = "text"
    json = "json"
    jsonl = "jsonl"


Servers = Annotated[
    str | None,
    typer.Option(
        "--bootstrap-servers",
        metavar="HOST:PORT,...",
        help="Kafka to use  [env: PARALLAX_BOOTSTRAP_SERVERS; default: localhost:9092]",
    ),
]
Prefix = Annotated[
    str | None,
    typer.Option(
        "--topic-prefix",
        metavar="PREFIX",
        help="prefix of topic names  [env: PARALLAX_TOPIC_PREFIX; default: parallax.]",
    ),
]
OutputFormat = Annotated[Format | None, typer.Option("-o", "--output", help="how data is written to stdout")]


def settings_from(servers: str | None, prefix: str | None, **flags: Any) -> Settings:
    """The settings in force for a command. Raises `SettingsError`."""
    from streams.settings import load

    return load({"bootstrap_servers": servers, "topic_prefix": prefix, **flags})


def duration_ms(text: str, option: str) -> int:
    """A duration option in milliseconds. An invalid one is a usage error that names the option."""
    from schemas.times import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise CommandError(f"{option}: {error}", USAGE) from None
