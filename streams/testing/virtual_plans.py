"""The plan coordinator of a virtual worker.

In: plans, and the results of their steps. Out: step tasks, cancels, plan results and events as records. The
coordinator's state for a next owner is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from prometheus_client import CollectorRegistry

from streams.agents.template_file import load_templates
from streams.metrics import PlanMetrics
from streams.plans.handler import PlanHandler
from streams.plans.parts import PlanParts
from streams.rules.plans.records import PlanRecorder
from streams.rules.records import Output
from streams.testing.virtual_partition import INSTANCE, VirtualPartition, VirtualWorker

if TYPE_CHECKING:
    from streams.engine.partition_processor import PartitionProcessor


class PlanPartition(VirtualPartition):
    """The partition of the coordinator. Raises `TemplatesError` if the file of local patterns is invalid."""

    handler: PlanHandler

    def __init__(self, worker: VirtualWorker) -> None:
        super().__init__(worker)
        settings = worker.settings
        parts = PlanParts(
            settings=settings,
            recorder=PlanRecorder(settings.app_id, settings.topic_prefix, INSTANCE),
            emit=worker.write,
            metrics=PlanMetrics(CollectorRegistry()),
            wall_ms=worker.wall_ms,
            cancelled=worker.controls.plan_cancelled,
            task_cancelled=worker.controls.cancelled,
            partition_count=lambda: 1,
            templates=load_templates(settings.plans.templates),
            max_task_bytes=settings.dispatch.max_task_bytes,
            max_plan_bytes=settings.plans.max_plan_bytes,
        )
        self.handler = PlanHandler(cast("PartitionProcessor", self), parts)

    def changes(self) -> Iterable[Output]:
        """Outputs of timers and cancels. Rows of `plan-state` among them are dropped."""
        return self.handler.changes()
