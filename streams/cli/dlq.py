"""`parallax dlq ls|show|replay`: list dead letters with the reasons, show them, and send them back.

In: dead-letter topics by short or full name, positions as `ls` prints them. Out: rows and documents on stdout;
`streams.cli.replay` sends them back. Never deletes a dead letter: Kafka keeps it until its retention ends.
"""

from __future__ import annotations

import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.options import (
    NOT_FOUND,
    USAGE,
    CommandError,
    Format,
    OutputFormat,
    Prefix,
    Servers,
    settings_from,
)
from streams.cli.output import document, json_line, line, rows_as, say
from streams.cli.replay import dead_letter_topics, send_back
from streams.cli.running import run

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from aiokafka.structs import ConsumerRecord

    from streams.rules.broker.dead_letters import RecordId
    from streams.settings import Settings

app = typer.Typer(help="List, show and replay dead letters.", rich_markup_mode=None)

COLUMNS = ("place", "from", "time", "stage", "reason")
MAX_LISTED = 10_000
"""Dead letters gathered for a table or one JSON document; JSON lines have no bound."""
MAX_REASON = 200
MAX_SHOWN = 8_000
"""Characters of a value on a terminal."""


@app.command("ls")
def ls(
    topic: Annotated[str | None, typer.Argument(metavar="TOPIC", help="tasks, data-points, ...; default: all")] = None,
    maximum: Annotated[int | None, typer.Option("--max", min=1, metavar="N", help="stop after N dead letters")] = None,
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """List the dead letters: position, origin, time, stage and reason."""
    settings = settings_from(bootstrap_servers, topic_prefix)
    run(settings, _ls(settings, topic, maximum, output or Format.text))


async def _ls(settings: Settings, topic: str | None, maximum: int | None, form: Format) -> None:
    from streams.broker.dlq_reader import summary

    rows: list[dict[str, Any]] = []
    listed, bound = 0, maximum if form is Format.jsonl else min(maximum or MAX_LISTED, MAX_LISTED)
    async with aclosing(_dead_letters(settings, await dead_letter_topics(settings, topic))) as records:
        async for record in records:
            listed += 1
            if form is Format.jsonl:
                json_line(summary(record))
            else:
                rows.append(summary(record))
            if listed == bound:
                break
    if form is not Format.jsonl:
        rows.sort(key=lambda row: (row["topic"], row["partition"], row["offset"]))
        rows_as(form, [_for_table(row) for row in rows] if form is Format.text else rows, COLUMNS)
    if not listed:
        say("no dead letters")
    elif listed == bound != maximum:
        say(f"stopped after {listed} dead letters; list all with: -o jsonl")


async def _dead_letters(settings: Settings, topics: list[str]) -> AsyncGenerator[ConsumerRecord]:
    from streams.broker.dlq_reader import read_topic

    for name in topics:
        async with aclosing(read_topic(settings, name)) as records:
            async for record in records:
                yield record


def _for_table(row: dict[str, Any]) -> dict[str, Any]:
    from streams.rules.broker.dead_letters import printable

    texts = {name: printable(" ".join(text.split())) for name, text in row.items() if isinstance(text, str)}
    reason = texts.get("reason", "")
    return row | texts | {"reason": reason if len(reason) <= MAX_REASON else reason[: MAX_REASON - 1] + "…"}


@app.command("show")
def show(
    place: Annotated[str, typer.Argument(metavar="PLACE", help="TOPIC/PARTITION/OFFSET as `dlq ls` prints it")],
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """Show one dead letter with its headers and its value. Exit 4 if there is none at this position."""
    settings = settings_from(bootstrap_servers, topic_prefix)
    run(settings, _show(settings, _places([place], settings)[0], output or Format.text))


def _places(texts: list[str], settings: Settings) -> list[RecordId]:
    """The places named, each once."""
    from streams.rules.broker.dead_letters import parse_record_id

    try:
        return list(dict.fromkeys(parse_record_id(text, settings.topic_prefix) for text in texts))
    except ValueError as error:
        raise CommandError(str(error), USAGE) from None


async def _show(settings: Settings, place: RecordId, form: Format) -> None:
    from streams.broker.dlq_reader import look_up, summary
    from streams.rules.broker.dead_letters import readable, word

    async with aclosing(look_up(settings, [place])) as records:
        async for _, record in records:
            if record is None:
                raise CommandError(f"{place}: there is no dead letter", NOT_FOUND)
            kind, value = readable(record.value, record.headers)
            headers = [{"name": name, "value": word(raw)} for name, raw in record.headers]
            shown = summary(record) | {"headers": headers, "valueIs": kind, "value": value}
            if form is Format.text:
                _show_text(shown)
            else:
                document(shown, form)


def _show_text(shown: dict[str, Any]) -> None:
    import orjson

    from schemas.exact_json import dumps
    from streams.rules.broker.dead_letters import printable

    apart = ("headers", "value", "topic", "partition", "offset")
    for name, value in shown.items():
        if name not in apart and value is not None:
            line(f"{name}: {printable(str(value))}")
    line("headers:")
    for header in shown["headers"]:
        line(f"  {printable(header['name'])}: {printable(str(header['value'] or ''))}")
    line("value:")
    value = shown["value"]
    if shown["valueIs"] == "json":
        value = dumps(value, orjson.OPT_INDENT_2).decode()
    text = printable(value or "(none)")
    if sys.stdout.isatty() and len(text) > MAX_SHOWN:
        line(f"{text[:MAX_SHOWN]}…")
        say(f"{len(text) - MAX_SHOWN} more characters; all of it: -o json, or into a file")
    else:
        line(text)


@app.command("replay")
def replay(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="PLACE", help="TOPIC/PARTITION/OFFSET as `dlq ls` prints it; with --all a topic"),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="every dead letter there is now, of one topic or of all")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would be sent, send nothing")] = False,
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """Send dead letters back to the topics they came from, with original key and bytes and the header parallax-replayed
    counted up.

    Dead letters stay on their topic: a second replay sends them again. Those from dispatch, parked or scheduled go to
    tasks. Exit 1 if any could not be replayed; 4 if there is none at a position (then none is replayed).
    """
    settings = settings_from(bootstrap_servers, topic_prefix)
    given = names or []
    if everything and (len(given) > 1 or any("/" in name for name in given)):
        raise CommandError("dlq replay: --all takes one TOPIC or none, not places", USAGE)
    if not everything and not given:
        raise CommandError("dlq replay: needs places (parallax dlq ls prints them), or --all", USAGE)
    places = [] if everything else _places(given, settings)
    topic = given[0] if everything and given else None
    run(settings, send_back(settings, places, everything, topic, dry_run, output or Format.text))
