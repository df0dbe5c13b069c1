"""The worker's role `schedules`, put together: its group, its table of cancel requests, its clock.

In: settings and what the worker has found out. Out: an engine whose partitions are `ScheduleHandler`s, taken apart with `stack`.
Nothing here decides about a task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry

from schemas.access import role_group
from schemas.topics import SCHEDULE_INTAKE, full_name
from streams.agents.control_table import ControlTable
from streams.broker.kafka import client_options
from streams.broker.topics_admin import size_limits
from streams.engine.batcher import DEFAULT_LIMIT, Batcher
from streams.engine.committers import Committers
from streams.engine.config import EngineConfig
from streams.engine.engine import Engine
from streams.engine.event_sink import EventSink
from streams.engine.log_check import LogCheck
from streams.engine.record_reader import RecordReader
from streams.engine.state_reader import StateReader
from streams.engine.supervised import run_beside
from streams.engine.watchdog import LOOKS, Watchdog
from streams.metrics import ScheduleMetrics
from streams.rules.schedules.records import STATE, ScheduleRecorder
from streams.rules.schedules.state_rows import belongs
from streams.schedules.handler import ScheduleHandler
from streams.schedules.parts import ScheduleParts
from streams.schedules.reader import ScheduleReader
from streams.settings import Settings

UNLIMITED = 1_000_000
"""Records are finished as they are taken."""
END_TIMEOUT_S = 8.0
RECORD_ROOM = 16 * 1024
"""Bytes of a batch on `tasks` that are left for the key and the headers beside a schedule's task."""


@dataclass(frozen=True, slots=True)
class SchedulesRole:
    engine: Engine
    events_dropped: Callable[[], int] = int

    def explain_task(self, task_id: str) -> dict[str, Any] | None:
        """What a task that waits here for its time waits for; None if none of that id does."""
        found = (handler.explain_task(task_id) for handler in handlers_of(self.engine))
        return next((each for each in found if each is not None), None)

    def rows(self) -> list[dict[str, Any]]:
        """The schedules of this worker's partitions, by id."""
        found = [row for handler in handlers_of(self.engine) for row in handler.rows()]
        return sorted(found, key=lambda row: str(row["id"]))


def handlers_of(engine: Engine) -> Iterator[ScheduleHandler]:
    """Of the open partitions."""
    for processor in engine.opened:
        if isinstance(processor.handler, ScheduleHandler):
            yield processor.handler


async def start_schedules(
    settings: Settings, registry: CollectorRegistry, transactional: bool, partitions: int, stack: AsyncExitStack
) -> SchedulesRole:
    """Join the group of the role. Raises `KafkaError`."""
    options, prefix = client_options(settings), settings.topic_prefix
    group = role_group(settings.app_id, "schedules", prefix)
    sink = EventSink(options=options, prefix=prefix, idempotent=transactional, clock_topic=STATE)
    stack.push_async_callback(sink.stop)
    await sink.start()

    def cancel(task_id: str) -> None:
        for handler in handlers_of(engine):
            handler.cancel(task_id)

    controls = ControlTable(options=options, prefix=prefix, on_cancel=cancel)
    stack.push_async_callback(controls.stop)
    limits = await size_limits(settings)
    batcher = Batcher(prefix, limits, sink.clock.now_ms)

    def partition_count() -> int:
        return engine.partition_count or partitions

    records = RecordReader(options, prefix)
    stack.push_async_callback(records.close)
    reader = ScheduleReader(
        options, prefix, StateReader(options, full_name(STATE, prefix), transactional), exact_ends=transactional
    )
    parts = ScheduleParts(
        recorder=ScheduleRecorder(settings.app_id, prefix, group),
        metrics=ScheduleMetrics(registry),
        wall_ms=sink.clock.now_ms,
        cancelled=controls.cancelled,
        cancel_requests=controls.task_ids,
        partition_count=partition_count,
        max_task_bytes=min(settings.dispatch.max_task_bytes, limits.get("tasks", DEFAULT_LIMIT) - RECORD_ROOM),
        read_again=records.read,
    )
    config = EngineConfig.of(
        settings,
        options,
        group=group,
        sources=SCHEDULE_INTAKE,
        state=STATE,
        exact_ends=transactional,
        max_in_flight=UNLIMITED,
        belongs=partial(belongs, settings.app_id),
    )
    committers = Committers(
        config,
        STATE,
        batcher,
        transactional=transactional,
        interval_max_s=settings.dispatch.commit_interval_max / 1000,
        producer=lambda: sink.producer,
        is_current=lambda: engine.is_current(),
    )
    engine = Engine(
        config=config,
        make_committer=committers.make,
        make_handler=lambda processor, kept: ScheduleHandler(
            partition=processor, parts=parts, lying=reader.take(processor.number), kept=kept
        ),
        on_assigned=batcher.forget_partition_counts,
        make_reader=lambda _options, _topic: reader,
        wall_ms=sink.clock.now_ms,
        event=parts.recorder.event,
    )
    stack.push_async_callback(committers.close)
    stack.push_async_callback(engine.stop)
    await controls.start()
    await engine.start()
    after_s = settings.dispatch.stall_after / 1000
    running = {
        "schedules-watchdog": Watchdog(engine, after_s).run,
        "schedules-log-check": LogCheck(engine, after_s / LOOKS, records.read).run,
    }
    run_beside(stack, running, END_TIMEOUT_S)
    return SchedulesRole(engine, lambda: sink.dropped)
