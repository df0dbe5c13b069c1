"""What commands ask of agents: what is at an address, and whether registered agents are healthy.

In: a typed registration, or registrations that were read. Out: the registration completed, or a row of health for each.
Typed values take precedence over detected ones; no behaviour of an agent makes a command fail here.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from streams.cli.options import FAILED, USAGE, CommandError
from streams.cli.output import say

if TYPE_CHECKING:
    from agents_io.protocols.probing import Found
    from agents_io.protocols.transports import Transports
    from streams.settings import Settings

AT_ONCE = 50


def completed(given: dict[str, Any]) -> dict[str, Any]:
    """The registration with protocol, name, capabilities and metadata that its endpoint reports; printed on stderr.

    Raises `CommandError`: no supported protocol was recognised, or a choice is missing.
    """
    from agents_io.protocols.discovery import investigate
    from agents_io.protocols.probing import TIMEOUT_S
    from schemas.messages import AgentRegistration

    endpoint = given["endpoint"]
    agent = AgentRegistration.model_validate(given)
    seen = asyncio.run(investigate(endpoint, agent.auth))
    found = seen.found
    if seen.note is not None:
        say(seen.note)
    if found is None:
        if seen.answered and agent.protocol is None:
            raise CommandError(
                f"agents add: what answers at {endpoint} is no agent we know how to call; override with --protocol\n"
                + "\n".join(f"  {protocol}: {reason}" for protocol, reason in seen.reasons),
                FAILED,
            )
        say(
            f"no agent of a known protocol answered at {endpoint} within {TIMEOUT_S:g} s; registered as {agent.transport}"
        )
        for protocol, reason in seen.reasons:
            say(f"  {protocol}: {reason}")
        return given
    say(f"at {endpoint} there is {found.description}")
    if agent.protocol is not None and agent.protocol != found.protocol:
        say(f"registered as {agent.protocol} because of --protocol")
        return given
    return filled(given, found)


def filled(given: dict[str, Any], found: Found) -> dict[str, Any]:
    """The registration completed by what was found; typed values take precedence. Raises `CommandError`: a choice is
    missing.
    """
    more: dict[str, Any] = {} if found.protocol == "http" else {"protocol": found.protocol}
    if found.name is not None:
        more["name"] = found.name
    metadata = found.metadata | given.get("metadata", {})
    capabilities = list(found.capabilities)
    if (key := found.choice) is not None:
        chosen = metadata.get(key)
        listed = ", ".join(found.choices[:50]) or f"no {key} at all"
        if chosen is None:
            raise CommandError(f"agents add: choose with --metadata {key}=NAME; there is {listed}", USAGE)
        if found.choice_is_capability:
            if chosen not in found.choices:
                raise CommandError(f"agents add: metadata.{key}: the server has no {chosen!r}, only {listed}", USAGE)
            capabilities = [chosen]
        elif chosen not in found.choices:
            say(f"the list has no {key} {chosen!r}; registered anyway")
    if capabilities:
        more["capabilities"] = capabilities
    _report_concurrency(given.get("limits") or {}, found.concurrency)
    if found.endpoint is not None:
        say(f"it is called at {found.endpoint}")
    moved = {} if found.endpoint is None else {"endpoint": found.endpoint}
    return more | given | moved | ({"metadata": metadata} if metadata else {})


def _report_concurrency(limits: dict[str, Any], takes: int | None) -> None:
    """Warn if workers would call the agent more often at once than it accepts: each call beyond is a 429 and a
    pause.
    """
    from schemas.messages import Limits

    allowed = limits.get("maxConcurrency", Limits().max_concurrency)
    if takes is not None and allowed > takes:
        say(
            f"warning: it takes {takes} calls at once, and workers may make {allowed}; it answers 429 to the others, and "
            f"each 429 pauses it: set --max-concurrency {takes}, or raise the agent's own limit (@agent(..., concurrency=N))"
        )


def check_tool(given: dict[str, Any]) -> None:
    """Check that an MCP server has the tool to be registered, if it can be asked now. Raises `CommandError` if it does
    not.
    """
    from agents_io.errors import AgentError
    from agents_io.protocols.mcp.transport import McpTransport
    from agents_io.protocols.probing import TIMEOUT_S
    from schemas.messages import AgentRegistration

    async def ask() -> list[str]:
        transport = McpTransport()
        try:
            return await transport.tools(AgentRegistration.model_validate(given), TIMEOUT_S)
        finally:
            await transport.close()

    try:
        tools = asyncio.run(ask())
    except AgentError as error:
        say(f"the server's tools could not be listed: {error.message}")
        return
    if (tool := given["metadata"]["tool"]) not in tools:
        raise CommandError(
            f"agents add: metadata.tool: the server has no {tool!r}, only {', '.join(tools[:50])}", USAGE
        )


async def ask_all(settings: Settings, registrations: list[dict[str, Any]], timeout_s: float) -> list[dict[str, Any]]:
    """One row each: `health` is healthy, unhealthy, or unknown if it cannot be checked; `detail` gives the reason."""
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
    from agents_io.errors import AgentError, Unsupported
    from schemas.messages import AgentRegistration

    agent = AgentRegistration.model_validate(data)
    row: dict[str, Any] = {"id": agent.id, "protocol": agent.transport, "endpoint": agent.endpoint}
    begun = time.monotonic()
    try:
        await transports.check_health(agent, timeout_s)
    except Unsupported as error:
        return row | {"health": "unknown", "detail": error.message}
    except AgentError as error:
        row |= {"health": "unhealthy", "detail": error.message}
    else:
        row["health"] = "healthy"
    return row | {"ms": round((time.monotonic() - begun) * 1000)}


def _transports(settings: Settings) -> Transports:
    from streams.agents.transports import together

    return together(settings)
