"""The worker's role `plans`, put together: its group, its table of cancel requests, its events, the page of a plan.

In: settings and what the worker has found out. Out: an engine whose partitions are `PlanHandler`s, taken apart with `stack`.
Raises `TemplatesError` when the file of local patterns cannot be used. Nothing here decides about a plan.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry

from schemas.access import role_group
from schemas.partitioning import owner_partition
from schemas.topics import PLAN_INTAKE
from streams.agents.control_table import ControlTable
from streams.agents.template_file import load_templates
from streams.broker.kafka import client_options
from streams.broker.retention import retention_ms
from streams.broker.topics_admin import size_limits
from streams.engine.addresses import Addresses
from streams.engine.batcher import DEFAULT_LIMIT, Batcher
from streams.engine.committers import Committers
from streams.engine.config import EngineConfig
from streams.engine.engine import Engine
from streams.engine.event_sink import EventSink
from streams.engine.log_check import LogCheck
from streams.engine.record_reader import RecordReader
from streams.engine.retention_watch import RetentionWatch
from streams.engine.supervised import run_beside
from streams.engine.watchdog import LOOKS, Watchdog
from streams.metrics import PlanMetrics
from streams.plans.handler import PlanHandler
from streams.plans.memory import anything_under_way
from streams.plans.parts import PlanParts
from streams.rules.plans.records import STATE, PlanRecorder
from streams.rules.plans.state_rows import belongs
from streams.settings import Settings
from streams.tracing.export import Provider

UNLIMITED = 1_000_000
"""Records are finished as they are taken; how many plans are under way is limited by their handler."""
END_TIMEOUT_S = 8.0
WRAPPING_BYTES = 64 * 1024
"""What a plan may need beside itself on the state topic."""


@dataclass(frozen=True, slots=True)
class Coordination:
    engine: Engine
    partition_count: Callable[[], int]
    addresses: Addresses
    events_dropped: Callable[[], int] = int

    @property
    def group(self) -> str:
        """The consumer group of coordinators."""
        return self.engine.config.group

    def number(self, plan_id: str) -> int:
        """The partition number that owns the plan."""
        return owner_partition(plan_id, self.partition_count())

    def owner(self, number: int) -> str | None:
        """Where the owner of a partition number answers; None while partitions move, or when it is not known."""
        return self.addresses.owner(number) if self.engine.assigned.is_set() else None

    def workers(self) -> set[str]:
        """Where the owners of all partitions answer, as far as that is known."""
        numbers = range(self.partition_count())
        return {address for number in numbers if (address := self.owner(number)) is not None}

    def handler_of(self, plan_id: str) -> PlanHandler | None:
        """The plan's partition, if it is open at this worker."""
        processor = self.engine.processors.get(self.number(plan_id))
        handler = processor.handler if processor is not None and not processor.closed else None
        return handler if isinstance(handler, PlanHandler) else None

    def view(self, plan_id: str) -> dict[str, Any] | bytes | None:
        """What the plan's partition knows of it: a dict, or its result as JSON. None: not known, or its partition is
        elsewhere."""
        handler = self.handler_of(plan_id)
        return None if handler is None else handler.view(plan_id)

    def is_caught_up(self, plan_id: str) -> bool:
        """Whether the plan's partition, open here, has read every plan that was there when it opened: a worker that was killed
        may have shown some of them before it committed anything of them."""
        processor = self.engine.processors.get(self.number(plan_id))
        return processor is not None and processor.caught_up("plans")


async def coordinate(
    settings: Settings, registry: CollectorRegistry, transactional: bool, partitions: int, stack: AsyncExitStack,
    address: str, spans: Provider | None = None,
) -> Coordination:  # fmt: skip
    """Join the group of coordinators. `address`: where this worker answers the others. Raises `KafkaError`, `TemplatesError`."""
    options = client_options(settings)
    group = role_group(settings.app_id, "plans", settings.topic_prefix)
    templates = load_templates(settings.plans.templates)
    sink = EventSink(options=options, prefix=settings.topic_prefix, idempotent=transactional, clock_topic=STATE)
    stack.push_async_callback(sink.stop)
    await sink.start()
    controls = ControlTable(
        options=options,
        prefix=settings.topic_prefix,
        on_cancel=lambda task_id: cancel_task(task_id),
        on_plan=lambda plan_id: cancel(plan_id),
    )
    stack.push_async_callback(controls.stop)
    limits = await size_limits(settings)
    batcher = Batcher(settings.topic_prefix, limits, sink.clock.now_ms)

    def handlers() -> list[PlanHandler]:
        return [processor.handler for processor in engine.opened if isinstance(processor.handler, PlanHandler)]

    def cancel(plan_id: str) -> None:
        for handler in handlers():
            handler.cancel(plan_id)

    def cancel_task(task_id: str) -> None:
        for handler in handlers():
            handler.cancel_task(task_id)

    def partition_count() -> int:
        return engine.partition_count or partitions

    parts = PlanParts(
        settings=settings,
        recorder=PlanRecorder(settings.app_id, settings.topic_prefix, group),
        emit=sink.emit,
        metrics=PlanMetrics(registry),
        wall_ms=sink.clock.now_ms,
        cancelled=controls.plan_cancelled,
        task_cancelled=controls.cancelled,
        partition_count=partition_count,
        templates=templates,
        tracing=None if spans is None else spans.role("plans", settings),
        max_plan_bytes=min(settings.plans.max_plan_bytes, limits.get(STATE, DEFAULT_LIMIT) - WRAPPING_BYTES),
    )
    addresses = Addresses(address)
    config = EngineConfig.of(
        settings,
        options,
        group=group,
        sources=PLAN_INTAKE,
        state=STATE,
        exact_ends=transactional,
        max_in_flight=UNLIMITED,
        from_end=lambda kept: () if anything_under_way(kept, settings.app_id) else ("results",),
        assignor=addresses,
        belongs=partial(belongs, settings.app_id),
    )
    committers = Committers(
        config,
        STATE,
        batcher,
        transactional=transactional,
        interval_max_s=settings.plans.commit_interval_max / 1000,
        producer=lambda: sink.producer,
        is_current=lambda: engine.is_current(),
    )
    engine = Engine(
        config=config,
        make_committer=committers.make,
        make_handler=lambda processor, kept: PlanHandler(processor, parts, kept),
        on_assigned=batcher.forget_partition_counts,
        wall_ms=sink.clock.now_ms,
        event=parts.recorder.event,
    )
    stack.push_async_callback(committers.close)
    stack.push_async_callback(engine.stop)
    reader = RecordReader(options, settings.topic_prefix)
    stack.push_async_callback(reader.close)
    await controls.start()
    await engine.start()
    after_s = settings.dispatch.stall_after / 1000
    running = {
        "plans-watchdog": Watchdog(engine, after_s).run,
        "plans-log-check": LogCheck(engine, after_s / LOOKS, reader.read).run,
        "plans-retention-watch": RetentionWatch(engine, reader.read, lambda: retention_ms(settings, PLAN_INTAKE)).run,
    }
    run_beside(stack, running, END_TIMEOUT_S)
    return Coordination(engine, partition_count, addresses, lambda: sink.dropped)
