"""`parallax dlq ls|show|replay`: what was put aside and why, and sending it back.

In: dead-letter topics by short or full name, places as `ls` prints them. Out: rows on stdout; records on the topics the letters
came from. Never deletes a letter (Kafka keeps it until its retention ends), never creates a topic.
"""

from __future__ import annotations

import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.options import (
    FAILED,
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
from streams.cli.running import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from streams.client import Record
    from streams.letter_box import Returner
    from streams.rules.letters import Place, Replay
    from streams.settings import Settings

app = typer.Typer(help="List, show and replay dead letters.", rich_markup_mode=None)

COLUMNS = ("place", "from", "time", "stage", "reason")
MAX_LISTED = 10_000
"""Letters gathered for a table or one JSON document; JSON lines have no bound."""
MAX_REASON = 200
MAX_SHOWN = 8_000
"""Characters of a value on a terminal."""


@app.command("ls")
def ls(
    topic: Annotated[
        str | None, typer.Argument(metavar="[TOPIC]", help="tasks, data-points, ...; all", show_default=False)
    ] = None,
    maximum: Annotated[
        int | None, typer.Option("--max", min=1, metavar="N", help="stop after N letters", show_default=False)
    ] = None,
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """List the dead letters: where each lies, where it came from, when, at which stage it failed and why."""
    settings = settings_from(bootstrap_servers, topic_prefix)
    run(settings, _ls(settings, topic, maximum, output or Format.text))


async def _ls(settings: Settings, topic: str | None, maximum: int | None, form: Format) -> None:
    from streams.letter_box import read_topic

    rows: list[dict[str, Any]] = []
    listed, bound = 0, maximum if form is Format.jsonl else min(maximum or MAX_LISTED, MAX_LISTED)
    for name in await _topics(settings, topic):
        if listed == bound:
            break
        async with aclosing(read_topic(settings, name)) as letters:
            async for record in letters:
                if listed == bound:  # one more than was asked for: there are others
                    say(f"stopped after {listed} letters; there are more (--max N, or -o jsonl for all)")
                    break
                listed += 1
                if form is Format.jsonl:
                    json_line(_summary(record))
                else:
                    rows.append(_summary(record))
    if form is not Format.jsonl:
        rows.sort(key=lambda row: (row["topic"], row["partition"], row["offset"]))
        rows_as(form, [_for_table(row) for row in rows] if form is Format.text else rows, COLUMNS)
    if not listed:
        say("no dead letters")


async def _topics(settings: Settings, name: str | None) -> list[str]:
    """Full names of all dead-letter topics, or of the one meant."""
    from schemas.topics import dead_letter_topics, full_name
    from streams.client import TopicMissing
    from streams.letter_box import letter_topics
    from streams.rules.letters import letter_topic

    existing = await letter_topics(settings)
    ours = [full_name(short, settings.topic_prefix) for short in dead_letter_topics()]
    if name is None:
        if not existing:
            raise TopicMissing(ours[0])
        return existing
    meant = letter_topic(name, settings.topic_prefix)
    if meant in existing:
        return [meant]
    if meant in ours:
        raise TopicMissing(meant)
    raise CommandError(f"{name}: no such dead-letter topic; there are {', '.join(existing) or 'none'}", USAGE)


def _summary(record: Record) -> dict[str, Any]:
    """One letter without its bytes. What its headers do not tell is null; `time` is then the broker's."""
    from schemas.times import format_time
    from streams.rules.letters import Place, read_marks, readable

    marks = read_marks(record.headers)
    return {
        "place": str(Place(record.topic, record.partition, record.offset)),
        "from": marks.origin,
        "time": marks.time or format_time(record.timestamp_ms),
        "stage": marks.stage,
        "reason": marks.reason,
        "family": marks.family,
        "exception": marks.exception,
        "group": marks.group,
        "agent": marks.agent,
        "deliveries": marks.deliveries,
        "replayed": marks.replayed,
        "omittedBytes": marks.omitted_bytes,
        "key": _word(readable(record.key)),
        "bytes": None if record.value is None else len(record.value),
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
    }


def _word(found: tuple[str, Any]) -> str | None:
    """A key or a header as one string: a key `1` is text that happens to be JSON."""
    import orjson

    kind, value = found
    if kind == "json":
        return value if isinstance(value, str) else orjson.dumps(value).decode()
    return None if value is None else str(value)


def _for_table(row: dict[str, Any]) -> dict[str, Any]:
    from streams.rules.letters import printable

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
    """Show one dead letter with its headers and its value; exit 4 when there is none at this place."""
    settings = settings_from(bootstrap_servers, topic_prefix)
    run(settings, _show(settings, _places([place], settings)[0], output or Format.text))


def _places(texts: list[str], settings: Settings) -> list[Place]:
    """The places named, each once."""
    from streams.rules.letters import parse_place

    try:
        return list(dict.fromkeys(parse_place(text, settings.topic_prefix) for text in texts))
    except ValueError as error:
        raise CommandError(str(error), USAGE) from None


async def _show(settings: Settings, place: Place, form: Format) -> None:
    from streams.letter_box import look_up
    from streams.rules.letters import readable

    async with aclosing(look_up(settings, [place])) as letters:
        async for _, record in letters:
            if record is None:
                raise CommandError(f"{place}: there is no dead letter", NOT_FOUND)
            kind, value = readable(record.value)
            headers = [{"name": name, "value": _word(readable(raw))} for name, raw in record.headers]
            shown = _summary(record) | {"headers": headers, "valueIs": kind, "value": value}
            if form is Format.text:
                _show_text(shown)
            else:
                document(shown, form)


def _show_text(shown: dict[str, Any]) -> None:
    import orjson

    from streams.rules.letters import printable

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
        value = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
    text = printable(value or "(none)")
    if sys.stdout.isatty() and len(text) > MAX_SHOWN:
        line(f"{text[:MAX_SHOWN]}…")
        say(f"{len(text) - MAX_SHOWN} more characters; all of it: -o json, or into a file")
    else:
        line(text)


@app.command("replay")
def replay(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="PLACE... | --all [TOPIC]", help="as `dlq ls` prints them")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="every letter there is now, of one topic or of all")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done, send nothing")] = False,
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """Send letters back to the topics they came from: original key and bytes, header parallax-replayed counted up.

    The letters stay where they are: a second replay sends them again. What came from dispatch or parked goes to tasks.
    Exit 1 when any could not be replayed; 4 when there is no letter at a place (then none is replayed).
    """
    settings = settings_from(bootstrap_servers, topic_prefix)
    given = names or []
    if everything and (len(given) > 1 or any("/" in name for name in given)):
        raise CommandError("dlq replay: --all takes one TOPIC or none, not places", USAGE)
    if not everything and not given:
        raise CommandError("dlq replay: needs places (parallax dlq ls prints them), or --all", USAGE)
    places = [] if everything else _places(given, settings)
    topic = given[0] if everything and given else None
    run(settings, _replay(settings, places, everything, topic, dry_run, output or Format.text))


async def _replay(
    settings: Settings, places: list[Place], everything: bool, topic: str | None, dry_run: bool, form: Format
) -> None:
    from streams.client import catalog
    from streams.letter_box import last_offsets, read_until, returning

    if everything:
        last = await last_offsets(settings, await _topics(settings, topic))
        letters = read_until(settings, last)
    else:
        await _all_there(settings, places)
        letters = _still_there(settings, places)
    report = Report(form, dry_run)
    existing = set(await catalog(settings))
    async with aclosing(letters) as found, returning(settings) as returner:
        async for place, record in found:
            await _one(settings, report, returner, existing, place, record)
            if returner.full:
                await _settle(report, returner)
        await _settle(report, returner)
    report.end()


async def _all_there(settings: Settings, places: list[Place]) -> None:
    from streams.letter_box import look_up

    async with aclosing(look_up(settings, places)) as letters:
        missing = [str(place) async for place, record in letters if record is None]
    if missing:
        raise CommandError(f"dlq replay: there is no dead letter at {', '.join(missing)}; nothing was sent", NOT_FOUND)


async def _still_there(settings: Settings, places: list[Place]) -> AsyncIterator[tuple[Place, Record]]:
    from streams.letter_box import look_up

    async with aclosing(look_up(settings, places)) as letters:
        async for place, record in letters:
            if record is None:  # its retention ended since it was seen
                raise CommandError(f"{place}: the letter is gone; those before it were sent", NOT_FOUND)
            yield place, record


async def _one(
    settings: Settings, report: Report, returner: Returner, existing: set[str], place: Place, record: Record
) -> None:
    from streams.rules.letters import NotReplayable, build_replay

    try:
        built = build_replay(record.key, record.value, record.headers, settings.topic_prefix)
        if built.topic not in existing:
            raise NotReplayable(f"topic {built.topic}, where it came from, does not exist")
    except NotReplayable as error:
        await _settle(report, returner)  # so that what is printed keeps the order of the letters
        report.add(place, None, str(error))
        return
    if report.dry_run:
        report.add(place, built)
    else:
        await returner.send(place, built)


async def _settle(report: Report, returner: Returner) -> None:
    for place, built, error in await returner.settle():
        report.add(place, built, None if error is None else f"Kafka says {type(error).__name__}: {error}")
    if returner.error is not None:
        report.end(stopped=True)
        raise returner.error


class Report:
    """Tells what became of each letter, as it happens; one JSON document at the end."""

    def __init__(self, form: Format, dry_run: bool) -> None:
        self.dry_run = dry_run
        self._form = form
        self._rows: list[dict[str, Any]] = []
        self._counts = {True: 0, False: 0}

    def add(self, place: Place, built: Replay | None, problem: str | None = None) -> None:
        """One letter. `problem`: why it was not replayed."""
        from streams.rules.letters import printable

        self._counts[problem is None] += 1
        status = "failed" if problem else "would be replayed" if self.dry_run else "replayed"
        row = {"place": str(place), "to": built.topic if built else None, "status": status}
        row |= {"count": built.count if built else None, "reason": problem}
        if self._form is Format.json:
            self._rows.append(row)
        elif self._form is Format.jsonl:
            json_line(row)
        else:
            said = f"{status}: {problem}" if problem else f"{status} to {row['to']} (replay {row['count']})"
            line(printable(f"{place}  {said}"))

    def end(self, stopped: bool = False) -> None:
        """The sum. Raises `typer.Exit` with 1 when any failed, unless the caller raises what `stopped` it."""
        if self._form is Format.json:
            document(self._rows, self._form)
        done, failed = self._counts[True], self._counts[False]
        say(f"{done} {'would be ' if self.dry_run else ''}replayed, {failed} not{'; stopped there' if stopped else ''}")
        if failed and not stopped:
            raise typer.Exit(FAILED)
