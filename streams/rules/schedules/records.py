"""Every record that the role `schedules` writes: tasks whose time has come, and tombstones. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from schemas.codec import Rejected, decode_json, dumps, header, pack
from schemas.messages import Schedule
from schemas.partitioning import owner_partition
from schemas.times import format_time
from schemas.topics import BY_NAME
from schemas.wire_format import KEY_HEADER, is_marked_key, key_text
from streams.rules.dispatch.routing import owner_key
from streams.rules.plans.step_ids import looks_like_step
from streams.rules.records import Carried, Output, Recorder
from streams.rules.schedules.times import task_id, task_of
from streams.rules.source_record import (
    AGENT_HEADER,
    CANCELLED_HEADER,
    EXPIRES_HEADER,
    FIRED_HEADER,
    HOPS_HEADER,
    MOVED_HEADER,
    NOT_BEFORE_HEADER,
    ORIGIN_HEADER,
    OWN_HEADERS,
    TASK_HEADER,
    SourceRecord,
    own_header,
)

STATE = "schedule-state"


class Due(NamedTuple):
    """The headers of a record on `scheduled`: its task's id, and its time in epoch ms."""

    task_id: str
    not_before_ms: int
    chosen: bool = False
    """Whether an agent was chosen for it: its id counts as taken, so another record of its task is the duplicate."""
    users: bool = False
    """Whether the id looks like that of a plan's step but is a user's own: two tasks then have it."""

    @property
    def name(self) -> str:
        """Records with one name are duplicates of each other."""
        return names_of(self.task_id)[2 * self.users + self.chosen]


def names_of(task_id: str) -> tuple[str, str, str, str]:
    """The names of the records of an id, without and with an agent chosen: of the task or step, then of a user's `p#0`."""
    return task_id, f"\0{task_id}", f"\1{task_id}", f"\2{task_id}"


def read_due(headers: Iterable[tuple[str, bytes]]) -> Due:
    """Raises `Rejected` for a record that no worker wrote.

    >>> read_due([("parallax-task", b"t1"), ("parallax-not-before", b"1000")])
    Due(task_id='t1', not_before_ms=1000, chosen=False, users=False)
    """
    found = tuple(headers)
    task_id, due_ms = header(found, TASK_HEADER), own_header(found, NOT_BEFORE_HEADER)
    if not task_id or due_ms is None:
        raise Rejected("decode", f"headers: {TASK_HEADER} or {NOT_BEFORE_HEADER} is missing")
    users = task_id[0] == "\0" and looks_like_step(task_id[1:])  # see `TaskRun.claimed_id`
    return Due(task_id[1:] if users else task_id, due_ms, header(found, AGENT_HEADER) is not None, users)


class ScheduleRecorder(Recorder):
    """Builds the records of the role. `app_id` also prefixes its keys on the state topic."""

    def __init__(self, app_id: str, prefix: str, group: str) -> None:
        super().__init__(app_id=app_id, processor="schedules", prefix=prefix, group=group)
        self.app = app_id

    def released(self, record: SourceRecord, count: int, cancel_reason: str | None, now_ms: int) -> list[Output]:
        """The waiting task's record for dispatch. `count`: of partitions. Raises `Rejected`.

        `cancel_reason`: it was cancelled; dispatch ends it without a call.
        """
        data = decode_json(record.value, record.headers).data
        if not isinstance(data, dict) or not isinstance(data.get("id"), str):
            raise Rejected("decode", "value: is no task")
        # An agent was chosen if the task was forwarded before it came here: its id was found to be new then.
        agent_id = header(record.headers, AGENT_HEADER)
        key = agent_id or owner_key(data)
        carried = Carried(
            own_header(record.headers, ORIGIN_HEADER) or record.timestamp_ms, own_header(record.headers, EXPIRES_HEADER)
        )
        # The time in the header shows that it has come, even if the next worker's clock is behind.
        own_headers = carried.own_headers() | {
            HOPS_HEADER: "0",
            NOT_BEFORE_HEADER: str(own_header(record.headers, NOT_BEFORE_HEADER) or 0),
        }
        if agent_id:
            own_headers[AGENT_HEADER] = agent_id
        if cancel_reason is not None:
            own_headers[CANCELLED_HEADER] = cancel_reason
        output = self._moved("dispatch", key, record, own_headers, owner_partition(key, count), now_ms)
        return [output, self.tombstone(record)]

    def firing(self, schedule: Schedule, at_ms: int, now_ms: int) -> Output:
        """The task of one of a schedule's times."""
        task = task_of(schedule, at_ms)
        subject = task_id(schedule.id, at_ms).encode()
        headers = self._headers(BY_NAME["tasks"].ce_type, subject, subject, format_time(now_ms).encode())
        return Output("tasks", owner_key(task).encode(), dumps(task), headers)

    def fired(self, schedule_id: str, until_ms: int | None, partition: int, now_ms: int) -> Output:
        """The state record: a schedule's times up to then are done. None: the schedule no longer exists."""
        key = f"{self.app}/fired/{schedule_id}".encode()
        if until_ms is None:
            return Output(STATE, key, None, partition=partition)
        fired = {"scheduleId": schedule_id, "time": format_time(until_ms)}
        value = pack({"app": self.app, "at": format_time(now_ms), "fired": fired})
        return Output(STATE, key, value, partition=partition)

    def schedule_forward(self, record: SourceRecord, partition: int, until_ms: int | None = None) -> list[Output]:
        """A record of `schedules` to the partition that its id belongs to; the old record is marked as forwarded.

        Its new key is the plain id, without a schema id. `until_ms`: the schedule was active here, and its times up to
        then are done, epoch ms; None: it begins there.
        """
        key = record.key
        headers = [h for h in record.headers if h[0] not in OWN_HEADERS]
        if is_marked_key(key, record.headers):
            key = key_text(key, record.headers).encode()
            headers = [h for h in headers if h[0] != KEY_HEADER]
        if until_ms is not None:
            headers.append((FIRED_HEADER, str(until_ms).encode()))
        return [
            Output("schedules", key, record.value, headers, partition=partition),
            Output("schedules", record.key, None, [(MOVED_HEADER, b"1")], partition=record.partition),
        ]

    def refused(self, record: SourceRecord, rejected: Rejected, now_ms: int) -> list[Output]:
        """A dead letter for a record that is not a waiting task."""
        return [*self.dead_letter(record, rejected.stage, rejected.reason, now_ms), self.tombstone(record)]

    def tombstone(self, record: SourceRecord) -> Output:
        """The record's task does not wait any more."""
        return Output("scheduled", record.key, None, partition=record.partition)
