"""A worker in the simulated world: the product's engine, handlers, tables and guards over simulated consumers and agents.

THE file that knows how the product is put together (its models: the `role.py` of each feature), and what
must be empty when there is nothing to do. In: a world, a broker, settings. Out: a node that can be frozen, stopped and killed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord
from prometheus_client import CollectorRegistry

from agents_io.errors import AgentError, CallTimeout
from agents_io.protocols.transports import Transports
from agents_io.rules.targets import AllowList
from agents_io.transport import Answer, Call
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
from streams.rules.dispatch.builtins import Builtins
from streams.rules.dispatch.records import DispatchRecorder
from streams.rules.plans import state_rows as plan_state_rows
from streams.rules.plans.records import STATE, PlanRecorder
from streams.rules.records import Output
from streams.rules.schedules import state_rows as schedule_state_rows
from streams.rules.schedules.records import STATE as SCHEDULE_STATE
from streams.rules.schedules.records import ScheduleRecorder
from streams.schedules.handler import ScheduleHandler
from streams.schedules.parts import ScheduleParts
from streams.settings import Settings
from tests.simulation.agents import Arrival, SimAgent, task_of
from tests.simulation.broker import Broker
from tests.simulation.committer import SimCommitter, SimTransactor, log_of
from tests.simulation.consumer import SimConsumer, SimScheduleReader, SimStateReader, read_again
from tests.simulation.durability import Durability
from tests.simulation.loop import NodeLoop
from tests.simulation.network import Network
from tests.simulation.world import World

STALL_S, LOG_CHECK_S = 30.0, 5.0


@dataclass(slots=True)
class Surroundings:
    """What all nodes of a world share."""

    world: World
    network: Network
    broker: Broker
    settings: Settings
    agents: dict[str, SimAgent]
    repeats_in_place: bool = False
    """Whether transactional requests whose answer is not known are repeated in the same epoch, as aiokafka does by itself."""
    restart: Callable[[str | None], object] = lambda instance: None
    """Starts a worker of that static name."""
    nodes: dict[str, Node] = field(default_factory=dict)
    durability: dict[str, Durability] = field(
        default_factory=lambda: {role: Durability() for role in ("dispatch", "plans", "schedules")}
    )
    schedules: bool = False
    """Whether the workers have the role `schedules`."""
    buried: list[Node] = field(default_factory=list)
    """Dead nodes, kept: what the garbage collector would run of them belongs to nobody."""
    strays: list[tuple[float, str, str, str]] = field(default_factory=list)
    """Calls by a node while another owned the agent's partition: when, node, agent, owner."""
    pauses: list[tuple[float, str, str, float]] = field(default_factory=list)
    """Pauses an agent asked for, as the worker heard of them: when, node, agent, seconds."""
    opened: list[tuple[float, str, str]] = field(default_factory=list)
    """Circuits that opened: when, node, agent."""
    served: set[str] = field(default_factory=set)
    """Tasks that were answered without a call of their own, committed or not."""


