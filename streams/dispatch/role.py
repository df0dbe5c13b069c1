"""The dispatch role of a worker put together: tables it follows, ways to agents, the engine over its partitions, and those who
watch.

In: settings, and what the broker can do. Out: a running engine whose partitions call agents. The order of starting and stopping
is all that is decided here; it handles no record.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from functools import partial

from aiokafka.structs import ConsumerRecord
from prometheus_client import CollectorRegistry

from agents_io.secret_refs import secret_of
from schemas.access import role_group
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
from streams.broker.kafka import client_options
from streams.broker.neighbours import watch as watch_neighbours
from streams.broker.retention import retention_ms
from streams.dispatch.agent_monitor import AgentMonitor
from streams.dispatch.balancer import Balancer
from streams.dispatch.block_watch import BlockWatch
from streams.dispatch.callers import CallerFactory
from streams.dispatch.context import DispatchContext
from streams.dispatch.handler import DispatchHandler, handlers_of
from streams.dispatch.held_memory import HeldMemory
from streams.dispatch.price_file import load_prices
from streams.dispatch.task_kinds import task_kinds
from streams.engine.batcher import Batcher
from streams.engine.committers import Committers
from streams.engine.config import EngineConfig
from streams.engine.engine import Engine
from streams.engine.event_sink import EventSink
from streams.engine.follower import Follower
from streams.engine.log_check import LogCheck
from streams.engine.record_reader import RecordReader
from streams.engine.retention_watch import RetentionWatch
from streams.engine.supervised import run_beside
from streams.engine.watchdog import LOOKS, Watchdog
from streams.gateway.service import GatewayService
from streams.grpc_server import GrpcServer
from streams.metrics import DispatchMetrics
from streams.rules.agents.gateway_claim import OWN_HEADER
from streams.rules.dispatch.records import DispatchRecorder
from streams.rules.dispatch.state_rows import belongs
from streams.rules.source_record import SourceRecord
from streams.settings import Settings
from streams.tracing.export import Provider

END_TIMEOUT_S = 10.0
UNLIMITED = 10_000_000
"""Records in flight: what they take in memory is bounded by `HeldMemory`."""


class DispatchRole:
    """`engine` runs, and `agents` and `standings` are followed, once started."""

    def __init__(
        self,
        *,
        settings: Settings,
        registry: CollectorRegistry,
        transactional: bool,
        partitions: int,
        size_limits: Mapping[str, int],
        spans: Provider | None = None,
    ) -> None:
        """`partitions`: how many the intake topics had at the start; `size_limits`: full topic name -> bytes of a record.

        `spans`: who makes them, if anybody wants them.
        """
        self._settings = settings
        self._spans = spans
        self._options = client_options(settings)
        self._group = role_group(settings.app_id, "dispatch", settings.topic_prefix)
        self._transactional = transactional
        self._partitions = partitions
        self._kinds = task_kinds(settings)
        self._templates = load_templates(settings.plans.templates)
        self._sink = EventSink(
            options=self._options, prefix=settings.topic_prefix, idempotent=transactional, clock_topic="state"
        )
        self._now_ms = self._sink.clock.now_ms
        self._batcher = Batcher(settings.topic_prefix, size_limits, self._now_ms)
        self._controls = ControlTable(
            options=self._options, prefix=settings.topic_prefix, on_cancel=self._cancel, on_clear=self._clear,
            on_rejected=lambda record, rejected: self._rejected("controls", record, rejected),
        )  # fmt: skip
        self.agents = AgentTable(
            self._options,
            settings.topic_prefix,
            lambda record, rejected: self._rejected("agents", record, rejected),
        )
        self._calibrations = CalibrationTable(self._options, settings.topic_prefix)
        self.agent_statuses = AgentStatuses()
        prices = load_prices(settings.stats.prices)
        recorder = DispatchRecorder(
            app_id=settings.app_id, processor="dispatch", prefix=settings.topic_prefix, group=self._group, prices=prices
        )
        self._writer = RegistrationWriter(
            sink=self._sink, table=self.agents, recorder=recorder, prefix=settings.topic_prefix, wall_ms=self._now_ms
        )
        self._gateway = GatewayService(
            settings=settings,
            agents=self.agents,
            sink=self._sink,
            writer=self._writer,
            here=self._here,
            metrics=registry,
        )
        self._transports = together(settings, {"gateway": self._gateway.transport} | self._kinds.transports)
        self._reader = RecordReader(self._options, settings.topic_prefix)
        self._context = self._shared(registry, recorder)
        self.engine = self._over_partitions()
        self._monitor = AgentMonitor(
            parts=self._context, agent_statuses=self.agent_statuses, transport=self._transports, engine=self.engine
        )
        AgentMetrics(
            registry,
            lambda: [handler.callers for handler in self._handlers()],
            lambda: self._monitor.keeper.published,
        )

    async def start(self, stack: AsyncExitStack, grpc_server: GrpcServer) -> None:
        """Begin; `stack` ends it all in the opposite order. Raises `KafkaError`, `TimeoutError`, `PortTaken`."""
        prefix = self._settings.topic_prefix
        followed = Follower(self._options, full_name("standings", prefix), self.agent_statuses.apply)
        self._followed = (self.agents, self._calibrations, followed, self._controls)
        first = (self.agents, self._calibrations, self._sink, followed)
        for part in first:
            stack.push_async_callback(part.stop)
        for outcome in await asyncio.gather(*(part.start() for part in first), return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        await stack.enter_async_context(following(self._settings, self.agents, self._writer))
        stack.push_async_callback(grpc_server.stop)
        grpc_server.bind()  # before the group is joined: a port that is taken costs no rebalance
        stack.push_async_callback(self._gateway.stop)
        stack.push_async_callback(self._transports.close)
        stack.push_async_callback(self._controls.stop)
        stack.push_async_callback(self._reader.close)
        stack.push_async_callback(self._committers.close)
        stack.push_async_callback(self.engine.stop)
        await self._controls.start()
        await self.engine.start()
        self.agents.on_change(self._agent_changed)
        self._watch(stack)
        token = secret_of(self._settings.gateway.agent_token, "gateway.agent_token")
        registry = Registry(table=self.agents, writer=self._writer, wall_ms=self._now_ms, token=token)
        for handler in (*self._gateway.handlers(), registry.handler()):
            grpc_server.add(handler)
        await grpc_server.start()
        self._gateway.start(grpc_server.address)

    def events_dropped(self) -> int:
        """Progress events that could not be sent so far."""
        return self._sink.dropped

    def problems(self) -> list[str]:
        """Why topics that every worker follows cannot be read at present, one line each; none while all are."""
        return [table.problem for table in self._followed if table.problem is not None]

    def _watch(self, stack: AsyncExitStack) -> None:
        """What looks after the partitions from outside."""
        settings, parts, engine = self._settings.dispatch, self._context, self.engine
        stack.callback(self._monitor.start())
        watch = BlockWatch(
            processors=lambda: list(engine.processors.values()), recorder=parts.recorder, emit=parts.emit, wall_ms=parts.wall_ms,
            prefix=self._settings.topic_prefix, after_s=settings.blocked_after / 1000,
        )  # fmt: skip
        running = {
            "block-watch": watch.run,
            "watchdog": Watchdog(engine, settings.stall_after / 1000).run,
            "neighbours": lambda: watch_neighbours(self._settings),
            "log-check": LogCheck(engine, settings.stall_after / 1000 / LOOKS, self._reader.read).run,
            "retention-watch": RetentionWatch(
                engine, self._reader.read, lambda: retention_ms(self._settings, INTAKE)
            ).run,
            "lease-expirer": LeaseExpirer(
                table=self.agents,
                writer=self._writer,
                transport=self._transports,
                owns=self._here,
                wall_ms=parts.wall_ms,
            ).run,
        }
        run_beside(stack, running, END_TIMEOUT_S)

    def _shared(self, registry: CollectorRegistry, recorder: DispatchRecorder) -> DispatchContext:
        settings = self._settings
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
            emit=self._sink.emit,
            withdraw=self._sink.withdraw,
            metrics=DispatchMetrics(registry),
            wall_ms=self._now_ms,
            cancelled=self._controls.cancelled,
            partition_count=self._partition_count,
            builtin=self._kinds.builtins.agent,
            cleared=self._controls.cleared,
            balancer=Balancer(
                agents=self.agents, agent_statuses=self.agent_statuses, settings=settings, wall_ms=self._now_ms
            ),
            templates=self._templates,
            calibrated=self._calibrations.of,
            tracing=None if self._spans is None else self._spans.role("dispatch", settings),
            circuit_changed=lambda agent_id, caller: self._monitor.keeper.tell(agent_id, caller),
            read_again=self._reader.read,
        )

    def _over_partitions(self) -> Engine:
        settings = self._settings
        config = EngineConfig.of(
            settings,
            self._options,
            group=self._group,
            sources=INTAKE,
            state="state",
            exact_ends=self._transactional,
            max_in_flight=UNLIMITED,
            belongs=partial(belongs, settings.app_id),
        )
        self._committers = Committers(
            config,
            "state",
            self._batcher,
            transactional=self._transactional,
            interval_max_s=settings.dispatch.commit_interval_max / 1000,
            producer=lambda: self._sink.producer,
            is_current=lambda: self.engine.is_current(),
        )
        return Engine(
            config=config,
            make_committer=self._committers.make,
            make_handler=lambda processor, kept: DispatchHandler(processor, self._context, kept),
            on_assigned=self._batcher.forget_partition_counts,
            before_open=self.agents.catch_up,  # after an outage what is known of the agents may be old
            wall_ms=self._now_ms,
            event=self._context.recorder.event,
        )

    def _handlers(self) -> Iterator[DispatchHandler]:
        return handlers_of(self.engine.opened)

    def _cancel(self, task_id: str) -> None:
        for handler in self._handlers():
            handler.cancel(task_id)

    def _clear(self, agent_id: str | None) -> None:
        for handler in self._handlers():
            handler.clear_cache(agent_id)

    def _agent_changed(self, agent_id: str, agent: AgentRegistration | None, record: ConsumerRecord) -> None:
        self._monitor.agent_changed(agent_id, agent)
        number = owner_partition(agent_id, self._partition_count())
        processor = next((processor for processor in self.engine.opened if processor.number == number), None)
        if processor is None or not isinstance(processor.handler, DispatchHandler):
            return
        processor.handler.agent_changed(agent_id, agent)
        if agent is not None and header(record.headers, OWN_HEADER) == "status":
            return  # it was known, and is elsewhere or otherwise now
        kind: EventType = "agent:registered" if agent is not None else "agent:unregistered"
        recorder, emit = self._context.recorder, self._sink.emit
        emit(recorder.event(kind, agent_id, {"agentId": agent_id}, self._now_ms(), tail=f"/{record.offset}"))

    def _rejected(self, topic: str, record: ConsumerRecord, rejected: Rejected) -> None:
        """An invalid record of a topic that every worker follows: the worker that owns its key's partition reports it."""
        if not self.engine.processors or not self._here(key_text(record.key, record.headers)):
            return
        self._context.metrics.dead_letters.labels(rejected.stage).inc()
        source_record = SourceRecord(
            topic, record.partition, record.offset, record.key, record.value, tuple(record.headers), record.timestamp
        )
        for output in self._context.recorder.dead_letter(
            source_record, rejected.stage, rejected.reason, self._now_ms()
        ):
            self._sink.emit(output)

    def _here(self, agent_id: str) -> bool:
        """Whether the agent's owner partition is this worker's."""
        return owner_partition(agent_id, self._partition_count()) in self.engine.processors

    def _partition_count(self) -> int:
        return self.engine.partition_count or self._partitions
