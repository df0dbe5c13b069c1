"""`parallax schedules add|ls|next|pause|resume|rm`: schedules on the compacted topic `schedules`.

In: flags or Schedule JSON lines. Out: the schedules written or found. Workers with the role `schedules` make the tasks;
times are computed here from the records on the topic.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.listings import read_listing, report_refused
from streams.cli.options import (
    NOT_FOUND,
    USAGE,
    CommandError,
    Format,
    OutputFormat,
    Prefix,
    Servers,
    duration_ms,
    settings_from,
)
from streams.cli.output import rows_as, say
from streams.cli.running import run

if TYPE_CHECKING:
    from streams.rules.schedules.listing import Listing
    from streams.settings import Settings

app = typer.Typer(help="Make tasks again and again.", rich_markup_mode=None)

COLUMNS = ("id", "cron", "every", "timezone", "target", "paused", "next")
Id = Annotated[str, typer.Argument(metavar="ID")]


@app.command("add")
def add(
    schedule_id: Annotated[str | None, typer.Argument(metavar="ID")] = None,
    cron: Annotated[str | None, typer.Option(metavar="EXPR", help="minute hour day month weekday")] = None,
    every: Annotated[str | None, typer.Option(metavar="DURATION", help="in place of --cron, such as 90s")] = None,
    timezone: Annotated[
        str | None, typer.Option(metavar="NAME", help="time zone of --cron, such as Europe/Berlin; default UTC")
    ] = None,
    task: Annotated[str | None, typer.Option(metavar="JSON", help="a task without id")] = None,
    catch_up: Annotated[
        str | None, typer.Option(metavar="MODE", help="after an outage: skip (default), one, all")
    ] = None,
    start_at: Annotated[str | None, typer.Option(metavar="TIME", help="make no task before this time")] = None,
    end_at: Annotated[str | None, typer.Option(metavar="TIME", help="make no task at this time or later")] = None,
    file: Annotated[Path | None, typer.Option(metavar="FILE", help="Schedule JSON lines; - reads stdin")] = None,
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """Add a schedule, or many with --file. A second one of an id replaces the first."""
    flags = {
        "cron": cron,
        "everyMs": None if every is None else duration_ms(every, "--every"),
        "timezone": timezone,
        "task": None if task is None else _json(task),
        "catchUp": catch_up,
        "startAt": start_at,
        "endAt": end_at,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    if file is not None:
        if schedule_id is not None or given:
            raise CommandError("schedules add: --file stands alone, without ID and the options of one schedule", USAGE)
        found = _from_file(file)
    else:
        if schedule_id is None or task is None:
            raise CommandError("schedules add: needs ID, --cron or --every, and --task; or --file FILE", USAGE)
        found = [_checked({"id": schedule_id} | given)]
    settings = settings_from(bootstrap_servers, topic_prefix)
    run(settings, _add(settings, found, output or Format.text))


def _json(text: str) -> Any:
    from schemas.codec import Rejected, parse_json

    try:
        return parse_json(text.encode())
    except Rejected as error:
        raise CommandError(f"--task: {error.reason}", USAGE) from None


def _checked(data: Any, where: str = "schedules add") -> dict[str, Any]:
    """The schedule, if it can work. Raises `CommandError`."""
    from schemas.codec import Rejected, validate
    from schemas.messages import Schedule
    from streams.rules.schedules.times import check_new

    try:
        check_new(validate(Schedule, data), _now_ms())
    except Rejected as error:
        raise CommandError(f"{where}: {error.reason}", USAGE) from None
    return dict(data)


def _from_file(file: Path) -> list[dict[str, Any]]:
    from streams.cli.lines import numbered_json

    found = [_checked(data, f"{file}: line {number}") for number, data in numbered_json(file)]
    if not found:
        raise CommandError(f"{file}: no schedule in it", USAGE)
    return found


async def _add(settings: Settings, found: list[dict[str, Any]], form: Format) -> None:
    from schemas.codec import dumps
    from streams.broker.client import send_keyed

    await send_keyed(settings, "schedules", ((str(data["id"]).encode(), dumps(data)) for data in found))
    _print(found, form)


@app.command("ls")
def ls(bootstrap_servers: Servers = None, topic_prefix: Prefix = None, output: OutputFormat = None) -> None:
    """List the schedules with their next times."""
    settings = settings_from(bootstrap_servers, topic_prefix)
    run(settings, _ls(settings, output or Format.text))


async def _ls(settings: Settings, form: Format) -> None:
    found = await _schedules(settings)
    _print([found[name] for name in sorted(found)], form)
    if not found:
        say("there is no schedule; add one with: parallax schedules add ID --cron EXPR --task JSON")


@app.command("next")
def next_times(
    schedule_id: Id,
    count: Annotated[int, typer.Option("--count", min=1, max=1000, metavar="N", help="how many times to print")] = 5,
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """Print the next times of a schedule, also of a paused one. Exit 4 if there is none with that id."""
    settings = settings_from(bootstrap_servers, topic_prefix)
    run(settings, _next(settings, schedule_id, count, output or Format.text))


async def _next(settings: Settings, schedule_id: str, count: int, form: Format) -> None:
    from schemas.messages import Schedule
    from schemas.times import format_time
    from streams.rules.schedules.times import next_time, task_id

    schedule = Schedule.model_validate(await _found(settings, schedule_id))
    after, at_ms = next_time(schedule), _now_ms()
    rows: list[dict[str, Any]] = []
    while len(rows) < count and (found := after(at_ms)) is not None:
        at_ms = found
        rows.append({"time": format_time(at_ms), "taskId": task_id(schedule.id, at_ms)})
    rows_as(form, rows, ("time", "taskId"))


@app.command("pause")
def pause(
    schedule_id: Id, bootstrap_servers: Servers = None, topic_prefix: Prefix = None, output: OutputFormat = None
) -> None:
    """Pause a schedule: it makes no tasks. Exit 4 if there is none with that id."""
    settings = settings_from(bootstrap_servers, topic_prefix)
    run(settings, _pause(settings, schedule_id, True, output or Format.text))


@app.command("resume")
def resume(
    schedule_id: Id, bootstrap_servers: Servers = None, topic_prefix: Prefix = None, output: OutputFormat = None
) -> None:
    """Resume a paused schedule from now on. Exit 4 if there is none with that id."""
    settings = settings_from(bootstrap_servers, topic_prefix)
    run(settings, _pause(settings, schedule_id, False, output or Format.text))


async def _pause(settings: Settings, schedule_id: str, paused: bool, form: Format) -> None:
    await _add(settings, [await _found(settings, schedule_id) | {"paused": paused}], form)


@app.command("rm")
def rm(
    schedule_id: Id, bootstrap_servers: Servers = None, topic_prefix: Prefix = None, output: OutputFormat = None
) -> None:
    """Remove a schedule. Tasks that it made continue. Exit 4 if there is none with that id."""
    settings = settings_from(bootstrap_servers, topic_prefix)
    run(settings, _rm(settings, schedule_id, output or Format.text))


async def _rm(settings: Settings, schedule_id: str, form: Format) -> None:
    from streams.broker.client import send_keyed

    listing = await _listing(settings)
    if schedule_id not in listing.found and schedule_id not in listing.refused:
        raise CommandError(f"schedules: no schedule has the id {schedule_id}", NOT_FOUND)
    await send_keyed(settings, "schedules", [(schedule_id.encode(), None)])
    rows_as(form, [{"id": schedule_id, "removed": True}], ("id", "removed"))


async def _found(settings: Settings, schedule_id: str) -> dict[str, Any]:
    data = (await _schedules(settings)).get(schedule_id)
    if data is None:
        raise CommandError(f"schedules: no schedule has the id {schedule_id}", NOT_FOUND)
    return data


async def _schedules(settings: Settings) -> dict[str, dict[str, Any]]:
    """Schedules by id; one that cannot work is reported on stderr and left out."""
    listing = await _listing(settings)
    report_refused("schedules", listing.refused)
    return listing.found


async def _listing(settings: Settings) -> Listing:
    from streams.rules.schedules.listing import Listing

    return await read_listing(settings, "schedules", Listing())


def _now_ms() -> int:
    import time

    return round(time.time() * 1000)


def _print(found: list[dict[str, Any]], form: Format) -> None:
    from schemas.messages import Schedule
    from schemas.times import format_time
    from streams.rules.schedules.times import next_time

    rows, now_ms = [], _now_ms()
    for data in found:
        schedule = Schedule.model_validate(data)
        next_ms = None if schedule.paused else next_time(schedule)(now_ms)
        row: dict[str, Any] = {"next": None if next_ms is None else format_time(next_ms)}
        if form is Format.text:
            every = None if schedule.every_ms is None else f"{schedule.every_ms / 1000:g}s"
            row |= {"id": schedule.id, "cron": schedule.cron, "every": every, "timezone": schedule.timezone}
            row |= {
                "target": schedule.task.get("target") or schedule.task.get("capabilities"),
                "paused": schedule.paused,
            }
        else:
            row = data | row
        rows.append(row)
    rows_as(form, rows, COLUMNS if form is Format.text else ())
