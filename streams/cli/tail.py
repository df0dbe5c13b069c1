"""`parallax tail TOPIC`: the records of one of our topics, as JSON lines, until Ctrl-C.

In: a topic by its short name (`results`, `dlq.tasks`) or its full one. Out: one line a record, read under read_committed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.options import USAGE, CommandError, Format, OutputFormat, Prefix, Servers, settings_from
from streams.cli.output import json_line, line, say
from streams.cli.running import run

if TYPE_CHECKING:
    from aiokafka.structs import ConsumerRecord

    from schemas.codec import Headers
    from streams.settings import Settings

MAX_TEXT = 200


def tail(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="results, events, dlq.tasks, ... or a full name")],
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="start at the oldest record")] = False,
    maximum: Annotated[int | None, typer.Option("--max", min=1, metavar="N", help="stop after N records")] = None,
    no_follow: Annotated[
        bool, typer.Option("--no-follow", help="stop at the end of the topic as it is now (with --from-beginning)")
    ] = False,
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """Print the records of a topic as they come.

    JSON lines, until Ctrl-C or --max; with -o text a line for reading: time, key, type, value.
    """
    settings = settings_from(bootstrap_servers, topic_prefix)
    name = short_name(topic, settings.topic_prefix)
    form = output or Format.jsonl
    run(settings, _tail(settings, name, from_beginning, maximum, not no_follow, form))


def short_name(topic: str, prefix: str) -> str:
    """The short name of one of our topics, given either name.

    >>> short_name("parallax.results", "parallax."), short_name("dlq.parallax.tasks", "parallax.")
    ('results', 'dlq.tasks')
    """
    from schemas.topics import TOPICS, dead_letter_topics, full_name

    names = [*(entry.name for entry in TOPICS), *dead_letter_topics()]
    for name in names:
        if topic in (name, full_name(name, prefix)):
            return name
    raise CommandError(f"{topic}: no such topic; there are {', '.join(names)}", USAGE)


async def _tail(
    settings: Settings, name: str, from_beginning: bool, maximum: int | None, follow: bool, form: Format
) -> None:
    from streams.broker.topic_feed import TopicFeed

    async with TopicFeed(settings, name, since_ms=0 if from_beginning else None) as feed:
        printed, warned = 0, False
        async for record in feed.follow() if follow else feed.to_end():
            if feed.schema_problem is not None and not warned:
                say(f"warning: records in schemas of the registry are shown as bytes: {feed.schema_problem}")
                warned = True
            _print(record, form)
            printed += 1
            if printed == maximum:
                return


def _print(record: ConsumerRecord, form: Format) -> None:
    if form is Format.text:
        line(as_text(record))
    else:
        json_line(as_json(record.value, record.headers))


def as_json(value: bytes | None, headers: Headers = ()) -> Any:
    """A value as JSON; bytes that are not JSON (as in dead letters) as a string."""
    from schemas.wire_format import loads

    if value is None:
        return None
    try:
        return loads(value, headers)
    except ValueError:
        return value.decode("utf-8", "replace")


def as_text(record: ConsumerRecord) -> str:
    """Time, key, CloudEvents type and the beginning of the value on one line."""
    from schemas.times import format_time
    from schemas.wire_format import key_text

    texts = {key: (raw or b"").decode("utf-8", "replace") for key, raw in record.headers}
    kind = texts.get("ce_type", "-")
    if "__dlq.errors.message" in texts:
        place = "/".join(texts.get(f"__dlq.errors.{part}", "?") for part in ("topic", "partition", "offset"))
        kind = f"{place}: {texts['__dlq.errors.message']}"
    key = "-" if record.key is None else key_text(record.key, record.headers)
    value = "(deleted)" if record.value is None else _text(record.value, record.headers).replace("\n", " ")
    cut = value if len(value) <= MAX_TEXT else value[: MAX_TEXT - 1] + "…"
    return f"{format_time(record.timestamp)}  {key}  {kind}  {cut}"


def _text(value: bytes, headers: Headers) -> str:
    """The value as it was written; JSON if it was written with a schema."""
    from schemas.exact_json import dumps
    from schemas.wire_format import loads, marked

    if marked(value, headers) is None:
        return value.decode("utf-8", "replace")
    try:
        return dumps(loads(value, headers)).decode()
    except ValueError:
        return value.decode("utf-8", "replace")
