"""What is at an endpoint? Asked in every protocol at once, for whoever registers an agent by its address alone.

In: a URL. Out: the first of these that answers as it should: an A2A agent card; an MCP server and its tools; `GET /health` with
the optional `GET /capabilities`; the models of an OpenAI-compatible API. All within one short time. It gives no agent a task,
never raises because something there misbehaves, and decides nothing: the caller says what it does with what was found.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from agents_io.errors import AgentError, Unsupported
from agents_io.http.a2a import A2aTransport
from agents_io.http.exchange import HttpExchange
from agents_io.http.mcp import McpTransport
from agents_io.http.peer import Peer, below
from schemas.messages import AgentRegistration, Protocol, SecretRef

TIMEOUT_S = 3.0
MAX_BYTES = 256 * 1024
MAX_NAMES = 1000
LISTED = 5


@dataclass(frozen=True, slots=True)
class Found:
    """What answered. `said`: it in one line; `metadata`: what the registration needs to be called."""

    protocol: Protocol
    said: str
    name: str | None = None
    capabilities: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)


async def discover(endpoint: str, auth: SecretRef | None = None, timeout_s: float = TIMEOUT_S) -> Found | None:
    """The first of `PROBES`, in their order, that finds something within `timeout_s`; None for no http(s) URL too."""
    if not endpoint.startswith(("http://", "https://")):
        return None
    asking = [asyncio.create_task(probe(endpoint, auth)) for probe in PROBES]
    try:
        await asyncio.wait(asking, timeout=timeout_s)
    finally:
        for task in asking:
            task.cancel()
        ends = await asyncio.gather(*asking, return_exceptions=True)
    for end in ends:
        if isinstance(end, Found):
            return end
        if isinstance(end, Exception) and not isinstance(end, AgentError):
            raise end  # a fault of ours
    return None


def _agent(endpoint: str, protocol: Protocol, auth: SecretRef | None) -> AgentRegistration:
    return AgentRegistration(id="discovered", endpoint=endpoint, protocol=protocol, auth=auth)


async def _card(endpoint: str, auth: SecretRef | None) -> Found | None:
    transport = A2aTransport(max_answer_bytes=MAX_BYTES)
    try:
        card = await transport.card(Peer(_agent(endpoint, "a2a", auth)))
    finally:
        await transport.close()
    skills = f", skills {_some(card.skills)}" if card.skills else ""
    return Found("a2a", f"an A2A {card.version} agent{_named(card.name)}{skills}", card.name, card.skills)


async def _tools(endpoint: str, auth: SecretRef | None) -> Found | None:
    transport = McpTransport(max_answer_bytes=MAX_BYTES)
    try:
        tools = tuple(
            name for name in await transport.tools(_agent(endpoint, "mcp", auth), TIMEOUT_S) if 0 < len(name) <= 256
        )
    finally:
        await transport.close()
    said = f"an MCP server with {'no tool' if not tools else 'tool ' + tools[0] if len(tools) == 1 else 'tools ' + _some(tools)}"
    return Found("mcp", said, capabilities=tools, metadata={"tool": tools[0]} if len(tools) == 1 else {})


async def _plain(endpoint: str, auth: SecretRef | None) -> Found | None:
    peer = Peer(_agent(endpoint, "http", auth))
    async with _exchange() as http:
        await http.good(peer, peer.get(below(peer.base, "health")))
        try:
            _, body = await http.good(peer, peer.get(below(peer.base, "capabilities")))
            capabilities = _names(_member(body, "capabilities"))
        except AgentError:
            capabilities = ()  # it need not tell
    listed = f", capabilities {_some(capabilities)}" if capabilities else ""
    return Found("http", f"an agent over HTTP that is healthy{listed}", capabilities=capabilities)


async def _models(endpoint: str, auth: SecretRef | None) -> Found | None:
    peer = Peer(_agent(endpoint, "openai", auth))
    async with _exchange() as http:
        _, body = await http.good(peer, peer.get(below(peer.base, "models")))
    rows = _member(body, "data")
    models = _names([row.get("id") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else None)
    if not models:
        return None
    said = f"an OpenAI-compatible API with {'model ' + models[0] if len(models) == 1 else 'models ' + _some(models)}"
    return Found("openai", said, metadata={"model": models[0]} if len(models) == 1 else {})


PROBES: tuple[Callable[[str, SecretRef | None], Coroutine[Any, Any, Found | None]], ...] = (
    _card,
    _tools,
    _plain,
    _models,
)


@asynccontextmanager
async def _exchange() -> AsyncIterator[HttpExchange]:
    http = HttpExchange(max_answer_bytes=MAX_BYTES)
    try:
        yield http
    finally:
        await http.aclose()


def _member(body: bytes, name: str) -> Any:
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Unsupported("what is there is not JSON") from None
    return data.get(name) if isinstance(data, dict) else None


def _names(listed: Any) -> tuple[str, ...]:
    rows = listed[:MAX_NAMES] if isinstance(listed, list) else []
    return tuple(dict.fromkeys(name for name in rows if isinstance(name, str) and 0 < len(name) <= 256))


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(_printable(name) for name in names[:LISTED]) + more


def _named(name: str | None) -> str:
    return f" {_printable(name)!r}" if name else ""


def _printable(text: str) -> str:
    """A stranger's text on a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)[:80]
