"""Assembles the dispatch role of a worker: the tables it follows, the transports, the engine over its partitions, and
the watchers.

In: settings, and what the broker supports. Out: a running engine whose partitions call agents. Only the order of
starting and stopping is decided here; it handles no record.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from aiokafka.structs import ConsumerRecord
from prometheus_client import CollectorRegistry

from agents_io.secret_refs import secret_of
from schemas.codec import Rejected, header
from schemas.messages import AgentRegistration, EventType
from schemas.partitioning import owner_partition
from schemas.topics import INTAKE, full_name
from schemas.wire_format import key_text
from streams.agents.agent_statuses import AgentStatuses
from streams.agents.calibration_table import CalibrationTable
from streams.agents.control_table import ControlTable
from streams.agents.file import following
from streams.agents.lease_expirer import LeaseExpirer
from streams.agents.metrics import AgentMetrics
from streams.agents.registration_writer import RegistrationWriter
from streams.agents.registry import Registry
from streams.agents.table import AgentTable
from streams.agents.template_file import load_templates
from streams.agents.transports import together
from streams.broker.neighbours import watch as watch_neighbours
from streams.dispatch.agent_monitor import AgentMonitor
from streams.dispatch.balancer import Balancer
from streams.dispatch.block_watch import BlockWatch
from streams.dispatch.callers import CallerFactory
from streams.dispatch.context import DispatchContext
from streams.dispatch.handler import DispatchHandler
from streams.dispatch.held_memory import HeldMemory
from streams.dispatch.price_file import load_prices
from streams.dispatch.task_kinds import task_kinds
from streams.engine.follower import Follower
from streams.gateway.service import GatewayService
from streams.grpc_server import GrpcServer
from streams.metrics import DispatchMetrics
from streams.role import EngineRole, RoleParts, Watchers
from streams.rules.agents.gateway_claim import OWN_HEADER
from streams.rules.dispatch.records import DispatchRecorder
from streams.rules.dispatch.state_rows import belongs
from streams.rules.source_record import SourceRecord


class DispatchRole(EngineRole[DispatchHandler]):
    """The role dispatch. Once it is started, `agents` and `agent_statuses` follow their topics."""

    name = "dispatch"

    def __init__(self, parts: RoleParts, grpc_server: GrpcServer) -> None:
        """Raises `TemplatesError`, `FunctionsError`."""
        super().__init__(parts, sources=INTAKE, state="state", belongs=partial(belongs, parts.settings.app_id))
        settings, registry = self.settings, parts.registry
        self._grpc_server = grpc_server
        self._kinds = task_kinds(settings)
        self._templates = load_templates(settings.plans.templates)
        self._controls = ControlTable(
            options=self.options, prefix=settings.topic_prefix, on_cancel=self._cancel, on_clear=self._clear,
            on_rejected=lambda record, rejected: self._rejected("controls", record, rejected),
        )  # fmt: skip
        self.agents = AgentTable(
            self.options,
            settings.topic_prefix,
            lambda record, rejected: self._rejected("agents", record, rejected),
        )
        self._calibrations = CalibrationTable(self.options, settings.topic_prefix)
        self.agent_statuses = AgentStatuses()
        prices = load_prices(settings.stats.prices)
        recorder = DispatchRecorder(
            app_id=settings.app_id, processor="dispatch", prefix=settings.topic_prefix, group=self.group, prices=prices
        )
        self._writer = RegistrationWriter(
            sink=self.sink, table=self.agents, recorder=recorder, prefix=settings.topic_prefix, wall_ms=self.now_ms
        )
        self._gateway = GatewayService(
            settings=settings,
            agents=self.agents,
            sink=self.sink,
            writer=self._writer,
            here=self._here,
            metrics=registry,
        )
        self._transports = together(settings, {"gateway": self._gateway.transport} | self._kinds.transports)
        self._context = self._shared(registry, recorder)
        self.engine = self.make_engine(
            lambda processor, kept: DispatchHandler(processor, self._context, kept),
            commit_interval_max_ms=settings.dispatch.commit_interval_max,
            event=recorder.event,
            before_open=self.agents.catch_up,  # after an outage the known registrations may be old
            outlasting=DispatchHandler.outlasting,
        )
        self._monitor = AgentMonitor(
            parts=self._context, agent_statuses=self.agent_statuses, transport=self._transports, engine=self.engine
        )
        AgentMetrics(
            registry,
            lambda: [handler.callers for handler in self.engine.handlers()],
            lambda: self._monitor.publisher.published,
        )

    async def start(self, stack: AsyncExitStack) -> None:
        """Start; `stack` ends everything in the opposite order. Raises `KafkaError`, `TimeoutError`, `PortTaken`."""
        grpc_server = self._grpc_server
        followed = Follower(self.options, full_name("standings", self.prefix), self.agent_statuses.apply)
        self._followed = (self.agents, self._calibrations, followed, self._controls)
        first = (self.agents, self._calibrations, self.sink, followed)
        for part in first:
            stack.push_async_callback(part.stop)
        for outcome in await asyncio.gather(*(part.start() for part in first), return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        await stack.enter_async_context(following(self.settings, self.agents, self._writer))
        stack.push_async_callback(grpc_server.stop)
        grpc_server.bind()  # before the group is joined: a port in use then costs no rebalance
        stack.push_async_callback(self._gateway.stop)
        stack.push_async_callback(self._transports.close)
        stack.push_async_callback(self._controls.stop)
        await self._controls.start()
        await self.start_engine(stack)
        self.agents.on_change(self._agent_changed)
        stack.callback(self._monitor.start())
        self.watch(stack, self._watchers())
        token = secret_of(self.settings.gateway.agent_token, "gateway.agent_token")
        registry = Registry(table=self.agents, writer=self._writer, wall_ms=self.now_ms, token=token)
        for handler in (*self._gateway.handlers(), registry.handler()):
            grpc_server.add(handler)
        await grpc_server.start()
        self._gateway.start(grpc_server.address)

    def problems(self) -> list[str]:
        """Why topics that every worker follows cannot be read now, one line each; empty while all are read."""
        return [table.problem for table in self._followed if table.problem is not None]

    def explain_task(self, task_id: str) -> dict[str, Any] | None:
        """What a task that this worker holds in memory waits for; None if it holds none with that id."""
        found = (handler.explain_task(task_id) for handler in self.engine.handlers())
        return next((each for each in found if each is not None), None)

    def tasks(self) -> tuple[int, int]:
        """The number of tasks being called, and of tasks waiting."""
        taken = sum(status.in_flight for status in self.partition_statuses())
        calling = sum(handler.running() for handler in self.engine.handlers())
        return calling, max(0, taken - calling)

    def _watchers(self) -> Watchers:
        settings, parts, engine = self.settings, self._context, self.engine
        blocks = BlockWatch(
            processors=lambda: list(engine.processors.values()), recorder=parts.recorder, emit=parts.emit,
            wall_ms=parts.wall_ms, prefix=self.prefix, after_s=settings.dispatch.blocked_after / 1000,
        )  # fmt: skip
        leases = LeaseExpirer(
            table=self.agents, writer=self._writer, transport=self._transports, owns=self._here, wall_ms=parts.wall_ms
        )
        return {
            "block-watch": blocks.run,
            "neighbours": lambda: watch_neighbours(settings),
            "retention-watch": self.retention_watch(),
            "lease-expirer": leases.run,
        }

    def _shared(self, registry: CollectorRegistry, recorder: DispatchRecorder) -> DispatchContext:
        settings = self.settings
        return DispatchContext(
            settings=settings,
            agents=self.agents,
            callers=CallerFactory(
                settings=settings,
                transport=self._transports,
                rng=random.Random(),
                worth=self._calibrations.of,
                may_begin=lambda: self.engine.is_current(),
            ),
            memory=HeldMemory(settings.dispatch.max_held_bytes, settings.dispatch.max_in_flight),
            recorder=recorder,
            emit=self.sink.emit,
            withdraw=self.sink.withdraw,
            metrics=DispatchMetrics(registry),
            wall_ms=self.now_ms,
            cancelled=self._controls.cancelled,
            partition_count=self.partition_count,
            builtin=self._kinds.builtins.agent,
            cleared=self._controls.cleared,
            balancer=Balancer(
                agents=self.agents, agent_statuses=self.agent_statuses, settings=settings, wall_ms=self.now_ms
            ),
            templates=self._templates,
            calibrated=self._calibrations.of,
            tracing=self.tracing(),
            circuit_changed=lambda agent_id, caller: self._monitor.publisher.publish(agent_id, caller),
            read_again=self.reader.read,
        )

    def _cancel(self, task_id: str) -> None:
        for handler in self.engine.handlers():
            handler.cancel(task_id)

    def _clear(self, agent_id: str | None) -> None:
        for handler in self.engine.handlers():
            handler.clear_cache(agent_id)

    def _agent_changed(self, agent_id: str, agent: AgentRegistration | None, record: ConsumerRecord) -> None:
        self._monitor.agent_changed(agent_id, agent)
        number = owner_partition(agent_id, self.partition_count())
        processor = next((processor for processor in self.engine.opened if processor.number == number), None)
        if processor is None or not isinstance(processor.handler, DispatchHandler):
            return
        processor.handler.agent_changed(agent_id, agent)
        if agent is not None and header(record.headers, OWN_HEADER) == "status":
            return  # a known agent whose address or settings changed
        kind: EventType = "agent:registered" if agent is not None else "agent:unregistered"
        recorder, emit = self._context.recorder, self.sink.emit
        emit(recorder.event(kind, agent_id, {"agentId": agent_id}, self.now_ms(), tail=f"/{record.offset}"))

    def _rejected(self, topic: str, record: ConsumerRecord, rejected: Rejected) -> None:
        """An invalid record on a topic that every worker follows: the worker that owns its key's partition reports
        it.
        """
        if not self.engine.processors or not self._here(key_text(record.key, record.headers)):
            return
        self._context.metrics.dead_letters.labels(rejected.stage).inc()
        source_record = SourceRecord(
            topic, record.partition, record.offset, record.key, record.value, tuple(record.headers), record.timestamp
        )
        for output in self._context.recorder.dead_letter(source_record, rejected.stage, rejected.reason, self.now_ms()):
            self.sink.emit(output)

    def _here(self, agent_id: str) -> bool:
        """Whether the agent's owner partition is this worker's."""
        return owner_partition(agent_id, self.partition_count()) in self.engine.processors
