"""Schedules: tasks that are made again and again."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from schemas.messages.base import Message, OrDefault, Timestamp

CatchUp = Literal["skip", "one", "all"]
MAX_SCHEDULE_ID = 200
"""Tasks are named `<id>@<time>`, and a task's id has 256 characters."""
_MAX_EVERY_MS = 366 * 24 * 3600 * 1000


class Schedule(Message):
    """Makes a task at each of its times: `cron` in the local time of `timezone`, or `everyMs` counted from `startAt` or 1970.

    A null value on the topic removes it.
    """

    id: Annotated[str, Field(min_length=1, max_length=MAX_SCHEDULE_ID)]
    cron: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    every_ms: Annotated[int, Field(ge=1000, le=_MAX_EVERY_MS)] | None = None
    timezone: Annotated[str, Field(min_length=1, max_length=64), OrDefault] = "UTC"
    task: dict[str, Any]
    """A task without `id`."""
    paused: Annotated[bool, OrDefault] = False
    start_at: Timestamp | None = None
    end_at: Timestamp | None = None
    catch_up: Annotated[CatchUp, OrDefault] = "skip"
    """Which times that were missed by more than a minute make tasks."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if (self.cron is None) == (self.every_ms is None):
            raise ValueError("must have exactly one of cron or everyMs")
        if self.start_at is not None and self.end_at is not None and self.end_at <= self.start_at:
            raise ValueError("endAt: must be after startAt")
        if "id" in self.task:
            raise ValueError("task.id: must be left out: each task is named after the schedule and its time")
        return self
