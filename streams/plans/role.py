"""Assembles the worker's role `plans`: its group, its table of cancel requests, its events, the plans' API.

In: what the worker found at the broker. Out: an engine whose partitions are `PlanHandler`s. It decides nothing about a
plan.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from schemas.partitioning import owner_partition
from schemas.topics import PLAN_INTAKE
from streams.agents.control_table import ControlTable
from streams.agents.template_file import load_templates
from streams.engine.addresses import Addresses
from streams.engine.batcher import DEFAULT_LIMIT
from streams.engine.engine import Engine
from streams.metrics import PlanMetrics
from streams.plans.handler import PlanHandler
from streams.plans.memory import anything_under_way
from streams.plans.parts import PlanParts
from streams.role import EngineRole, RoleParts
from streams.rules.plans.records import STATE, PlanRecorder
from streams.rules.plans.state_rows import belongs

WRAPPING_BYTES = 64 * 1024
"""Additional bytes of a plan on the state topic."""


@dataclass(frozen=True, slots=True)
class Coordination:
    """Which worker coordinates which plan, and the state of this worker's plans."""

    engine: Engine[PlanHandler]
    partition_count: Callable[[], int]
    addresses: Addresses

    @property
    def group(self) -> str:
        """The consumer group of coordinators."""
        return self.engine.config.group

    def number(self, plan_id: str) -> int:
        """The partition number that owns the plan."""
        return owner_partition(plan_id, self.partition_count())

    def owner(self, number: int) -> str | None:
        """The address of a partition number's owner; None during a rebalance, or if unknown."""
        return self.addresses.owner(number) if self.engine.assigned.is_set() else None

    def workers(self) -> set[str]:
        """The known addresses of all partitions' owners."""
        numbers = range(self.partition_count())
        return {address for number in numbers if (address := self.owner(number)) is not None}

    def handler_of(self, plan_id: str) -> PlanHandler | None:
        """The plan's partition, if it is open at this worker."""
        return self.engine.handler(self.number(plan_id))

    def view(self, plan_id: str) -> dict[str, Any] | bytes | None:
        """The plan as its partition knows it: a dict, or its result as JSON. None: unknown, or its partition is
        elsewhere.
        """
        handler = self.handler_of(plan_id)
        return None if handler is None else handler.view(plan_id)

    def is_caught_up(self, plan_id: str) -> bool:
        """Whether the plan's partition, open here, has read every plan that was there when it opened: a worker that was
        killed may have shown some of them before it committed anything of them.
        """
        processor = self.engine.processors.get(self.number(plan_id))
        return processor is not None and processor.caught_up("plans")


class PlansRole(EngineRole[PlanHandler]):
    """The role that coordinates plans."""

    name = "plans"

    def __init__(self, parts: RoleParts) -> None:
        """Raises `TemplatesError` when the file of local patterns cannot be used."""
        super().__init__(parts, sources=PLAN_INTAKE, state=STATE, belongs=partial(belongs, parts.settings.app_id))
        settings = self.settings
        self._controls = ControlTable(
            options=self.options, prefix=self.prefix, on_cancel=self._cancel_task, on_plan=self._cancel
        )
        addresses = Addresses(parts.address)
        shared = PlanParts(
            settings=settings,
            recorder=PlanRecorder(settings.app_id, self.prefix, self.group),
            emit=self.sink.emit,
            metrics=PlanMetrics(parts.registry),
            wall_ms=self.now_ms,
            cancelled=self._controls.plan_cancelled,
            task_cancelled=self._controls.cancelled,
            partition_count=self.partition_count,
            templates=load_templates(settings.plans.templates),
            tracing=self.tracing(),
            max_task_bytes=self.max_task_bytes(),
            max_plan_bytes=min(
                settings.plans.max_plan_bytes, parts.size_limits.get(STATE, DEFAULT_LIMIT) - WRAPPING_BYTES
            ),
        )
        self.engine = self.make_engine(
            lambda processor, kept: PlanHandler(processor, shared, kept),
            commit_interval_max_ms=settings.plans.commit_interval_max,
            event=shared.recorder.event,
            from_end=lambda kept: () if anything_under_way(kept, settings.app_id) else ("results",),
            assignor=addresses,
        )
        self.coordination = Coordination(self.engine, self.partition_count, addresses)

    async def start(self, stack: AsyncExitStack) -> None:
        """Join the group of coordinators; `stack` ends it. Raises `KafkaError`."""
        stack.push_async_callback(self.sink.stop)
        await self.sink.start()
        stack.push_async_callback(self._controls.stop)
        await self._controls.start()
        await self.start_engine(stack)
        self.watch(stack, {"retention-watch": self.retention_watch()})

    def _cancel(self, plan_id: str) -> None:
        for handler in self.engine.handlers():
            handler.cancel(plan_id)

    def _cancel_task(self, task_id: str) -> None:
        for handler in self.engine.handlers():
            handler.cancel_task(task_id)
