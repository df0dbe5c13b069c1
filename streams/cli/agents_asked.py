"""What agents say when they are asked by the command line: what is at an address, and how registered ones are.

In: a registration as it was typed, or many as they were read. Out: the same with what was found filled in, or a row of health for
each. What was given stands above what was found; nothing that an agent does makes a command fail here.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from streams.cli.output import say

if TYPE_CHECKING:
    from agents_io.transports import Transports
    from streams.settings import Settings

AT_ONCE = 50


def completed(given: dict[str, Any]) -> dict[str, Any]:
    """The registration with protocol, name, capabilities and metadata as its endpoint tells them; said on stderr."""
    from agents_io.discovery import TIMEOUT_S, discover
    from schemas.messages import AgentRegistration

    endpoint = given["endpoint"]
    agent = AgentRegistration.model_validate(given)
    found = asyncio.run(discover(endpoint, agent.auth))
    if found is None:
        say(f"nothing we know answered at {endpoint} within {TIMEOUT_S:g} s; registered as {agent.transport}")
        return given
    say(f"at {endpoint} there is {found.said}")
    if agent.protocol is not None and agent.protocol != found.protocol:
        say(f"registered as {agent.protocol}, as --protocol says")
        return given
    filled: dict[str, Any] = {} if found.protocol == "http" else {"protocol": found.protocol}
    if found.name is not None:
        filled["name"] = found.name
    if found.capabilities:
        filled["capabilities"] = list(found.capabilities)
    metadata = found.metadata | given.get("metadata", {})
    needed = {"mcp": "tool", "openai": "model"}.get(found.protocol)
    if needed is not None and needed not in metadata:
        say(f"it cannot be called before you choose: add it again with --metadata {needed}=NAME")
    return filled | given | ({"metadata": metadata} if metadata else {})


async def ask_all(settings: Settings, registrations: list[dict[str, Any]], timeout_s: float) -> list[dict[str, Any]]:
    """A row for each: `health` is healthy, unhealthy, or unknown when it cannot be asked; `detail` says why."""
    transports = _transports(settings)
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(data: dict[str, Any]) -> dict[str, Any]:
        async with gate:
            return await _ask(transports, data, timeout_s)

    try:
        return list(await asyncio.gather(*(one(data) for data in registrations)))
    finally:
        await transports.close()


async def _ask(transports: Transports, data: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    from agents_io.errors import AgentError
    from schemas.messages import AgentRegistration

    agent = AgentRegistration.model_validate(data)
    row: dict[str, Any] = {"id": agent.id, "protocol": agent.transport, "endpoint": agent.endpoint}
    begun = time.monotonic()
    try:
        well = await transports.health(agent, timeout_s)
    except AgentError as error:
        return row | {"health": "unknown", "detail": error.message}
    return row | {"health": "healthy" if well else "unhealthy", "ms": round((time.monotonic() - begun) * 1000)}


def _transports(settings: Settings) -> Transports:
    from streams.agents.transports import together

    return together(settings)
