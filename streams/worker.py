"""A worker: `run(settings)` starts its parts, role by role, and stops them again.

    brokers reached -> topics checked -> web page up -> agents known -> dispatch joins its group -> statistics recover -> ready

A worker that other machines could reach without a token does not start. Nothing here decides about a task. Every error
that prevents it from running is one `WorkerError`: one line and an exit code.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from aiokafka.errors import KafkaError
from prometheus_client import CollectorRegistry

from agents_io.protocols.functions.catalogue import FunctionsError
from streams.agents.registration_writer import NotWritten
from streams.agents.template_file import TemplatesError
from streams.broker.access import AccessDenied, require, worker_needs
from streams.broker.kafka import (
    BrokerUnreachable,
    TransactionsDenied,
    reach,
    supports_transactions,
)
from streams.broker.noise import quiet_logs
from streams.broker.topics_admin import MissingTopics, TopicsError, check, size_limits
from streams.dispatch.role import DispatchRole
from streams.engine.engine import Engine
from streams.engine.faults import describe_error, unauthorized
from streams.engine.follower import FollowedTopicMissing
from streams.exposure import Exposed, refuse_exposure
from streams.file_limit import raise_file_limit
from streams.grpc_server import GrpcServer, PortTaken
from streams.grpc_tls import TlsUnusable
from streams.plans.role import PlansRole
from streams.role import EngineRole, Role, RoleParts
from streams.schedules.role import SchedulesRole
from streams.settings import RoleName, Settings
from streams.statistics.child import StatsFailed, StatsProcess
from streams.statistics.metrics import StatsMetrics
from streams.statistics.role import StatsSupervisor
from streams.tokens import TokenUnusable
from streams.tracing.export import TracingError, provider
from streams.web import ROLES, WebServer

log = structlog.get_logger(__name__)

REACH_TIMEOUT_S = 8.0
PLANS_ELSEWHERE = "pattern tasks with a local template wait on the topic plans for a worker with the role plans"
SCHEDULES_ELSEWHERE = "tasks with metadata.notBefore wait for a worker with the role schedules"
AT_LEAST_ONCE = "this broker has no transactions: results are delivered at least once, not exactly once"


class WorkerError(Exception):
    """Why a worker cannot run, in one line. `exit_code`: 1, or 3 if no broker is reachable."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class WorkerAddresses:
    """The addresses of a ready worker, and its delivery guarantee."""

    bootstrap_servers: str
    web: str
    grpc: str | None
    """Registry and agent gateway; only for a worker with the role dispatch."""
    roles: tuple[str, ...]
    delivery: str


async def run(settings: Settings, *, on_ready: Callable[[WorkerAddresses], None], stop: asyncio.Event) -> None:
    """Run until `stop` is set, then drain. Raises `WorkerError`."""
    quiet_logs()
    try:
        refuse_exposure(settings)
        async with _running(settings) as running:
            failure = asyncio.create_task(_failed(running))
            stopped = asyncio.create_task(stop.wait())
            ready = asyncio.create_task(_ready(running))
            try:
                await asyncio.wait((ready, failure, stopped), return_when=asyncio.FIRST_COMPLETED)
                if ready.done() and ready.exception() is None:
                    settle_memory()
                    on_ready(running.addresses)
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
    except StatsFailed as error:
        raise WorkerError(str(error), error.exit_code) from error
    except (
        FollowedTopicMissing,
        MissingTopics,
        TopicsError,
        TransactionsDenied,
        AccessDenied,
        PortTaken,
        TlsUnusable,
        Exposed,
        TokenUnusable,
        FunctionsError,
        TemplatesError,
        TracingError,
    ) as error:
        raise WorkerError(str(error)) from error
    except (KafkaError, TimeoutError, NotWritten) as error:
        raise WorkerError(
            f"{settings.bootstrap_servers}: {describe_error(error)}", exit_code=1 if unauthorized(error) else 3
        ) from error


@dataclass(slots=True)
class _RunningWorker:
    """The running parts."""

    addresses: WorkerAddresses
    roles: dict[RoleName, Role]


@asynccontextmanager
async def _running(settings: Settings) -> AsyncIterator[_RunningWorker]:
    await reach(settings, REACH_TIMEOUT_S)
    await require(settings, worker_needs(settings))
    partitions = await check(settings)
    raise_file_limit()
    registry = CollectorRegistry()
    async with AsyncExitStack() as stack:
        spans = provider(settings)
        if spans is not None:
            stack.push_async_callback(spans.stop)
        web = WebServer(settings, registry)
        await web.start()
        stack.push_async_callback(web.stop)
        delivery = await _delivery(settings)
        grpc_server = GrpcServer(settings)
        parts = RoleParts(
            settings=settings,
            registry=registry,
            transactional=delivery == "exactly-once",
            partitions=partitions,
            size_limits={} if settings.roles == ("stats",) else await size_limits(settings),
            address=web.reachable,
            spans=spans,
        )
        arbiter: Engine[Any] | None = None
        for name in ROLES:
            if name in settings.roles:
                role = await _started(name, parts, grpc_server, stack, arbiter)
                if arbiter is None and isinstance(role, EngineRole):
                    arbiter = role.engine
                web.add(role)
        addresses = WorkerAddresses(
            settings.bootstrap_servers, web.url, grpc_server.address or None, settings.roles, delivery
        )
        yield _RunningWorker(addresses, web.roles)


async def _started(
    name: RoleName, parts: RoleParts, grpc_server: GrpcServer, stack: AsyncExitStack, arbiter: Engine[Any] | None
) -> Role:
    """A role that runs; `stack` ends it. `arbiter`: the engine of the role that was started first."""
    settings = parts.settings
    if name == "stats":
        apart = settings.stats.own_process and settings.roles != ("stats",)
        kind = StatsProcess if apart else StatsSupervisor
        stats = kind(settings, idempotent=parts.transactional, address=parts.address)
        parts.registry.register(StatsMetrics(stats.counters))
        stack.push_async_callback(stats.stop)
        await stats.start()
        return stats
    role: DispatchRole | PlansRole | SchedulesRole
    if name == "dispatch":
        if settings.plans.templates and "plans" not in settings.roles:
            log.info(PLANS_ELSEWHERE)
        if "schedules" not in settings.roles:
            log.info(SCHEDULES_ELSEWHERE)
        role = DispatchRole(parts, grpc_server)
    else:
        role = PlansRole(parts) if name == "plans" else SchedulesRole(parts)
    role.engine.arbiter = arbiter
    await role.start(stack)
    return role


def settle_memory() -> None:
    """Exempt loaded objects from garbage collection, and collect less often: a task makes no cycles."""
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


async def _ready(running: _RunningWorker) -> None:
    """Wait until every role is ready."""
    for role in running.roles.values():
        await role.wait_ready()


async def _failed(running: _RunningWorker) -> None:
    """Raises the error that a role could not recover from."""

    async def watch(name: RoleName, role: Role) -> None:
        try:
            await role.failed()
        except Exception as error:
            # The engine's own messages and refusals are meant for people.
            reason = str(error) if type(error) is RuntimeError else describe_error(error)
            raise WorkerError(f"{name} failed: {reason}") from error

    watching = [asyncio.create_task(watch(name, role)) for name, role in running.roles.items()]
    if not watching:
        await asyncio.Event().wait()
    try:
        ended, _ = await asyncio.wait(watching, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            await task
    finally:
        for task in watching:
            task.cancel()
