"""A whole pipeline in this process: embedded broker, topics, a worker and its agents, and a client to use it.

The broker is a child process that keeps everything in memory; the worker runs on this event loop. Unlike in production,
rate limits are wide (a million a minute), agents take 100 calls at once and a retry waits 20 ms; `settings` overrides
all. Statistics cost seconds at the start and are off unless `stats=True`.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import httpx

from schemas.messages import AgentRegistration
from streams import worker
from streams.broker.embedded import EmbeddedBroker
from streams.broker.topics_admin import apply, ensure
from streams.client import Client
from streams.settings import Settings, load
from streams.testing.fakes import FakeAgent

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
KNOWN_TIMEOUT_S = 20.0
LOOK_INTERVAL_S = 0.05
DEFAULTS: Mapping[str, Any] = {
    "web_port": 0,
    "grpc_port": 0,
    "log_level": "error",
    "limits.max_requests": 1_000_000,
    "limits.max_concurrency": 100,
    "retry.initial_delay": 20,
    "stats.own_process": False,
}


@runtime_checkable
class Servable(Protocol):
    """A function that `@agent` marked."""

    id: str
    capabilities: Sequence[str]
    concurrency: int

    def serving(self, port: int = 0) -> Any:
        """An asynchronous context manager that serves and yields the endpoint."""


class Pipeline:
    """`async with Pipeline(agents=[...]) as p:` then `p.client.run(...)`.

    `agents`: `FakeAgent`s, functions marked with `@agent`, or registrations of agents that run elsewhere. `functions`: callables
    marked with `@function`. `settings`: dotted names and values, `{"breaker.failure_threshold": 2}`.
    """

    def __init__(
        self,
        agents: Iterable[Any] = (),
        *,
        functions: Iterable[Callable[..., Any]] = (),
        stats: bool = False,
        partitions: int = 4,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._agents = list(agents)
        self._functions = [function.__module__ for function in functions]
        self._roles = ("dispatch", "plans", "schedules", "stats") if stats else ("dispatch", "plans", "schedules")
        self._partitions = partitions
        self._given = dict(settings or {})
        self._stack = AsyncExitStack()
        self._worker: _Worker | None = None
        self.settings = Settings()
        self.bootstrap_servers = ""
        self.web = ""
        """The worker's address: pages and query API."""
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """A client of this pipeline."""
        if self._client is None:
            raise RuntimeError("the pipeline is not started: use `async with Pipeline() as p`")
        return self._client

    async def __aenter__(self) -> Pipeline:
        async with AsyncExitStack() as stack:
            broker = await stack.enter_async_context(EmbeddedBroker())
            self.bootstrap_servers = broker.bootstrap_servers
            flags = {**DEFAULTS, "roles": self._roles, "functions.modules": tuple(self._functions), **self._given}
            self.settings = load(
                flags | {"bootstrap_servers": self.bootstrap_servers}, environ={}, directory=Path(__file__).parent
            )
            await apply(self.settings, self._partitions)
            await stack.enter_async_context(self._running())
            self._client = await stack.enter_async_context(Client(self.bootstrap_servers, topic_prefix=self._prefix))
            self._stack = stack.pop_all()
        try:
            await self.add(*self._agents)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def add(self, *agents: Any) -> None:
        """Start and register agents; returns when the worker knows them, also if it knew one with that id before."""
        endpoints = dict[str, str]()
        for agent in agents:
            data = await self._started(agent)
            agent_id, endpoint = data.pop("id"), data.pop("endpoint")
            if agent_id in endpoints:
                raise ValueError(f"agents: two of them have the id {agent_id!r}")
            await self.client.agents.add(agent_id, endpoint, **data)
            endpoints[agent_id] = endpoint
        await self._known(set(endpoints), endpoints)

    async def wait_for_agents(self, *ids: str) -> None:
        """Return when the worker knows agents that registered themselves, or through `client.agents`. Raises `TimeoutError`."""
        await self._known(set(ids))

    async def restart_worker(self) -> None:
        """Stop the worker and start another one in its place."""
        if self._worker is not None:
            await self._worker.stop()
        self._worker = _Worker(self.settings)
        self.web = (await self._worker.start()).web

    @property
    def gateway(self) -> str:
        """The worker's gRPC address, for agents that dial in."""
        addresses = self._worker.addresses if self._worker is not None else None
        return (addresses.grpc if addresses is not None else None) or ""

    @property
    def _prefix(self) -> str:
        return self.settings.topic_prefix

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        await self.restart_worker()
        try:
            yield
        finally:
            if self._worker is not None:
                await self._worker.stop()

    async def _started(self, agent: Any) -> dict[str, Any]:
        if isinstance(agent, FakeAgent):
            if agent.protocol == "kafka":
                await ensure(self.settings, agent.topic, 1, {})
            await agent.start(bootstrap_servers=self.bootstrap_servers, gateway=self.gateway)
            self._stack.push_async_callback(agent.stop)
            return agent.registration()
        if isinstance(agent, Servable):
            endpoint = await self._stack.enter_async_context(agent.serving(port=0))
            limits = {
                "maxRequests": self.settings.limits.max_requests,
                "windowMs": self.settings.limits.window_ms,
                "maxConcurrency": agent.concurrency,
            }
            data = {"id": agent.id, "endpoint": endpoint, "protocol": "http"}
            return data | {"capabilities": list(agent.capabilities), "limits": limits}
        if isinstance(agent, AgentRegistration):
            return agent.wire()
        if isinstance(agent, Mapping):
            return dict(agent)
        raise TypeError(f"{agent!r}: agents are FakeAgents, functions marked with @agent, or registrations")

    async def _known(self, wanted: set[str], endpoints: Mapping[str, str] | None = None) -> None:
        """Wait until the worker has read these registrations and calls the agents at these endpoints."""
        # Where an agent that dials in is called, the worker itself decides.
        places = {(name, at) for name, at in (endpoints or {}).items() if not at.startswith("gateway:")}
        async with httpx.AsyncClient(base_url=self.web) as http, asyncio.timeout(KNOWN_TIMEOUT_S):
            while wanted:
                answer = await http.get("/api/v1/agents")
                found = {agent["id"]: agent["endpoint"] for agent in answer.json()} if answer.status_code == 200 else {}
                if wanted <= found.keys() and places <= found.items():
                    return
                await asyncio.sleep(LOOK_INTERVAL_S)


class _Worker:
    """A worker on this event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.addresses: worker.WorkerAddresses | None = None

    async def start(self) -> worker.WorkerAddresses:
        """Return when it is ready. Raises the error that prevents it."""
        ready: asyncio.Future[worker.WorkerAddresses] = asyncio.get_running_loop().create_future()
        thresholds = gc.get_threshold()
        self._task = asyncio.create_task(
            worker.run(self._settings, on_ready=ready.set_result, stop=self._stop), name="parallax-worker"
        )
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                await asyncio.wait((self._task, ready), return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            await self.stop()
            raise
        finally:  # a worker tunes the garbage collector for itself; this process is the user's
            gc.unfreeze()
            gc.set_threshold(*thresholds)
        if self._task.done():
            await self._task
        self.addresses = ready.result()
        return self.addresses

    async def stop(self) -> None:
        """Drain and end."""
        task, self._task = self._task, None
        if task is None:
            return
        self._stop.set()
        done, _ = await asyncio.wait((task,), timeout=STOP_TIMEOUT_S)
        if not done:
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