class SimTransport:
    """Calls simulated agents."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def check_health(self, agent: AgentRegistration, timeout_s: float) -> None:
        """Every agent says that it is well."""

    async def close(self) -> None:
        """Nothing is open."""

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """One attempt. Raises `AgentError`."""
        node, world = self._node, self._node.world
        called = node.shared.agents[agent.id]
        future: asyncio.Future[Answer | AgentError] = node.loop.create_future()
        arrival = Arrival(0.0, world.now, node.name, task_of(call), call.idempotency_key, call.timeout_s)
        node.check_owner(agent.id)
        node.open_calls[id(arrival)] = called, arrival

        def reply(outcome: Answer | AgentError) -> None:
            world.at(node.network.latency(), lambda: node.deliver(future, outcome))

        world.at(0.0005 + 0.002 * node.rng.random(), lambda: called.take(arrival, call, reply))
        try:
            async with asyncio.timeout(max(0.001, call.timeout_s)):
                outcome = await future
        except TimeoutError:
            raise CallTimeout("no answer in time") from None
        finally:
            node.open_calls.pop(id(arrival), None)
            if not future.done() or future.cancelled():
                called.hung_up(arrival)
        if isinstance(outcome, AgentError):
            if outcome.retry_after_s is not None:
                node.shared.pauses.append((world.now, node.name, agent.id, outcome.retry_after_s))
            raise outcome
        return outcome


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


class Node:
    """One worker. `skew_ms`: how far its wall clock is ahead of the true one. `instance`: its static name, if it has one."""

    def __init__(self, shared: Surroundings, name: str, skew_ms: int = 0, instance: str | None = None) -> None:
        self.shared, self.name, self.instance = shared, name, instance
        self.world, self.network, self.broker = shared.world, shared.network, shared.broker
        self.prefix = shared.settings.topic_prefix
        self.app = shared.settings.app_id
        self.rng = self.world.rng(name)
        self.frozen_until = 0.0
        self.alive = True
        self.stopping = self.stopped = False
        self.metadata = dict(self.broker.counts)
        self.partition_counts = dict(self.broker.counts)
        self.open_calls: dict[int, tuple[SimAgent, Arrival]] = {}
        self.engines: dict[str, Engine] = {}
        self._skew_ms = skew_ms
        self._emitted_at = 0.0
        self._tasks: list[asyncio.Task[Any]] = []
        self.loop = NodeLoop(lambda: self.world.now, 500.0 + 1000 * self.rng.random(), self._complain)
        self.due, self.step = self.loop.due, self.loop.step
        self.loop.call_soon(lambda: self._spawn(self._main()))
        shared.nodes[name] = self.world.stepped[name] = self

    # What the world does to it

    def freeze(self, seconds: float) -> None:
        """Stop it, as SIGSTOP does; its clocks go on."""
        self.frozen_until = self.world.now + seconds

    def kill(self) -> None:
        """End it at once; its connections are closed by its operating system."""
        self.alive = False
        if not self.stopped:
            for durability in self.shared.durability.values():
                durability.killed(self.name, self.world.now)
        del self.shared.nodes[self.name], self.world.stepped[self.name]
        self.shared.buried.append(self)
        for task in asyncio.all_tasks(self.loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        for agent, arrival in self.open_calls.values():
            agent.hung_up(arrival)

    def stop(self) -> None:
        """End it as SIGTERM does: it drains, commits and leaves, and is gone then."""
        if not self.stopping:
            self.stopping = True
            self.loop.call_soon(lambda: self._spawn(self._leave()))

    async def _leave(self) -> None:
        await asyncio.gather(*(engine.stop() for engine in self.engines.values()))
        self.stopped = True
        self.world.at(0.0, self._end)

    def _end(self) -> None:
        if self.alive:
            self.kill()

    def _ousted(self) -> None:
        """Another has its static name: the process ends. Its supervisor starts one where none of that name is left."""
        self._end()
        if all(node.instance != self.instance for node in self.shared.nodes.values()):
            self.shared.restart(self.instance)

    def deliver(self, future: asyncio.Future[Any], outcome: Any) -> None:
        """Resolve a future on this node's loop."""
        if self.alive:
            self.loop.call_soon(_resolve, future, outcome)

    def _complain(self, context: dict[str, Any]) -> None:
        self.world.errors.append(
            f"{self.world.now:.3f} {self.name}: {context.get('message')} {context.get('exception')!r}"
        )

    def _spawn(self, work: Any) -> None:
        task = self.loop.create_task(work)
        self._tasks.append(task)
        task.add_done_callback(self._report)

    def _report(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.world.errors.append(f"{self.world.now:.3f} {self.name}: {error!r} in {task.get_coro()}")

    # What the product is given

    def wall_ms(self) -> int:
        """This node's wall clock."""
        return self.world.wall_ms + self._skew_ms

    def emit(self, output: Output) -> None:
        """Write outside of transactions: best effort, in order."""
        log_id = log_of(output, self.prefix, self.metadata)
        if log_id is None:
            return
        if output.topic == "events" and output.value is not None:  # noted as it happens: the event itself may get lost
            if b'"circuit:open"' in output.value:
                self.shared.opened.append((self.world.now, self.name, orjson.loads(output.value)["data"]["agentId"]))
            elif b'"task:cache-hit"' in output.value:
                self.shared.served.add(orjson.loads(output.value)["data"]["taskId"])
        row = output.key, output.value, tuple(output.headers)
        self._emitted_at = max(self._emitted_at, self.world.now + self.network.latency())
        self.world.at(
            self._emitted_at - self.world.now,
            lambda: None if self.network.is_out else self.broker.append(log_id, [row]),
        )

    def _partition_count(self, engine: Engine) -> int:
        """As the engine's group has it; before it was joined, as the worker found it at its start."""
        return engine.partition_count or self.metadata[full_name("tasks", self.prefix)]

    def check_owner(self, agent_id: str) -> None:
        """Note a call that is made while another node owns the agent's partition."""
        group = self.broker.groups.get(f"{self.app}-dispatch")
        tasks = full_name("tasks", self.prefix)
        if group is None or not group.numbers:
            return
        number = owner_partition(agent_id, group.numbers[-1][1])
        owner, since = group.owners.get((tasks, number), ("", 0.0))
        if owner and not owner.startswith(f"{self.name}/") and self.world.now - since > 1.0:
            self.shared.strays.append((self.world.now, self.name, agent_id, owner.split("/")[0]))

    # The worker

    async def _main(self) -> None:
        self.agents = _Agents(self)
        await self._patiently(self.agents.start)
        await self._patiently(lambda: self._dispatch(CollectorRegistry()))
        await self._patiently(lambda: self._plans(CollectorRegistry()))
        if self.shared.schedules:
            await self._patiently(lambda: self._schedules(CollectorRegistry()))
        for role, engine in self.engines.items():
            self._spawn(self._watch(role, engine))
            self._spawn(Watchdog(engine, STALL_S).run())
            self._spawn(LogCheck(engine, LOG_CHECK_S, self._read_again).run())

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
            if self.instance is not None and self.instance in str(error):
                self.world.note("ousted", self.name)
                self.world.at(0.0, self._ousted)
                return
            self.world.errors.append(f"{self.world.now:.3f} the engine {role} of {self.name} gave up: {error!r}")

    async def _dispatch(self, registry: CollectorRegistry) -> None:
        settings = self.shared.settings
        group = f"{self.app}-dispatch"
        agent_statuses = AgentStatuses()
        controls = _Controls(self, on_cancel=self._cancel_task, on_clear=self._clear)
        transports = Transports({"http": SimTransport(self)})
        context = DispatchContext(
            settings=settings,
            agents=self.agents,
            callers=CallerFactory(
                settings=settings, transport=transports, rng=self.rng, may_begin=lambda: engine.is_current()
            ),
            memory=HeldMemory(settings.dispatch.max_held_bytes, settings.dispatch.max_in_flight),
            recorder=DispatchRecorder(app_id=self.app, processor="dispatch", prefix=self.prefix, group=group),
            emit=self.emit,
            metrics=DispatchMetrics(registry),
            wall_ms=self.wall_ms,
            cancelled=controls.cancelled,
            partition_count=lambda: self._partition_count(engine),
            builtin=Builtins(allowed=AllowList([]), functions=(), patterns=False, limits={}).agent,
            cleared=controls.cleared,
            balancer=Balancer(
                agents=self.agents, agent_statuses=agent_statuses, settings=settings, wall_ms=self.wall_ms
            ),
            circuit_changed=lambda agent_id, caller: fleet.keeper.tell(agent_id, caller),
            read_again=self._read_again,
        )
        engine = self._engine(
            "dispatch", INTAKE, "state",
            lambda processor, kept: DispatchHandler(processor, context, kept), before_open=self.agents.catch_up,
            outlasting=DispatchHandler.outlasting,
            belongs=partial(state_rows.belongs, self.app),
        )  # fmt: skip
        fleet = AgentMonitor(
            parts=context, agent_statuses=agent_statuses, transport=transports, engine=engine, rng=self.rng
        )
        await _follower(self, "standings", agent_statuses.apply).start()
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

    async def _read_again(self, source: str, number: int, offsets: Sequence[int]) -> dict[int, ConsumerRecord]:
        """The records of these offsets, read committed, as the worker's reader finds them."""
        return await read_again(self, full_name(source, self.prefix), number, offsets)

    async def _plans(self, registry: CollectorRegistry) -> None:
        settings = self.shared.settings
        group = f"{self.app}-plans"
        controls = _Controls(self, on_cancel=self._cancel_step, on_plan=self._cancel_plan)
        parts = PlanParts(
            settings=settings,
            recorder=PlanRecorder(self.app, self.prefix, group),
            emit=self.emit,
            metrics=PlanMetrics(registry),
            wall_ms=self.wall_ms,
            cancelled=controls.plan_cancelled,
            task_cancelled=controls.cancelled,
            partition_count=lambda: self._partition_count(engine),
            templates={},
            max_plan_bytes=1 << 20,
        )
        engine = self._engine(
            "plans", PLAN_INTAKE, STATE, lambda processor, kept: PlanHandler(processor, parts, kept),
            from_end=lambda kept: () if anything_under_way(kept, self.app) else ("results",),
            belongs=partial(plan_state_rows.belongs, self.app),
        )  # fmt: skip
        await controls.start()
        await engine.start()
        self.engines["plans"] = engine

    async def _schedules(self, registry: CollectorRegistry) -> None:
        group = f"{self.app}-schedules"
        controls = _Controls(self, on_cancel=self._cancel_scheduled)
        topic = full_name(SCHEDULE_STATE, self.prefix)
        reader = SimScheduleReader({"node": self}, self.prefix, SimStateReader({"node": self}, topic))
        parts = ScheduleParts(
            recorder=ScheduleRecorder(self.app, self.prefix, group),
            metrics=ScheduleMetrics(registry),
            wall_ms=self.wall_ms,
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
            belongs=partial(schedule_state_rows.belongs, self.app),
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
        settings = self.shared.settings.model_copy(update={"instance_id": self.instance})
        group = f"{self.app}-{role}"
        config = EngineConfig.of(
            settings,
            {"node": self},
            group=group,
            sources=sources,
            state=state,
            exact_ends=True,
            **more,
        )
        transactor = SimTransactor(
            self, group, full_name(state, self.prefix), self.shared.repeats_in_place, self.shared.durability[role]
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
            wall_ms=self.wall_ms,
            outlasting=outlasting,
        )
        return engine

    def processors(self, role: str) -> Iterator[PartitionProcessor]:
        """The open partitions of a role."""
        if role in self.engines:
            yield from list(self.engines[role].processors.values())

    def _opened(self, role: str) -> list[PartitionProcessor]:
        return self.engines[role].opened if role in self.engines else []

    def _dispatchers(self) -> Iterator[DispatchHandler]:
        return handlers_of(self._opened("dispatch"))

    def _planners(self) -> Iterator[PlanHandler]:
        for processor in self._opened("plans"):
            if isinstance(processor.handler, PlanHandler):
                yield processor.handler

    def _cancel_task(self, task_id: str) -> None:
        for handler in self._dispatchers():
            handler.cancel(task_id)

    def _clear(self, agent_id: str | None) -> None:
        for handler in self._dispatchers():
            handler.clear_cache(agent_id)

    def _cancel_scheduled(self, task_id: str) -> None:
        for handler in self._schedulers():
            handler.cancel(task_id)

    def _schedulers(self) -> Iterator[ScheduleHandler]:
        if "schedules" in self.engines:
            yield from self.engines["schedules"].handlers()

    def _cancel_step(self, task_id: str) -> None:
        for handler in self._planners():
            handler.cancel_task(task_id)

    def _cancel_plan(self, plan_id: str) -> None:
        for handler in self._planners():
            handler.cancel(plan_id)

    # What must be empty when there is nothing to do

    def leftovers(self) -> Iterator[str]:
        """What this node still holds, a line each."""
        for role, engine in self.engines.items():
            for number, processor in engine.processors.items():
                for source, ledger in processor.ledgers.items():
                    end = self.broker.logs[full_name(source, self.prefix), number].end
                    if ledger.in_flight or ledger.head != end:
                        yield f"ledger {role} {source}/{number}: {ledger.in_flight} in flight, at {ledger.head} of {end}"
        for handler in self._dispatchers():
            yield from (f"{what} in dispatch: {count}" for what, count in _held(handler).items() if count)
        for scheduler in self._schedulers():
            if scheduler._waiting or scheduler._due or scheduler._to_check:
                yield f"scheduled tasks: {len(scheduler._waiting)} wait, {len(scheduler._due)} are being released"
        for planner in self._planners():
            store = planner._store
            if store.active or store.by_key:
                yield f"active plans: {sorted(store.active)}"


def _resolve(future: asyncio.Future[Any], outcome: Any) -> None:
    if not future.done():
        future.set_result(outcome)


def _held(handler: DispatchHandler) -> dict[str, int]:
    tasks, waiting, callers = handler._tasks, handler._waiting, handler.callers.values()
    return {
        "tasks": len(tasks),
        "claims": len(tasks._claims),
        "tasks being relocated": len(tasks._relocating),
        "tasks by id": len(tasks._by_task),
        "flights": len(waiting.flights._flights),
        "tasks waiting for an equal one": len(waiting.flights),
        "tasks left on their topic": len(waiting.backlogs),
        "tasks waiting for an agent": len(waiting.unassigned),
        "ordering keys": len(waiting.ordering),
        "records that keep a turn": len(waiting.ordering._aside) + len(waiting.ordering._returning),
        "tasks waiting for earlier ones": len(waiting.ordering._timers) + len(waiting.ordering._by_name),
        "records to relocate": len(waiting.relocation._to_read),
        "queued tasks": sum(caller.queue.waiting for caller in callers),
        "calls under way": sum(max(caller.queue.in_flight, caller.running) for caller in callers),
    }
