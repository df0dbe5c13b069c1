"""The work of `parallax dlq replay`: sends dead letters back to the topics they came from, and reports the outcome of
each.

In: positions, or all dead letters that exist at the start. Out: acknowledged records, one row a dead letter on stdout.
Never sends to a missing topic, never sends a dead letter without its value, never follows dead letters that come back.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import typer

from streams.cli.options import FAILED, NOT_FOUND, USAGE, CommandError, Format
from streams.cli.output import document, json_line, line, say

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from aiokafka.structs import ConsumerRecord

    from streams.broker.dlq_reader import DlqReplayer
    from streams.rules.broker.dead_letters import RecordId, Replay
    from streams.settings import Settings


async def dead_letter_topics(settings: Settings, name: str | None) -> list[str]:
    """Full names of all dead-letter topics, or of the one named. Raises `TopicMissing`, `CommandError`."""
    from schemas.topics import dead_letter_topics as short_names
    from schemas.topics import full_name
    from streams.broker.client import TopicMissing
    from streams.broker.dlq_reader import dlq_topics
    from streams.rules.broker.dead_letters import dlq_topic

    existing = await dlq_topics(settings)
    ours = [full_name(short, settings.topic_prefix) for short in short_names()]
    if name is None:
        if not existing:
            raise TopicMissing(ours[0])
        return existing
    meant = dlq_topic(name, settings.topic_prefix)
    if meant in existing:
        return [meant]
    if meant in ours:
        raise TopicMissing(meant)
    raise CommandError(f"{name}: no such dead-letter topic; there are {', '.join(existing) or 'none'}", USAGE)


async def send_back(
    settings: Settings, places: list[RecordId], everything: bool, topic: str | None, dry_run: bool, form: Format
) -> None:
    """Replay the dead letters. Raises `CommandError` for a position without a dead letter, `typer.Exit` if any was not
    sent.
    """
    from streams.broker.client import catalog
    from streams.broker.dlq_reader import last_offsets, read_until, replaying

    if everything:
        last = await last_offsets(settings, await dead_letter_topics(settings, topic))
        records = read_until(settings, last)
    else:
        await _all_there(settings, places)
        records = _still_there(settings, places)
    report = Report(form, dry_run)
    existing = set(await catalog(settings))
    async with aclosing(records) as found, replaying(settings) as replayer:
        async for place, record in found:
            await _one(settings, report, replayer, existing, place, record)
            if replayer.full:
                await _settle(report, replayer)
        await _settle(report, replayer)
    report.end()


async def _all_there(settings: Settings, places: list[RecordId]) -> None:
    from streams.broker.dlq_reader import look_up

    async with aclosing(look_up(settings, places)) as records:
        missing = [str(place) async for place, record in records if record is None]
    if missing:
        raise CommandError(f"dlq replay: there is no dead letter at {', '.join(missing)}; nothing was sent", NOT_FOUND)


async def _still_there(settings: Settings, places: list[RecordId]) -> AsyncGenerator[tuple[RecordId, ConsumerRecord]]:
    from streams.broker.dlq_reader import look_up

    async with aclosing(look_up(settings, places)) as records:
        async for place, record in records:
            if record is None:  # its retention ended since it was seen
                raise CommandError(f"{place}: the dead letter is gone; those before it were sent", NOT_FOUND)
            yield place, record


async def _one(
    settings: Settings,
    report: Report,
    replayer: DlqReplayer,
    existing: set[str],
    place: RecordId,
    record: ConsumerRecord,
) -> None:
    from streams.rules.broker.dead_letters import NotReplayable, build_replay

    try:
        built = build_replay(record.key, record.value, record.headers, settings.topic_prefix)
        if built.topic not in existing:
            raise NotReplayable(f"topic {built.topic}, where it came from, does not exist")
    except NotReplayable as error:
        await _settle(report, replayer)  # prints the dead letters in their order
        report.add(place, None, str(error))
        return
    if report.dry_run:
        report.add(place, built)
    else:
        await replayer.send(place, built)


async def _settle(report: Report, replayer: DlqReplayer) -> None:
    for place, built, error in await replayer.settle():
        report.add(place, built, None if error is None else f"Kafka refused it: {type(error).__name__}: {error}")
    if replayer.error is not None:
        report.end(stopped=True)
        raise replayer.error


class Report:
    """Prints the outcome of each dead letter as it happens, or one JSON document at the end."""

    def __init__(self, form: Format, dry_run: bool) -> None:
        self.dry_run = dry_run
        self._form = form
        self._rows: list[dict[str, Any]] = []
        self._counts = {True: 0, False: 0}

    def add(self, place: RecordId, built: Replay | None, problem: str | None = None) -> None:
        """Add one dead letter. `problem`: why it was not replayed."""
        from streams.rules.broker.dead_letters import printable

        self._counts[problem is None] += 1
        status = "failed" if problem else "would be replayed" if self.dry_run else "replayed"
        row: dict[str, Any] = {"place": str(place), "to": built.topic if built else None, "status": status}
        row |= {"count": built.count if built else None, "reason": problem}
        if self._form is Format.json:
            self._rows.append(row)
        elif self._form is Format.jsonl:
            json_line(row)
        else:
            outcome = f"{status}: {problem}" if problem else f"{status} to {row['to']} (replay {row['count']})"
            line(printable(f"{place}  {outcome}"))

    def end(self, stopped: bool = False) -> None:
        """Print the totals. Raises `typer.Exit` with 1 if any failed, unless the caller raises what `stopped` it."""
        if self._form is Format.json:
            document(self._rows, self._form)
        done, failed = self._counts[True], self._counts[False]
        say(f"{done} {'would be ' if self.dry_run else ''}replayed, {failed} not{'; stopped there' if stopped else ''}")
        if failed and not stopped:
            raise typer.Exit(FAILED)
