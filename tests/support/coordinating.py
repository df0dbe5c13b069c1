"""The coordinator of one partition's plans with everything real but the partition: for tests without a broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any, cast

import orjson
from prometheus_client import CollectorRegistry

from schemas.codec import decode
from schemas.exact_json import loads
from schemas.messages import ConfidenceDataPoint, Control, Event, PlanMemory, PlanResult, Result, Task
from streams.engine.partition_processor import PartitionProcessor
from streams.metrics import PlanMetrics
from streams.plans.handler import PlanHandler
from streams.plans.parts import PlanParts
from streams.rules.plans.records import PlanRecorder
from streams.rules.records import Output
from streams.settings import Settings
from streams.tracing.spans import Tracing
from tests.support.dispatching import FakePartition
from tests.support.partition_fakes import intake

MODELS: dict[str, Any] = {
    "tasks": Task, "controls": Control, "events": Event, "plan-results": PlanResult, "plan-state": PlanMemory,
    "results": Result, "data-points": ConfidenceDataPoint,
}  # fmt: skip


class SkippingPartition(FakePartition):
    """Also keeps what was skipped."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped: list[tuple[str, int]] = []

    def skip(self, source: str, offset: int) -> None:
        """Keep it."""
        self.skipped.append((source, offset))


class Coordinating:
    """A handler and everything around it; `state` is what its partition of the state topic would hold."""

    def __init__(self, state: dict[bytes, bytes] | None = None, partitions: int | list[int] = 1,
        tracing: Tracing | None = None, **fields: Any,
    ) -> None:  # fmt: skip
        self.settings = Settings.model_validate(fields)
        self.state = state if state is not None else {}
        self.partition = SkippingPartition()
        self.emitted: list[Output] = []
        self.cancel_requests: dict[str, str] = {}
        self.asked_of: list[tuple[str, int]] = []
        """Plans whose cancel request was asked for, and when they were submitted."""
        self.task_requests: dict[str, str] = {}
        self.skew_ms = 0
        self._loop = asyncio.get_running_loop()
        self._wall_s = time.time() - self._loop.time()
        self.registry = CollectorRegistry()
        self.templates: dict[str, Any] = {}
        parts = PlanParts(
            settings=self.settings,
            recorder=PlanRecorder("app", "t.", "app-plans"),
            emit=self.emitted.append,
            metrics=PlanMetrics(self.registry),
            wall_ms=self.wall_ms,
            cancelled=self._cancelled,
            partition_count=lambda: partitions if isinstance(partitions, int) else partitions[0],
            templates=self.templates,
            max_task_bytes=self.settings.dispatch.max_task_bytes,
            max_plan_bytes=self.settings.plans.max_plan_bytes,
            task_cancelled=lambda task_id, submitted_ms: self.task_requests.get(task_id),
            tracing=tracing,
        )
        self.offset = 0
        self.make = lambda: PlanHandler(cast("PartitionProcessor", self.partition), parts, list(self.state.values()))
        self.handler = self.make()

    def wall_ms(self) -> int:
        """The worker's wall clock, as far ahead as the test wants."""
        return int((self._wall_s + self._loop.time()) * 1000) + self.skew_ms

    def _cancelled(self, plan_id: str, submitted_ms: int) -> str | None:
        self.asked_of.append((plan_id, submitted_ms))
        return self.cancel_requests.get(plan_id)

    def restart(self) -> None:
        """The next owner of the partition."""
        self.handler.close()
        self.handler = self.make()

    def take(
        self, source: str, value: Any, key: str | None = None, offset: int | None = None, headers: Any = ()
    ) -> list[dict[str, Any]]:
        """A record, and the commit after it: what was written, each a valid message."""
        self.offset += 1
        at = self.offset if offset is None else offset
        raw = value if isinstance(value, bytes) else orjson.dumps(value)
        before = len(self.partition.ended)
        self.handler.process(
            source, intake(at, raw, source=source, key=None if key is None else key.encode(), headers=headers)
        )
        outputs = [output for _, _, found in self.partition.ended[before:] for output in found]
        return self.commit(outputs)

    def commit(self, outputs: Iterable[Output] = ()) -> list[dict[str, Any]]:
        """What a commit now would write; the state is kept."""
        told = []
        for output in [*outputs, *self.handler.changes()]:
            if output.topic == "plan-state":
                assert output.key is not None
                self.state.pop(output.key, None)
                if output.value is not None:
                    self.state[output.key] = output.value
            if output.value is not None and output.topic in MODELS:
                decode(MODELS[output.topic], output.value, output.headers)
            row = {"topic": output.topic, "key": output.key, "value": loads(output.value or b"null")}
            told.append(row | {"headers": dict(output.headers)})
        return told

    def plan(self, data: Any, **more: Any) -> list[dict[str, Any]]:
        """A plan comes in."""
        return self.take("plans", data, **more)

    def step(self, plan_id: str, number: int, status: str = "success", **fields: Any) -> list[dict[str, Any]]:
        """A step's result comes in."""
        value = (
            {"result": number}
            if status == "success"
            else {"error": {"code": "internal", "message": "no", "retryable": True}}
        )
        wire = {
            "taskId": f"{plan_id}#{number}", "planId": plan_id, "status": status, "confidence": 0.5, "executionTime": 1,
            "retries": 0, "cached": False, "timestamp": "2027-01-15T08:00:00.000Z", "metadata": {},
        }  # fmt: skip
        return self.take("results", wire | value | fields, key=plan_id)

    def count(self, name: str, **labels: str) -> float:
        """A metric's value."""
        return self.registry.get_sample_value(name, labels) or 0.0


def topics(told: list[dict[str, Any]]) -> list[str]:
    """Where it was written, the state aside; events by their type."""
    return [t["value"]["type"] if t["topic"] == "events" else t["topic"] for t in told if t["topic"] != "plan-state"]


def one(told: list[dict[str, Any]], topic: str) -> dict[str, Any]:
    """The one record of a topic."""
    [found] = [t["value"] for t in told if t["topic"] == topic]
    return cast("dict[str, Any]", found)
