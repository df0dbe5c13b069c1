"""What all partitions of the role `schedules` share on a worker. No code: `role.py` fills it in, handlers use it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from streams.engine.record_reader import ReadAgain
from streams.metrics import ScheduleMetrics
from streams.rules.schedules.records import ScheduleRecorder


@dataclass(slots=True, frozen=True)
class ScheduleParts:
    """What every partition's handler shares on this worker."""

    recorder: ScheduleRecorder
    metrics: ScheduleMetrics
    wall_ms: Callable[[], int]
    """The brokers' time, epoch ms."""
    cancelled: Callable[[str, int], str | None]
    """Why a task submitted then (epoch ms) is cancelled, or None."""
    cancel_requests: Callable[[], Iterable[str]]
    """The ids of all cancelled tasks."""
    partition_count: Callable[[], int]
    max_task_bytes: int
    """A schedule is refused if its task is larger as JSON."""
    read_again: ReadAgain
