"""Starts and stops everything the demo needs: broker, topics, worker, three agents, their registrations.

In: settings, and a broker to start or none. Out: the addresses. Everything is stopped in reverse order, by process id;
nothing is written outside a temporary directory.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson

import streams
from streams.broker import topics_admin
from streams.broker.child_broker import ChildBroker
from streams.broker.client import send_keyed
from streams.demo.agents import CAPABILITY
from streams.demo.children import Child, ChildFailed, clean_environment
from streams.demo.models import KINDS, Condition
from streams.settings import Settings

AGENT_START_S = 60.0
WORKER_START_S = 90.0
CONTROL_TIMEOUT_S = 5.0
CONTROL_TRIES = 3
RESET_TIMEOUT_MS = 5000

REGISTRATION = {
    "protocol": "http",
    "capabilities": [CAPABILITY],
    # The defaults (100 calls in 60 s) suit an agent that costs money; these cost nothing.
    "limits": {"maxRequests": 100_000, "windowMs": 60_000, "maxConcurrency": 8},
    # Half open after 5 s instead of 30, so that a demo of a minute sees it.
    "breaker": {"failureThreshold": 5, "resetTimeout": RESET_TIMEOUT_MS, "monitoringPeriod": 60_000},
}


@dataclass(slots=True)
class Stage:
    """The running parts. `agents`: agent id to endpoint; `own_broker`: the broker is ours and stops with us."""

    settings: Settings
    own_broker: bool
    agents: dict[str, str] = field(default_factory=dict)
    web: str = ""
    children: list[Child] = field(default_factory=list)

    async def turn(self, agent_id: str, condition: Condition) -> None:
        """Set an agent's condition: degraded, failing or healthy. Raises `ChildFailed` if it does not answer."""
        url = f"{self.agents[agent_id]}/condition"
        timeout = aiohttp.ClientTimeout(total=CONTROL_TIMEOUT_S)
        problem = ""
        for _ in range(CONTROL_TRIES):
            try:
                async with (
                    aiohttp.ClientSession(timeout=timeout) as session,
                    session.post(url, json={"condition": condition}) as answer,
                ):
                    if answer.status == 200:
                        return
                    problem = f"status {answer.status}"
            except (aiohttp.ClientError, TimeoutError) as error:
                problem = repr(error)
        raise ChildFailed(f"agent {agent_id} does not take commands: {problem}")

    async def watch(self) -> None:
        """Raise `ChildFailed` as soon as one of the processes ends."""
        waits = [asyncio.create_task(child.ended()) for child in self.children]
        try:
            await asyncio.gather(*waits)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)


@asynccontextmanager
async def stage(
    say: Callable[[str], None], settings: Settings, *, broker: ChildBroker | None, worker_settings: Mapping[str, str]
) -> AsyncIterator[Stage]:
    """Start everything; `say` is called for each part. `broker`: to start first; None: the one in the settings.

    Raises `ChildFailed`, `ChildBrokerError` and Kafka's errors.
    """
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parallax-demo-")))
        if broker is not None:
            await stack.enter_async_context(broker)
            settings = settings.model_copy(update={"bootstrap_servers": broker.bootstrap_servers})
        made = await topics_admin.apply(settings)
        scene = Stage(settings, broker is not None)
        where = "yours" if broker is None else broker.name
        say(f"broker   {settings.bootstrap_servers}  ({where}); {len(made)} topics {settings.topic_prefix}*")
        worker = _worker(scene, directory, worker_settings)
        agents = {kind.agent_id: _agent(kind.key, kind.agent_id, directory) for kind in KINDS.values()}
        scene.children = [*agents.values(), worker]
        for child in scene.children:
            stack.push_async_callback(child.stop)
        # Together: most of the time is imports and joining groups.
        starts = [child.start(endpoint_in, AGENT_START_S) for child in agents.values()]
        scene.web, *endpoints = await _all(worker.start(web_address_in, WORKER_START_S), *starts)
        scene.agents = dict(zip(agents, endpoints, strict=True))
        await _register(scene)
        say(f"worker   {scene.web}  (pid {worker.pid}; dispatch and statistics)")
        for kind in KINDS.values():
            say(f"agent    {scene.agents[kind.agent_id]}  {kind.agent_id} ({kind.title})")
        yield scene


async def _all(*starts: Any) -> list[str]:
    """Results of all; the first failure cancels the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(start) for start in starts]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


def _agent(key: str, agent_id: str, directory: Path) -> Child:
    command = [sys.executable, "-m", "streams.demo.agents", "--model", key, "--port", "0"]
    return Child(name=f"agent {agent_id}", command=command, directory=directory, environment=clean_environment(_FOUND))


def _worker(scene: Stage, directory: Path, worker_settings: Mapping[str, str]) -> Child:
    settings = scene.settings
    command = [sys.executable, "-m", "streams.cli.main", "worker", "-o", "jsonl"]
    command += ["--bootstrap-servers", settings.bootstrap_servers, "--topic-prefix", settings.topic_prefix]
    command += ["--web-host", settings.web_host, "--web-port", str(settings.web_port), "--grpc-port", "0"]
    if scene.own_broker:
        return Child(
            name="the worker",
            command=command,
            directory=directory,
            environment=clean_environment({**worker_settings, **_FOUND}),
        )
    # On the user's Kafka the user's environment and parallax.toml count: they may hold what the brokers ask for.
    return Child(
        name="the worker",
        command=command,
        directory=Path.cwd(),
        environment={**worker_settings, **os.environ, **_FOUND},
    )


# The children run elsewhere: they must find this very code also when it is not installed.
_FOUND = {"PYTHONPATH": str(Path(streams.__file__).resolve().parent.parent), "PYTHONUNBUFFERED": "1"}


def endpoint_in(line: str) -> str | None:
    """The endpoint in an agent's ready line."""
    return next((word.removeprefix("endpoint=") for word in line.split() if word.startswith("endpoint=")), None)


def web_address_in(line: str) -> str | None:
    """The web address in the worker's ready line."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return str(found["web"]) if isinstance(found, dict) and "web" in found else None


async def _register(scene: Stage) -> None:
    records = []
    for kind in KINDS.values():
        registration = {"id": kind.agent_id, "name": kind.title, "endpoint": scene.agents[kind.agent_id]}
        records.append((kind.agent_id.encode(), orjson.dumps(registration | REGISTRATION)))
    await send_keyed(scene.settings, "agents", records)
