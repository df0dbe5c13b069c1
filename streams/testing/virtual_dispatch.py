"""Dispatch of a virtual worker: its agents, its one partition, and the tasks whose time has not come.

In: records on the topics of dispatch. Out: calls of agents by the given transport; results and events as records.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, cast

from aiokafka.structs import ConsumerRecord
from prometheus_client import CollectorRegistry

from agents_io.protocols.registrations import REGISTRABLE
from agents_io.protocols.transports import Transports
from agents_io.rules.targets import AllowList
from schemas.messages import AgentRegistration
from streams.agents.agent_statuses import AgentStatuses
from streams.dispatch.balancer import Balancer
from streams.dispatch.callers import CallerFactory
from streams.dispatch.context import DispatchContext
from streams.dispatch.handler import DispatchHandler
from streams.dispatch.held_memory import HeldMemory
from streams.metrics import DispatchMetrics
from streams.rules.dispatch.builtins import Builtins
from streams.rules.dispatch.records import DispatchRecorder
from streams.rules.records import Output
from streams.rules.schedules.records import ScheduleRecorder, read_due
from streams.rules.source_record import SourceRecord
from streams.testing.direct_calls import DirectCalls
from streams.testing.virtual_partition import INSTANCE, VirtualPartition, VirtualWorker

if TYPE_CHECKING:
    from streams.agents.table import AgentTable
    from streams.engine.partition_processor import PartitionProcessor


class VirtualAgents:
    """The registered agents, with the interface of `AgentTable`."""

    def __init__(self) -> None:
        self.agents: dict[str, AgentRegistration] = {}

    def get(self, agent_id: str) -> AgentRegistration | None:
        return self.agents.get(agent_id)

    @property
    def version(self) -> object:
        return list(map(id, self.agents.values()))

    def all(self) -> Iterable[AgentRegistration]:
        return self.agents.values()

    async def catch_up(self) -> None:
        """Nothing to do: everything written is known."""


class DispatchPartition(VirtualPartition):
    """The partition of dispatch. `rng`: for retries, hedging and the balancer."""

    handler: DispatchHandler

    def __init__(
        self, *, worker: VirtualWorker, agents: VirtualAgents, transport: DirectCalls, rng: random.Random
    ) -> None:
        super().__init__(worker)
        settings = worker.settings
        self._scheduled: dict[str, tuple[asyncio.TimerHandle, Output]] = {}
        self._recorder = ScheduleRecorder(settings.app_id, settings.topic_prefix, INSTANCE)
        statuses, table = AgentStatuses(), cast("AgentTable", agents)
        transports = Transports(dict.fromkeys(REGISTRABLE, transport))
        context = DispatchContext(
            settings=settings,
            agents=table,
            callers=CallerFactory(
                settings=settings, transport=transports, rng=rng, worth=lambda _agent, _confidence: None
            ),
            memory=HeldMemory(settings.dispatch.max_held_bytes, settings.dispatch.max_in_flight),
            recorder=DispatchRecorder(
                app_id=settings.app_id, processor="dispatch", prefix=settings.topic_prefix, group=INSTANCE
            ),
            emit=worker.write,
            metrics=DispatchMetrics(CollectorRegistry()),
            wall_ms=worker.wall_ms,
            cancelled=worker.controls.cancelled,
            partition_count=lambda: 1,
            builtin=Builtins(allowed=AllowList(()), functions=(), patterns=False, limits={}).agent,
            cleared=lambda _agent_id: 0,
            balancer=Balancer(agents=table, agent_statuses=statuses, settings=settings, wall_ms=worker.wall_ms),
            circuit_changed=lambda _agent_id, _caller: None,
            read_again=self._read_again,
        )
        self.handler = DispatchHandler(cast("PartitionProcessor", self), context, ())

    def touch(self) -> None:
        """Nothing to do: dispatch's state is never read here."""

    def schedule(self, output: Output) -> None:
        """Hold a task whose time has not come, as the role `schedules` does."""
        due = read_due(output.headers)
        left_s = (due.not_before_ms - self.worker.wall_ms()) / 1000
        timer = self.loop.call_later(max(0.0, left_s), self.release, due.task_id)
        self._scheduled.setdefault(due.task_id, (timer, output))

    def release(self, task_id: str) -> None:
        """Release the task: its time has come, or it was cancelled."""
        timer, output = self._scheduled.pop(task_id, (None, None))
        if timer is None or output is None:
            return
        timer.cancel()
        now_ms = self.worker.wall_ms()
        record = SourceRecord("scheduled", 0, 0, output.key, output.value, tuple(output.headers), now_ms)
        released, _ = self._recorder.released(record, 1, None, now_ms)
        self.worker.write(released)

    async def _read_again(self, source: str, number: int, offsets: Sequence[int]) -> dict[int, ConsumerRecord]:
        await asyncio.sleep(0)
        return {offset: self.log[source, offset] for offset in offsets if (source, offset) in self.log}
