"""The times of a schedule, and which missed ones are made up for after an outage. Pure: the clock is an argument.

In: a schedule. Out: its times, epoch milliseconds. Cron has five fields and the local time of the schedule's time zone:

- A schedule at fixed hours and minutes keeps its local time. A time that does not exist (clocks go forward) moves to
  the first minute that does; of a time that comes twice (clocks go back) the first one counts.
- A schedule whose minute or hour begins with `*` goes by elapsed time: nothing moves, and both passes of an hour count.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from schemas.codec import Rejected, dumps, validate
from schemas.messages import CatchUp, Schedule, Task, shown
from schemas.times import MAX_MS, format_time

NextTime = Callable[[int], int | None]
"""The first time after another, epoch ms; None: there is none."""
LATE_MS = 60_000
"""A time is missed if it was not used for this long: shorter gaps (a worker is killed, a partition moves) lose
nothing.
"""
MAX_CATCH_UP = 1000
"""Missed times that `all` makes up for, the newest ones."""
MADE_BY_THE_SCHEDULE = ("notBefore", "deadline", "idempotencyKey")
"""Metadata that two tasks of a schedule may not share."""


def task_id(schedule_id: str, at_ms: int) -> str:
    """The id of the task of one time.

    >>> task_id("nightly", 0)
    'nightly@1970-01-01T00:00:00.000Z'
    """
    return f"{schedule_id}@{format_time(at_ms)}"


def task_of(schedule: Schedule, at_ms: int) -> dict[str, object]:
    """The task of one time."""
    return {"id": task_id(schedule.id, at_ms), **schedule.task}


def next_time(schedule: Schedule, max_task_bytes: int | None = None) -> NextTime:
    """A function for the schedule's next time, without those before `startAt`, or at `endAt` and later. Raises
    `Rejected` naming the field.

    `max_task_bytes`: the largest task as JSON; None: unknown here, the worker checks it.

    >>> after = next_time(Schedule(id="s", every_ms=60_000, task={"type": "agent", "target": "a", "payload": 1}))
    >>> after(0), after(60_001)
    (60000, 120000)
    """
    _check_task(schedule, max_task_bytes)
    if schedule.every_ms is not None:
        inner = _every(schedule.every_ms, schedule.start_at or 0)
    else:
        inner = _cron(schedule.cron or "", _zone(schedule.timezone))
    first, end = schedule.start_at or 0, MAX_MS if schedule.end_at is None else schedule.end_at

    def after(at_ms: int) -> int | None:
        found = inner(max(at_ms, first - 1))
        return None if found is None or found >= end else found

    return after


def check_new(schedule: Schedule, now_ms: int) -> None:
    """Checks that apply only when a schedule is added; one that is on the topic already may violate them. Raises
    `Rejected`.

    >>> check_new(Schedule(id="s", every_ms=60_000, end_at=1, task={"type": "agent", "target": "a", "payload": 1}), 0)
    Traceback (most recent call last):
    schemas.codec.Rejected: endAt: the schedule has no time before 1970-01-01T00:00:00.001Z that is still to come
    """
    if schedule.every_ms is not None and schedule.timezone != "UTC":
        raise Rejected("validate", "timezone: belongs to cron; an interval counts elapsed time")
    if next_time(schedule)(now_ms) is None:
        end = "" if schedule.end_at is None else f" before {format_time(schedule.end_at)}"
        raise Rejected("validate", f"endAt: the schedule has no time{end} that is still to come")


def _check_task(schedule: Schedule, max_task_bytes: int | None) -> None:
    """Check that each time's task can be written and will be accepted by dispatch. If not, the schedule is refused, not
    each task.
    """
    metadata = schedule.task.get("metadata")
    for name in MADE_BY_THE_SCHEDULE:
        if isinstance(metadata, dict) and metadata.get(name) is not None:
            raise Rejected("validate", f"task.metadata.{name}: is the same for all times; leave it out")
    task = task_of(schedule, 0)
    try:
        validate(Task, task)
    except Rejected as rejected:
        raise Rejected(rejected.stage, f"task.{rejected.reason}") from None
    try:
        size = len(dumps(task))
    except Rejected as rejected:
        raise Rejected("validate", rejected.reason.replace("value:", "task:", 1)) from None
    if max_task_bytes is not None and size > max_task_bytes:
        raise Rejected("validate", f"task: has {size} bytes; at most {max_task_bytes} are accepted")


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # not found, a folder, a path
        raise Rejected("validate", f"timezone: no time zone of that name: {shown(name)}") from None


def _every(every_ms: int, begin_ms: int) -> NextTime:
    def after(at_ms: int) -> int:
        return begin_ms if at_ms < begin_ms else at_ms + every_ms - (at_ms - begin_ms) % every_ms

    return after


def _cron(text: str, zone: tzinfo) -> NextTime:
    if len(text.split()) != 5:
        raise Rejected("validate", f"cron: must have five fields (minute hour day month weekday), not {shown(text)}")
    try:
        CronSim(text, datetime(2000, 1, 1, tzinfo=zone))
    except CronSimError as error:
        raise Rejected("validate", f"cron: {str(error).lower()} in {shown(text)}") from None

    def after(at_ms: int) -> int | None:
        try:
            for moment in CronSim(text, datetime.fromtimestamp(at_ms // 1000, zone)):
                # Two local times may be the same moment, and the second pass of an hour may sort before the first.
                if (found := round(moment.timestamp() * 1000)) > at_ms:
                    return found
        except (OverflowError, ValueError):  # beyond the year 9999
            return None
        return None  # it has no time within fifty years

    return after


def due_times(after: NextTime, since_ms: int, now_ms: int, catch_up: CatchUp) -> list[int]:
    """The times to use now, ascending, all later than `since_ms`.

    `skip`: those that were not missed. `one`: also the newest missed one. `all`: also the newest `MAX_CATCH_UP` missed
    ones.

    >>> each_minute = lambda at_ms: at_ms + 60_000 - at_ms % 60_000
    >>> [len(due_times(each_minute, 0, 600_000, catch_up)) for catch_up in ("skip", "one", "all")]
    [1, 2, 10]
    """
    missed_end = max(since_ms, now_ms - LATE_MS)
    most = {"skip": 0, "one": 1, "all": MAX_CATCH_UP}[catch_up]
    return [*_newest(after, since_ms, missed_end, most), *_between(after, missed_end, now_ms)]


def _between(after: NextTime, since_ms: int, until_ms: int) -> list[int]:
    """Later than one time, not later than the other."""
    found: list[int] = []
    at_ms = after(since_ms)
    while at_ms is not None and at_ms <= until_ms:
        found.append(at_ms)
        at_ms = after(at_ms)
    return found


def _newest(after: NextTime, since_ms: int, until_ms: int, most: int) -> list[int]:
    """The last `most` of them, searched in a span before the end that is doubled, since an outage may have been
    long.
    """
    if most == 0 or since_ms >= until_ms:
        return []
    span_ms = most * LATE_MS
    while True:
        begin_ms = max(since_ms, until_ms - span_ms)
        found = _between(after, begin_ms, until_ms)
        if begin_ms == since_ms or len(found) >= most:
            return found[-most:]
        span_ms *= 2
