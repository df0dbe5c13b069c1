"""A worker in the simulated world: the product's engine, handlers, tables and guards over simulated consumers and agents.

THE file that knows how the product is put together (its models: the `role.py` of each feature). In: a node, with its loop, clock
and network. Out: engines that run on the node's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord
from prometheus_client import CollectorRegistry

from agents_io.protocols.transports import Transports
from schemas.messages import AgentRegistration
from schemas.partitioning import owner_partition
from schemas.topics import INTAKE, PLAN_INTAKE, SCHEDULE_INTAKE, full_name
from streams.agents.agent_statuses import AgentStatuses
from streams.agents.control_table import ControlTable
from streams.agents.table import AgentTable
from streams.dispatch.agent_monitor import AgentMonitor
from streams.dispatch.balancer import Balancer
from streams.dispatch.callers import CallerFactory
from streams.dispatch.context import DispatchContext
from streams.dispatch.handler import DispatchHandler, handlers_of
from streams.dispatch.held_memory import HeldMemory
from streams.engine.config import EngineConfig
from streams.engine.engine import Engine
from streams.engine.follower import Follower
from streams.engine.log_check import LogCheck
from streams.engine.partition_processor import PartitionProcessor
from streams.engine.shared_transactions import SharedTransactions
from streams.engine.watchdog import Watchdog
from streams.metrics import DispatchMetrics, PlanMetrics, ScheduleMetrics
from streams.plans.handler import PlanHandler
from streams.plans.memory import anything_under_way
from streams.plans.parts import PlanParts
from streams.rules.dispatch import state_rows
from streams.rules.dispatch.records import DispatchRecorder
from streams.rules.plans import state_rows as plan_state_rows
from streams.rules.plans.records import STATE, PlanRecorder
from streams.rules.schedules import state_rows as schedule_state_rows
from streams.rules.schedules.records import STATE as SCHEDULE_STATE
from streams.rules.schedules.records import ScheduleRecorder
from streams.schedules.handler import ScheduleHandler
from streams.schedules.parts import ScheduleParts
from tests.simulation.committer import SimCommitter, SimTransactor
from tests.simulation.consumer import SimConsumer, SimScheduleReader, SimStateReader, read_again
from tests.simulation.deployments import builtins_of, templates_of
from tests.simulation.transport import SimTransport

if TYPE_CHECKING:
    from tests.simulation.node import Node

PROTOCOLS = ("http", "task:http", "task:function", "task:pattern")
STALL_S, LOG_CHECK_S = 30.0, 5.0


class _Agents(AgentTable):
    """The table of agents, followed over the simulated broker."""

    def __init__(self, node: Node) -> None:
        super().__init__({}, node.prefix)
        self._follower = _follower(node, "agents", self._apply)


class _Controls(ControlTable):
    """The table of controls, followed over the simulated broker."""

    def __init__(self, node: Node, **listeners: Any) -> None:
        super().__init__(options={}, prefix=node.prefix, **listeners)
        self._follower = _follower(node, "controls", self._apply)


def _follower(node: Node, topic: str, apply: Callable[[ConsumerRecord], None]) -> Follower:
    """A follower over the simulated broker. The tables above make their own, which take no other consumer: it is replaced."""
    return Follower({"node": node}, full_name(topic, node.prefix), apply, make_consumer=SimConsumer)


async def _connect(config: EngineConfig) -> Any:
    rebalance_s = config.session_timeout_s + 2 * config.drain_timeout_s + 5
    return SimConsumer(
        **config.options,
        group_id=config.group,
        instance_id=config.instance_id,
        session_s=config.session_timeout_s,
        rebalance_s=rebalance_s,
        assignor=config.assignor,
    )


class Worker:
    """What runs on a node: the three roles, as their `role.py` assembles them. `engines`: by role, once started."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.engines: dict[str, Engine[Any]] = {}

    async def run(self) -> None:
        """Start everything; the engines go on by themselves."""
        self.agents = _Agents(self.node)
        await self._patiently(self.agents.start)
        await self._patiently(lambda: self._dispatch(CollectorRegistry()))
        await self._patiently(lambda: self._plans(CollectorRegistry()))
        if self.node.shared.schedules:
            await self._patiently(lambda: self._schedules(CollectorRegistry()))
        for role, engine in self.engines.items():
            self.node.spawn(self._watch(role, engine))
            self.node.spawn(Watchdog(engine, STALL_S).run())
            self.node.spawn(LogCheck(engine, LOG_CHECK_S, self._read_again).run())

    async def _patiently(self, start: Callable[[], Any]) -> None:
        """A worker that cannot start is started again by its supervisor."""
        while True:
            try:
                await start()
            except (KafkaError, TimeoutError):
                await asyncio.sleep(1.0)
            else:
                return

    async def _watch(self, role: str, engine: Engine) -> None:
        try:
            await engine.failed()
        except Exception as error:
            if self.node.instance is not None and self.node.instance in str(error):
                self.node.world.note("ousted", self.node.name)
                self.node.world.at(0.0, self.node.oust)
                return
            self.node.world.errors.append(
                f"{self.node.world.now:.3f} the engine {role} of {self.node.name} gave up: {error!r}"
            )

    # The roles

    async def _dispatch(self, registry: CollectorRegistry) -> None:
        settings = self.node.settings
        group = f"{self.node.app}-dispatch"
        agent_statuses = AgentStatuses()
        controls = _Controls(self.node, on_cancel=self._cancel_task, on_clear=self._clear)
        transports = Transports(dict.fromkeys(PROTOCOLS, SimTransport(self.node)))
        context = DispatchContext(
            settings=settings,
            agents=self.agents,
            callers=CallerFactory(
                settings=settings, transport=transports, rng=self.node.rng, may_begin=lambda: engine.is_current()
            ),
            memory=HeldMemory(settings.dispatch.max_held_bytes, settings.dispatch.max_in_flight),
            recorder=DispatchRecorder(app_id=self.node.app, processor="dispatch", prefix=self.node.prefix, group=group),
            emit=self.node.emit,
            metrics=DispatchMetrics(registry),
            wall_ms=self.node.wall_ms,
            cancelled=controls.cancelled,
            partition_count=lambda: self._partition_count(engine),
            builtin=builtins_of(settings).agent,
            cleared=controls.cleared,
            balancer=Balancer(
                agents=self.agents, agent_statuses=agent_statuses, settings=settings, wall_ms=self.node.wall_ms
            ),
            circuit_changed=lambda agent_id, caller: fleet.publisher.publish(agent_id, caller),
            templates=templates_of(settings),
            read_again=self._read_again,
        )
        engine = self._engine(
            "dispatch", INTAKE, "state",
            lambda processor, kept: DispatchHandler(processor, context, kept), before_open=self.agents.catch_up,
            outlasting=DispatchHandler.outlasting,
            belongs=partial(state_rows.belongs, self.node.app),
        )  # fmt: skip
        fleet = AgentMonitor(
            parts=context, agent_statuses=agent_statuses, transport=transports, engine=engine, rng=self.node.rng
        )
        await _follower(self.node, "standings", agent_statuses.apply).start()
        await controls.start()
        await engine.start()
        self.engines["dispatch"] = engine

        def agent_changed(agent_id: str, agent: AgentRegistration | None, record: ConsumerRecord) -> None:
            fleet.agent_changed(agent_id, agent)
            number = owner_partition(agent_id, self._partition_count(engine))
            for processor in engine.opened:
                if processor.number == number and isinstance(processor.handler, DispatchHandler):
                    processor.handler.agent_changed(agent_id, agent)

        self.agents.on_change(agent_changed)
        fleet.start()

    async def _plans(self, registry: CollectorRegistry) -> None:
        settings = self.node.settings
        group = f"{self.node.app}-plans"
        controls = _Controls(self.node, on_cancel=self._cancel_step, on_plan=self._cancel_plan)
        parts = PlanParts(
            settings=settings,
            recorder=PlanRecorder(self.node.app, self.node.prefix, group),
            emit=self.node.emit,
            metrics=PlanMetrics(registry),
            wall_ms=self.node.wall_ms,
            cancelled=controls.plan_cancelled,
            task_cancelled=controls.cancelled,
            partition_count=lambda: self._partition_count(engine),
            templates=templates_of(settings),
            max_task_bytes=1 << 20,
            max_plan_bytes=1 << 20,
        )
        engine = self._engine(
            "plans", PLAN_INTAKE, STATE, lambda processor, kept: PlanHandler(processor, parts, kept),
            from_end=lambda kept: () if anything_under_way(kept, self.node.app) else ("results",),
            belongs=partial(plan_state_rows.belongs, self.node.app),
        )  # fmt: skip
        await controls.start()
        await engine.start()
        self.engines["plans"] = engine

    async def _schedules(self, registry: CollectorRegistry) -> None:
        group = f"{self.node.app}-schedules"
        controls = _Controls(self.node, on_cancel=self._cancel_scheduled)
        topic = full_name(SCHEDULE_STATE, self.node.prefix)
        reader = SimScheduleReader({"node": self.node}, self.node.prefix, SimStateReader({"node": self.node}, topic))
        parts = ScheduleParts(
            recorder=ScheduleRecorder(self.node.app, self.node.prefix, group),
            metrics=ScheduleMetrics(registry),
            wall_ms=self.node.wall_ms,
            cancelled=controls.cancelled,
            cancel_requests=controls.task_ids,
            partition_count=lambda: self._partition_count(engine),
            max_task_bytes=1 << 20,
            read_again=self._read_again,
        )
        engine = self._engine(
            "schedules", SCHEDULE_INTAKE, SCHEDULE_STATE,
            lambda processor, kept: ScheduleHandler(
                partition=processor, parts=parts, lying=reader.take(processor.number), kept=kept
            ),
            make_reader=lambda _options, _topic: reader,
            belongs=partial(schedule_state_rows.belongs, self.node.app),
        )  # fmt: skip
        await controls.start()
        await engine.start()
        self.engines["schedules"] = engine

    def _engine(
        self,
        role: str,
        sources: Any,
        state: str,
        make_handler: Any,
        before_open: Any = None,
        make_reader: Any = SimStateReader,
        outlasting: Any = lambda handler: [],
        **more: Any,
    ) -> Engine:
        settings = self.node.settings.model_copy(update={"instance_id": self.node.instance})
        group = f"{self.node.app}-{role}"
        config = EngineConfig.of(
            settings,
            {"node": self.node},
            group=group,
            sources=sources,
            state=state,
            exact_ends=True,
            **more,
        )
        transactor = SimTransactor(
            self.node,
            group,
            full_name(state, self.node.prefix),
            self.node.shared.repeats_in_place,
            self.node.shared.durability[role],
        )
        transactions = SharedTransactions(
            transactor, settings.dispatch.commit_interval_max / 1000, lambda: engine.is_current()
        )
        engine = Engine(
            config=config,
            make_committer=lambda number, consumer: SimCommitter(transactions, number, consumer, transactor),
            make_handler=make_handler,
            before_open=before_open,
            connect=_connect,
            make_reader=make_reader,
            wall_ms=self.node.wall_ms,
            outlasting=outlasting,
        )
        return engine

    async def _read_again(self, source: str, number: int, offsets: Sequence[int]) -> dict[int, ConsumerRecord]:
        """The records of these offsets, read committed, as the worker's reader finds them."""
        return await read_again(self.node, full_name(source, self.node.prefix), number, offsets)

    def _partition_count(self, engine: Engine) -> int:
        """As the engine's group has it; before it was joined, as the worker found it at its start."""
        return engine.partition_count or self.node.metadata[full_name("tasks", self.node.prefix)]

    # The partitions that are open here

    def processors(self, role: str) -> Iterator[PartitionProcessor]:
        """The open partitions of a role."""
        if role in self.engines:
            yield from list(self.engines[role].processors.values())

    def _opened(self, role: str) -> list[PartitionProcessor]:
        return self.engines[role].opened if role in self.engines else []

    def dispatchers(self) -> Iterator[DispatchHandler]:
        """Handlers of dispatch."""
        return handlers_of(self._opened("dispatch"))

    def planners(self) -> Iterator[PlanHandler]:
        """Handlers of plans."""
        for processor in self._opened("plans"):
            if isinstance(processor.handler, PlanHandler):
                yield processor.handler

    def schedulers(self) -> Iterator[ScheduleHandler]:
        """Handlers of scheduled tasks."""
        if "schedules" in self.engines:
            yield from self.engines["schedules"].handlers()

    # Control requests

    def _cancel_task(self, task_id: str) -> None:
        for handler in self.dispatchers():
            handler.cancel(task_id)

    def _clear(self, agent_id: str | None) -> None:
        for handler in self.dispatchers():
            handler.clear_cache(agent_id)

    def _cancel_scheduled(self, task_id: str) -> None:
        for handler in self.schedulers():
            handler.cancel(task_id)

    def _cancel_step(self, task_id: str) -> None:
        for handler in self.planners():
            handler.cancel_task(task_id)

    def _cancel_plan(self, plan_id: str) -> None:
        for handler in self.planners():
            handler.cancel(plan_id)
