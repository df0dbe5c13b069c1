"""A worker: `run(settings)` puts the pieces together, station by station, and takes them apart again.

    brokers reached -> topics checked -> web page up -> agents known -> dispatch joins its group -> statistics recover -> ready

Nothing here decides about a task. Whatever keeps a worker from running is one `WorkerError`: one line and an exit code.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord
from prometheus_client import CollectorRegistry

from agents_io.aiohttp_seam import AiohttpTransport
from agents_io.functions import FunctionsError
from agents_io.grpc_transport import GrpcTransport
from agents_io.http_transport import HttpTransport
from agents_io.tls import CONTEXTS, TlsFiles
from agents_io.transports import Transports
from schemas.codec import header
from schemas.messages import AgentRegistration, EventType
from schemas.partitioning import home_partition
from schemas.topics import INTAKE, full_name
from streams.agent_table import AgentTable
from streams.agent_transports import over_http
from streams.balancer import Balancer
from streams.block_watch import BlockWatch
from streams.callers import CallerFactory
from streams.control_table import ControlTable
from streams.engine.batcher import Batcher
from streams.engine.commit import Committer, PlainCommitter, TransactionalCommitter
from streams.engine.engine import Engine, EngineConfig
from streams.engine.watchdog import Watchdog
from streams.event_sink import EventSink
from streams.fleet import Fleet
from streams.follower import Follower
from streams.gateway_station import GatewayStation
from streams.grpc_server import GrpcServer
from streams.kafka import (
    BrokerUnreachable,
    TransactionsDenied,
    client_options,
    reach,
    supports_transactions,
)
from streams.kafka_noise import quiet_logs
from streams.lease_keeper import LeaseKeeper
from streams.metrics import DispatchMetrics
from streams.parts import Parts
from streams.processors.dispatch import DispatchHandler
from streams.registration_writer import RegistrationWriter
from streams.registry import Registry
from streams.rules.gateway_claim import OWN_HEADER
from streams.rules.records import Recorder
from streams.settings import Settings
from streams.standings import Standings
from streams.stats_keeper import StatsKeeper
from streams.task_kinds import task_kinds
from streams.topics_admin import TopicsError, TopicsMissing, check, size_limits
from streams.web import PortTaken, WebServer

log = structlog.get_logger(__name__)

REACH_TIMEOUT_S = 8.0
AT_LEAST_ONCE = "this broker has no transactions: results are delivered at least once, not exactly once"


class WorkerError(Exception):
    """Why a worker cannot run, in one line. `exit_code`: 1, or 3 when no broker can be reached."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class WorkerAddresses:
    """Where a ready worker can be found, and what it promises."""

    bootstrap_servers: str
    web: str
    grpc: str | None
    """Registry and agent gateway; of a worker that dispatches."""
    roles: tuple[str, ...]
    delivery: str


async def run(settings: Settings, *, on_ready: Callable[[WorkerAddresses], None], stop: asyncio.Event) -> None:
    """Run until `stop` is set, then drain. Raises `WorkerError`."""
    quiet_logs()
    try:
        async with _stations(settings) as station:
            failure = asyncio.create_task(_failed(station))
            stopped = asyncio.create_task(stop.wait())
            ready = asyncio.create_task(_ready(station))
            try:
                await asyncio.wait((ready, failure, stopped), return_when=asyncio.FIRST_COMPLETED)
                if ready.done() and ready.exception() is None:
                    _settle_memory()
                    on_ready(station.addresses)
                    await asyncio.wait((failure, stopped), return_when=asyncio.FIRST_COMPLETED)
                if failure.done():
                    await failure
                if ready.done():
                    await ready
            finally:
                for task in (failure, stopped, ready):
                    task.cancel()
    except BrokerUnreachable as error:
        raise WorkerError(str(error), exit_code=3) from error
    except (TopicsMissing, TopicsError, TransactionsDenied, PortTaken, FunctionsError) as error:
        raise WorkerError(str(error)) from error
    except (KafkaError, TimeoutError) as error:
        raise WorkerError(f"{settings.bootstrap_servers}: {error!r}", exit_code=3) from error


@dataclass(slots=True)
class _Station:
    """The pieces that run."""

    addresses: WorkerAddresses
    engine: Engine | None
    stats: StatsKeeper | None


