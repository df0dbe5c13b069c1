"""`client.schedules`: schedules, as records on the topic `schedules`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from schemas.codec import Rejected
from schemas.messages import CatchUp, Schedule
from streams.client.connection import records_since
from streams.client.errors import InvalidTask, NotFound
from streams.client.requests import Request, Send, TaskKind, check, encode, task_data
from streams.client.times import Duration, Moment, duration_ms, moment_text
from streams.rules.schedules.listing import Listing
from streams.rules.schedules.times import check_new
from streams.settings import Settings


class ScheduleDirectory:
    """Add, pause, remove and list schedules. Workers with the role `schedules` make the tasks."""

    def __init__(self, settings: Settings, send: Send) -> None:
        self._settings = settings
        self._send = send

    async def add(
        self,
        schedule_id: str,
        target: str | None,
        payload: Any = None,
        *,
        cron: str | None = None,
        every: Duration | None = None,
        timezone: str | None = None,
        catch_up: CatchUp | None = None,
        start_at: Moment | None = None,
        end_at: Moment | None = None,
        type: TaskKind | None = None,
        timeout: Duration | None = None,
        expires_in: Duration | None = None,
        capabilities: Sequence[str] | None = None,
        **metadata: Any,
    ) -> Schedule:
        """Add a schedule, or replace the one with its id; its task takes options as for `Client.run`.

        Raises `InvalidTask` naming the field.
        """
        task = task_data(
            "",
            target,
            payload,
            kind=type,
            timeout=timeout,
            expires_in=expires_in,
            capabilities=capabilities,
            metadata=metadata,
        )
        del task["id"]
        given = {
            "id": schedule_id,
            "cron": cron,
            "everyMs": None if every is None else duration_ms(every, "every"),
            "timezone": timezone,
            "task": task,
            "catchUp": catch_up,
            "startAt": None if start_at is None else moment_text(start_at, "start_at"),
            "endAt": None if end_at is None else moment_text(end_at, "end_at"),
        }
        data = {key: value for key, value in given.items() if value is not None}
        check(Schedule, data)
        try:
            check_new(Schedule.model_validate(data), round(time.time() * 1000))
        except Rejected as rejected:
            raise InvalidTask(rejected.reason) from None
        return await self._put(data)

    async def pause(self, schedule_id: str) -> Schedule:
        """Pause a schedule: it makes no tasks. Raises `NotFound`."""
        return await self._put(await self._get(schedule_id) | {"paused": True})

    async def resume(self, schedule_id: str) -> Schedule:
        """Resume a schedule from now on. Raises `NotFound`."""
        return await self._put(await self._get(schedule_id) | {"paused": False})

    async def rm(self, schedule_id: str) -> None:
        """Remove a schedule; tasks that it made continue. Raises `NotFound`."""
        listing = await self._listing()
        if schedule_id not in listing.found and schedule_id not in listing.refused:
            raise NotFound(f"schedule {schedule_id}: not found")
        await self._send("schedules", Request(schedule_id, schedule_id.encode(), b""))

    async def list(self) -> list[Schedule]:
        """All valid schedules, by id."""
        found = (await self._listing()).found
        return [Schedule.model_validate(found[name]) for name in sorted(found)]

    async def _get(self, schedule_id: str) -> dict[str, Any]:
        found = (await self._listing()).found.get(schedule_id)
        if found is None:
            raise NotFound(f"schedule {schedule_id}: not found")
        return found

    async def _listing(self) -> Listing:
        listing = Listing()
        async for record in records_since(self._settings, "schedules", 0):
            listing.add(record.key, record.value, record.headers)
        return listing

    async def _put(self, data: Mapping[str, Any]) -> Schedule:
        schedule = Schedule.model_validate(data)
        await self._send("schedules", Request(schedule.id, schedule.id.encode(), encode(data)))
        return schedule
