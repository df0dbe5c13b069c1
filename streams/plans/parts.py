"""What all partitions of the coordinator share on a worker. No code: `role.py` fills it in, handlers use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streams.metrics import PlanMetrics
from streams.rules.plans.records import PlanRecorder
from streams.rules.plans.templates import Templates
from streams.rules.records import Output
from streams.settings import Settings

if TYPE_CHECKING:
    from streams.tracing.spans import Tracing


@dataclass(slots=True, frozen=True)
class PlanParts:
    """What every partition's handler shares on this worker."""

    settings: Settings
    recorder: PlanRecorder
    emit: Callable[[Output], None]
    metrics: PlanMetrics
    wall_ms: Callable[[], int]
    cancelled: Callable[[str, int], str | None]
    """Why a plan id submitted then (epoch ms) is cancelled, or None."""
    partition_count: Callable[[], int]
    templates: Templates
    max_task_bytes: int
    """A step ends as failed if its task is larger as JSON."""
    max_plan_bytes: int
    """A plan is refused if it is larger as JSON, with the templates it uses."""
    task_cancelled: Callable[[str, int], str | None] = lambda _task_id, _submitted_ms: None
    """Why a task that a plan answers is cancelled, or None."""
    tracing: Tracing | None = None
    """Makes spans; None: tracing is off."""