@asynccontextmanager
async def _stations(settings: Settings) -> AsyncIterator[_Station]:
    await reach(settings, REACH_TIMEOUT_S)
    partitions = await check(settings)
    registry = CollectorRegistry()
    async with AsyncExitStack() as stack:
        web = WebServer(settings, registry)
        await web.start()
        stack.push_async_callback(web.stop)
        delivery = await _delivery(settings)
        grpc_server = GrpcServer(settings)
        engine = stats = None
        if "dispatch" in settings.roles:
            engine = await _dispatch(settings, registry, delivery, partitions, web, grpc_server, stack)
        if "stats" in settings.roles:
            stats = StatsKeeper(settings, idempotent=delivery == "exactly-once")
            stack.push_async_callback(stats.stop)
            await stats.start()
            web.stats = stats
        addresses = WorkerAddresses(
            settings.bootstrap_servers, web.url, grpc_server.address or None, settings.roles, delivery
        )
        yield _Station(addresses, engine, stats)


def _settle_memory() -> None:
    """What was loaded stays: the collector need not look at it again, nor as often (a task makes no cycles of its own)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


async def _delivery(settings: Settings) -> str:
    wanted = settings.dispatch.delivery
    if wanted == "at-least-once":
        return wanted
    able = await supports_transactions(settings)
    if wanted == "exactly-once" and not able:
        raise WorkerError("dispatch.delivery is exactly-once, but the broker has no transactions")
    if not able:
        log.warning(AT_LEAST_ONCE)
    return "exactly-once" if able else "at-least-once"


async def _dispatch(
    settings: Settings,
    registry: CollectorRegistry,
    delivery: str,
    partitions: int,
    web: WebServer,
    grpc_server: GrpcServer,
    stack: AsyncExitStack,
) -> Engine:
    options = client_options(settings)
    group = f"{settings.app_id}-dispatch"
    transactional = delivery == "exactly-once"
    agents = AgentTable(options, settings.topic_prefix)
    stack.push_async_callback(agents.stop)
    await agents.start()
    sink = EventSink(options, settings.topic_prefix, idempotent=transactional)
    stack.push_async_callback(sink.stop)
    await sink.start()
    kinds = task_kinds(settings)
    tls = TlsFiles(settings.tls.ca_file, settings.tls.cert_file, settings.tls.key_file)
    gateway = GatewayStation(
        settings, agents, sink, lambda agent_id: home_partition(agent_id, partition_count()) in engine.homes
    )
    stack.push_async_callback(grpc_server.stop)
    stack.push_async_callback(gateway.stop)
    for handler in gateway.handlers():
        grpc_server.add(handler)
    transport = Transports(
        {
            "http": HttpTransport(
                AiohttpTransport(settings.dispatch.max_in_flight, tls=lambda: CONTEXTS.get(tls)),
                max_answer_bytes=settings.dispatch.max_answer_bytes,
            ),
            "grpc": GrpcTransport(max_answer_bytes=settings.dispatch.max_answer_bytes),
            **over_http(settings),
            **kinds.transports,
            "gateway": gateway.transport,
        }
    )
    stack.push_async_callback(transport.close)
    controls = ControlTable(
        options, settings.topic_prefix, lambda task_id: cancel(task_id), lambda agent_id: clear(agent_id)
    )
    stack.push_async_callback(controls.stop)
    batcher = Batcher(settings.topic_prefix, await size_limits(settings))

    def committer(number: int, consumer: AIOKafkaConsumer) -> Committer:
        if transactional:
            return TransactionalCommitter(options, f"{group}-{number}", group, batcher)
        return PlainCommitter(sink.producer, consumer, batcher)

    standings = Standings()
    follower = Follower(options, full_name("standings", settings.topic_prefix), standings.apply)
    stack.push_async_callback(follower.stop)
    await follower.start()

    def cancel(task_id: str) -> None:
        for home in list(engine.homes.values()):
            if isinstance(home.handler, DispatchHandler):
                home.handler.cancel(task_id)

    def clear(agent_id: str | None) -> None:
        for home in list(engine.homes.values()):
            if isinstance(home.handler, DispatchHandler):
                home.handler.clear_cache(agent_id)

    def agent_changed(agent_id: str, agent: AgentRegistration | None, record: ConsumerRecord) -> None:
        fleet.agent_changed(agent_id, agent)
        home = engine.homes.get(home_partition(agent_id, partition_count()))
        if home is not None and isinstance(home.handler, DispatchHandler):
            home.handler.agent_changed(agent_id, agent)
            if agent is not None and header(record.headers, OWN_HEADER) == "status":
                return  # it was known, and is elsewhere or otherwise now
            kind: EventType = "agent:registered" if agent is not None else "agent:unregistered"
            sink.emit(
                parts.recorder.event(kind, agent_id, {"agentId": agent_id}, parts.wall_ms(), tail=f"/{record.offset}")
            )

    def partition_count() -> int:
        return (
            len(engine.consumer.partitions_for_topic(full_name("dispatch", settings.topic_prefix)) or ()) or partitions
        )

    def wall_ms() -> int:
        return time.time_ns() // 1_000_000

    parts = Parts(
        settings=settings,
        agents=agents,
        callers=CallerFactory(settings, transport, random.Random()),
        recorder=Recorder(settings.app_id, "dispatch", settings.topic_prefix, group),
        emit=sink.emit,
        metrics=DispatchMetrics(registry),
        wall_ms=wall_ms,
        cancelled=controls.cancelled,
        partition_count=partition_count,
        builtin=kinds.builtins.agent,
        cleared=controls.cleared,
        balancer=Balancer(agents, standings, settings, wall_ms),
        turned=lambda agent_id, caller: fleet.keeper.tell(agent_id, caller),
    )
    engine = Engine(
        EngineConfig(
            options=options,
            prefix=settings.topic_prefix,
            group=group,
            sources=INTAKE,
            instance_id=settings.instance_id,
            session_timeout_s=settings.session_timeout / 1000,
            max_in_flight=settings.dispatch.max_in_flight,
            drain_timeout_s=settings.dispatch.drain_timeout / 1000,
            stop_timeout_s=settings.dispatch.stop_timeout / 1000,
            commit_interval_max_s=settings.dispatch.commit_interval_max / 1000,
            state="state",
            exact_ends=transactional,
        ),
        committer,
        lambda home, kept: DispatchHandler(home, parts, kept),
        on_assigned=batcher.forget_partition_counts,
    )
    fleet = Fleet(parts, standings, transport, engine)
    stack.push_async_callback(engine.stop)
    await controls.start()
    await engine.start()
    agents.on_change(agent_changed)
    stack.callback(fleet.start())
    watch = BlockWatch(
        lambda: list(engine.homes.values()),
        parts.recorder,
        sink.emit,
        parts.wall_ms,
        settings.topic_prefix,
        settings.dispatch.blocked_after / 1000,
    )
    watching = asyncio.create_task(watch.run(), name="block-watch")
    stack.callback(watching.cancel)
    watchdog = asyncio.create_task(Watchdog(engine, settings.dispatch.stall_after / 1000).run(), name="watchdog")
    stack.push_async_callback(_ended, watchdog)
    writer = RegistrationWriter(sink, agents, parts)
    grpc_server.add(Registry(agents, writer, parts.wall_ms).handler())
    keeper = LeaseKeeper(
        agents, writer, transport, lambda agent: home_partition(agent, partition_count()) in engine.homes, parts.wall_ms
    )
    stack.push_async_callback(_ended, asyncio.create_task(keeper.run(), name="lease-keeper"))
    await grpc_server.start()
    gateway.start(grpc_server.address)
    web.engine = engine
    web.agents = agents
    web.standings = standings
    return engine


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task], timeout=REACH_TIMEOUT_S)


async def _ready(station: _Station) -> None:
    """Until every role is up."""
    if station.engine is not None:
        await station.engine.wait_ready()
    if station.stats is not None:
        await station.stats.wait_ready()


async def _failed(station: _Station) -> None:
    """Raises what dispatch could not mend by itself. Statistics are started again by their keeper."""
    if station.engine is None:
        await asyncio.Event().wait()
        return
    try:
        await station.engine.failed()
    except Exception as error:
        raise WorkerError(f"dispatch failed: {error!r}") from error
