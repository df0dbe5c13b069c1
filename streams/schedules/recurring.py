"""The schedules of one partition: when each is next due, and the tasks they make.

In: records of `schedules`, the clock. Out: tasks for `tasks`, each with the state of its time. One transaction commits
both, so each time makes one task. It waits for nothing; the handler calls it when due.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import structlog

from schemas.codec import Rejected, decode, header
from schemas.messages import Schedule, ScheduleMemory
from schemas.partitioning import owner_partition
from schemas.times import format_time
from schemas.wire_format import is_marked_key, key_text
from streams.rules.records import Output
from streams.rules.schedules.times import LATE_MS, NextTime, due_times, next_time
from streams.rules.source_record import FIRED_HEADER, MOVED_HEADER, SourceRecord, own_header
from streams.schedules.parts import ScheduleParts

log = structlog.get_logger(__name__)

MAX_AT_ONCE = 500
"""Tasks of one schedule in one transaction; once all schedules together have made as many, the others wait."""
MAX_BYTES_AT_ONCE = 16 * 1024 * 1024
"""The same for the bytes of tasks."""
RETRY_MS = 60_000
"""Pause of one schedule after a fault of the worker's own code."""


@dataclass(slots=True)
class _Active:
    """A schedule that is not paused. `since_ms`: its times up to then are done; `next_ms`: None without a further
    one.
    """

    schedule: Schedule
    after: NextTime
    since_ms: int
    next_ms: int | None


