"""Assembles the worker's role `schedules`: its group, its table of cancel requests, its clock.

In: what the worker found at the broker. Out: an engine whose partitions are `ScheduleHandler`s. It decides nothing
about a task.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from schemas.topics import SCHEDULE_INTAKE, full_name
from streams.agents.control_table import ControlTable
from streams.engine.state_reader import StateReader
from streams.metrics import ScheduleMetrics
from streams.role import EngineRole, RoleParts
from streams.rules.schedules.records import STATE, ScheduleRecorder
from streams.rules.schedules.state_rows import belongs
from streams.schedules.handler import ScheduleHandler
from streams.schedules.parts import ScheduleParts
from streams.schedules.reader import ScheduleReader


class SchedulesRole(EngineRole[ScheduleHandler]):
    """The role for delayed tasks and schedules."""

    name = "schedules"

    def __init__(self, parts: RoleParts) -> None:
        super().__init__(parts, sources=SCHEDULE_INTAKE, state=STATE, belongs=partial(belongs, parts.settings.app_id))
        settings, options, prefix = self.settings, self.options, self.prefix
        self._controls = ControlTable(options=options, prefix=prefix, on_cancel=self._cancel)
        state = StateReader(options, full_name(STATE, prefix), parts.transactional)
        reader = ScheduleReader(options, prefix, state, exact_ends=parts.transactional)
        shared = ScheduleParts(
            recorder=ScheduleRecorder(settings.app_id, prefix, self.group),
            metrics=ScheduleMetrics(parts.registry),
            wall_ms=self.now_ms,
            cancelled=self._controls.cancelled,
            cancel_requests=self._controls.task_ids,
            partition_count=self.partition_count,
            max_task_bytes=self.max_task_bytes(),
            read_again=self.reader.read,
        )
        self.engine = self.make_engine(
            lambda processor, kept: ScheduleHandler(
                partition=processor, parts=shared, lying=reader.take(processor.number), kept=kept
            ),
            commit_interval_max_ms=settings.dispatch.commit_interval_max,
            event=shared.recorder.event,
            make_reader=lambda _options, _topic: reader,
        )

    async def start(self, stack: AsyncExitStack) -> None:
        """Join the group of the role; `stack` ends it. Raises `KafkaError`."""
        stack.push_async_callback(self.sink.stop)
        await self.sink.start()
        stack.push_async_callback(self._controls.stop)
        await self._controls.start()
        await self.start_engine(stack)
        self.watch(stack, {})

    def explain_task(self, task_id: str) -> dict[str, Any] | None:
        """What a task that waits here for its time waits for; None if there is none with that id."""
        found = (handler.explain_task(task_id) for handler in self.engine.handlers())
        return next((each for each in found if each is not None), None)

    def rows(self) -> list[dict[str, Any]]:
        """The schedules of this worker's partitions, by id."""
        found = [row for handler in self.engine.handlers() for row in handler.rows()]
        return sorted(found, key=lambda row: str(row["id"]))

    def _cancel(self, task_id: str) -> None:
        for handler in self.engine.handlers():
            handler.cancel(task_id)