class RecurringTasks:
    """The schedules of partition `number`."""

    def __init__(self, number: int, parts: ScheduleParts, kept: Iterable[bytes]) -> None:
        """`kept`: the values of the state topic."""
        self._number = number
        self._parts = parts
        self._fired: dict[str, int] = {}
        self._known: dict[str, Schedule] = {}
        self._active: dict[str, _Active] = {}
        for value in kept:
            self._restore(value)

    def __len__(self) -> int:
        return len(self._known)

    def _restore(self, value: bytes) -> None:
        try:
            memory = decode(ScheduleMemory, value, ())
        except Rejected as rejected:
            log.warning("a record of the state topic cannot be read", partition=self._number, error=rejected.reason)
            return
        if memory.app == self._parts.recorder.app and memory.fired is not None:
            self._fired[memory.fired.schedule_id] = memory.fired.time

    @property
    def next_due_ms(self) -> int | None:
        """The earliest time of all schedules, epoch ms."""
        return min((each.next_ms for each in self._active.values() if each.next_ms is not None), default=None)

    def restore(self, records: Iterable[SourceRecord], now_ms: int) -> list[Output]:
        """Load what earlier owners accepted, in the order of the log; of each key the newest counts.

        A schedule that belongs elsewhere since partitions were added is forwarded.
        """
        outputs: list[Output] = []
        for record in {record.key: record for record in records}.values():
            if record.value is None:
                continue
            owner = self._owner(record)
            if owner != self._number or is_marked_key(record.key, record.headers):
                until_ms = self._since_ms(_name(record), record, now_ms)
                outputs += self._parts.recorder.schedule_forward(record, owner, until_ms)
                continue
            try:
                self._put(record, now_ms)
            except Rejected:
                continue  # it was put among the dead letters when it came
        return outputs

    def _owner(self, record: SourceRecord) -> int:
        return owner_partition(_name(record), self._parts.partition_count())

    def accept(self, record: SourceRecord, now_ms: int) -> list[Output]:
        """Process the next record of `schedules`: a schedule to begin or to change, or one to remove.

        Three cases: 1 its id belongs to another partition, or its key has a schema id: it is forwarded under its plain
        id (under another key, a later record of the schedule would not replace it at compaction). 2 it is valid. 3 it
        is invalid: the schedule of its id, if there is one, ends, since a new owner would find this record only.
        """
        if header(record.headers, MOVED_HEADER) is not None and record.value is None:
            return []  # our own mark that it was sent on
        name, owner = _name(record), self._owner(record)
        if owner != self._number or is_marked_key(record.key, record.headers):
            return self._parts.recorder.schedule_forward(record, owner)
        # By the brokers' clock it is later than this worker's may say; a user's clock, where brokers set no time, may be far off.
        before = self._last_tasks(name, min(record.timestamp_ms, now_ms + LATE_MS))
        if record.value is None:
            return [*before, *self._remove(name)]
        try:
            self._put(record, now_ms)
        except Rejected as rejected:
            log.warning("a schedule is refused", schedule=name, reason=rejected.reason)
            self._parts.metrics.refused.inc()
            refused = self._parts.recorder.dead_letter(record, rejected.stage, rejected.reason, now_ms)
            return [*before, *refused, *self._remove(name)]
        return before

    def _last_tasks(self, name: str, until_ms: int) -> list[Output]:
        """Tasks of a changed schedule whose times were before the change: they count as before."""
        active, outputs = self._active.get(name), list[Output]()
        while active is not None and active.next_ms is not None and active.next_ms <= until_ms:
            outputs += self._fire(name, active, until_ms)
        return outputs

    def _put(self, record: SourceRecord, now_ms: int) -> None:
        schedule = decode(Schedule, record.value, record.headers)
        name = _name(record)
        if name != schedule.id:
            raise Rejected("validate", "key: must be the schedule's id")
        after = next_time(schedule, self._parts.max_task_bytes)
        self._known[name] = schedule
        self._active.pop(name, None)
        if not schedule.paused:
            since_ms = self._since_ms(name, record, now_ms)
            self._active[name] = _Active(schedule, after, since_ms, after(since_ms))

    def _since_ms(self, name: str, record: SourceRecord, now_ms: int) -> int:
        """Up to when a schedule's times are done. Times from before it was changed, or while it was paused, are not
        made up for; times missed while it was forwarded are. A clock that was once far ahead must not silence it.
        """
        begun_ms = own_header(record.headers, FIRED_HEADER)
        begun_ms = record.timestamp_ms if begun_ms is None else begun_ms
        return min(max(self._fired.get(name, 0), begun_ms), now_ms + LATE_MS)

    def _remove(self, name: str) -> list[Output]:
        self._active.pop(name, None)
        self._known.pop(name, None)
        if self._fired.pop(name, None) is None:
            return []
        return [self._parts.recorder.fired(name, None, self._number, 0)]

    def fire(self, now_ms: int) -> list[Output]:
        """The tasks of times that have come, with their state: the earliest schedules first.

        It stops after `MAX_AT_ONCE` tasks or `MAX_BYTES_AT_ONCE`; `next_due_ms` is then still due, and the next call
        continues.
        """
        due = [(each.next_ms, name) for name, each in self._active.items() if each.next_ms is not None]
        outputs: list[Output] = []
        size = 0
        for _, name in sorted(each for each in due if each[0] <= now_ms):
            made = self._fire(name, self._active[name], now_ms)
            outputs += made
            size += sum(output.size for output in made)
            if len(outputs) >= MAX_AT_ONCE or size >= MAX_BYTES_AT_ONCE:
                break
        return outputs

    def _fire(self, name: str, active: _Active, now_ms: int) -> list[Output]:
        """A fault affects only this schedule's tasks: its times are tried again a minute later."""
        try:
            return self._make(name, active, now_ms)
        except Exception:
            log.exception("unexpected error while running a schedule", schedule=name)
            active.next_ms = now_ms + RETRY_MS
            return []

    def _make(self, name: str, active: _Active, now_ms: int) -> list[Output]:
        recorder, metrics = self._parts.recorder, self._parts.metrics
        times = due_times(active.after, active.since_ms, now_ms, active.schedule.catch_up)
        outputs: list[Output] = []
        size = 0
        for at_ms in times[:MAX_AT_ONCE]:
            if size >= MAX_BYTES_AT_ONCE:
                break
            outputs.append(recorder.firing(active.schedule, at_ms, now_ms))
            size += outputs[-1].size
        whole = len(outputs) == len(times)
        times = times[: len(outputs)]
        # Later times than the last one may be missed, but none was passed over: the next look begins where this one ended.
        since_ms = now_ms if whole else times[-1]
        next_ms = active.after(since_ms)
        outputs.append(recorder.fired(name, since_ms, self._number, now_ms))
        if not times:
            log.warning("a schedule missed its times", schedule=name, since=format_time(active.since_ms))
        # Nothing is changed before all records are there: a fault above leaves the schedule as it was.
        active.since_ms = self._fired[name] = since_ms
        active.next_ms = next_ms
        for at_ms in times:
            metrics.fired.inc()
            metrics.lateness.observe(max(0, now_ms - at_ms) / 1000)
        return outputs

    def rows(self) -> list[dict[str, Any]]:
        """The schedules, for people: with the next time, and until when times are done."""
        return [self._row(name, schedule) for name, schedule in sorted(self._known.items())]

    def _row(self, name: str, schedule: Schedule) -> dict[str, Any]:
        active, fired = self._active.get(name), self._fired.get(name)
        next_ms = None if active is None else active.next_ms
        return schedule.wire() | {
            "next": None if next_ms is None else format_time(next_ms),
            "firedUntil": None if fired is None else format_time(fired),
        }


def _name(record: SourceRecord) -> str:
    return key_text(record.key, record.headers)
