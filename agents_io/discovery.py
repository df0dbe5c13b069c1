"""Detects the protocol at an endpoint: probes all protocols at once, for registrations that give an address alone.

In: a URL. Out: the first of these that answers as it should, the most specific sign first: an A2A agent card; an MCP server and
its tools; the models of an OpenAI-compatible API; an HTTP agent (`GET /health`, or a place to `POST /analyze` to). With it, for
each that did not, the reason. All within one short time. It gives no agent a task, never raises because something there
misbehaves, and decides nothing: the caller says what it does with what was found.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from agents_io.errors import AgentError, BadResponse, CallTimeout, ConnectionFailed, InternalError, Unsupported
from agents_io.http.a2a import A2aTransport
from agents_io.http.exchange import HttpExchange
from agents_io.http.mcp import McpTransport
from agents_io.http.peer import Peer, below
from agents_io.rules.answer import load_json
from agents_io.secret_refs import Secret
from schemas.messages import AgentRegistration, Protocol, SecretRef

TIMEOUT_S = 3.0
MAX_BYTES = 256 * 1024
MAX_NAMES = 1000
LISTED = 5


@dataclass(frozen=True, slots=True)
class Found:
    """What answered. `said`: it in one line; `metadata`: what the registration needs to be called.

    `choices`: tools or models of which a registration names one; `endpoint`: where it is called, if not at the one asked;
    `concurrency`: how many calls it takes at once, if it reports that.
    """

    protocol: Protocol
    said: str
    name: str | None = None
    capabilities: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    choices: tuple[str, ...] = ()
    endpoint: str | None = None
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class Discovery:
    """What was found, and by protocol why the others were not. `answered`: whether anything answered at all.

    `note`: why the secret was not sent.
    """

    found: Found | None
    reasons: tuple[tuple[Protocol, str], ...] = ()
    answered: bool = False
    note: str | None = None


async def discover(endpoint: str, auth: SecretRef | None = None, timeout_s: float = TIMEOUT_S) -> Found | None:
    """The first of `PROBES`, in their order, that finds something within `timeout_s`; None for no http(s) URL too."""
    return (await investigate(endpoint, auth, timeout_s)).found


async def investigate(endpoint: str, auth: SecretRef | None = None, timeout_s: float = TIMEOUT_S) -> Discovery:
    """As `discover`, with the reasons. A secret that only the worker has is left out, and `note` says so."""
    if not endpoint.lower().startswith(("http://", "https://")):
        return Discovery(None)
    note = None
    try:
        if auth is not None:
            Secret(auth).token()
    except Unsupported as error:
        auth, note = None, f"{error.message} here; requests carry no token"
    try:
        Peer(_agent(endpoint, "http", auth))
    except Unsupported as error:
        return Discovery(None, (("http", error.message),), False, note)
    asking = {protocol: asyncio.create_task(probe(endpoint, auth)) for protocol, probe in PROBES.items()}
    try:
        await asyncio.wait(asking.values(), timeout=timeout_s)
    finally:
        for task in asking.values():
            task.cancel()
        ends = await asyncio.gather(*asking.values(), return_exceptions=True)
    reasons: list[tuple[Protocol, str]] = []
    answered = False
    for protocol, end in zip(asking, ends, strict=True):
        if isinstance(end, Found):
            return Discovery(end, tuple(reasons), True, note)
        if isinstance(end, AgentError):
            reasons.append((protocol, end.message))
            answered = answered or not isinstance(end, (ConnectionFailed, CallTimeout, InternalError))
        elif isinstance(end, asyncio.CancelledError):
            reasons.append((protocol, f"no answer within {timeout_s:g} s"))
        elif isinstance(end, BaseException):
            raise end  # a fault of ours
    return Discovery(None, tuple(reasons), answered, note)


def _agent(endpoint: str, protocol: Protocol, auth: SecretRef | None) -> AgentRegistration:
    return AgentRegistration(id="discovered", endpoint=endpoint, protocol=protocol, auth=auth)


async def _card(endpoint: str, auth: SecretRef | None) -> Found:
    transport = A2aTransport(max_answer_bytes=MAX_BYTES)
    try:
        card = await transport.card(Peer(_agent(endpoint, "a2a", auth)))
    finally:
        await transport.close()
    skills = f", skills {_some(card.skills)}" if card.skills else ""
    first = card.interfaces[0]
    over = "" if first.binding == "JSONRPC" else f" over {first.binding}"
    return Found("a2a", f"an A2A {first.version} agent{over}{_named(card.name)}{skills}", card.name, card.skills)


async def _tools(endpoint: str, auth: SecretRef | None) -> Found:
    transport = McpTransport(max_answer_bytes=MAX_BYTES)
    try:
        tools = tuple(
            name for name in await transport.tools(_agent(endpoint, "mcp", auth), TIMEOUT_S) if 0 < len(name) <= 256
        )
    finally:
        await transport.close()
    said = f"an MCP server with {'no tool' if not tools else 'tool ' + tools[0] if len(tools) == 1 else 'tools ' + _some(tools)}"
    # An agent is one tool: what the server's other tools can do, it cannot.
    only = tools if len(tools) == 1 else ()
    return Found("mcp", said, capabilities=only, metadata={"tool": only[0]} if only else {}, choices=tools)


async def _models(endpoint: str, auth: SecretRef | None) -> Found:
    peer = Peer(_agent(endpoint, "openai", auth))
    async with _exchange() as http:
        where = None
        try:
            rows = await _model_rows(http, peer, "models")
        except AgentError as error:
            if endpoint.rstrip("/").endswith("/v1") or error.status in (401, 403):
                raise
            try:
                rows = await _model_rows(http, peer, "v1/models")
            except AgentError:
                raise error from None
            where = str(below(peer.base, "v1").httpx)
    models = _names([row.get("id") for row in rows if isinstance(row, dict)])
    if not models:
        raise BadResponse("the list of models is empty")
    said = f"an OpenAI-compatible API with {'model ' + models[0] if len(models) == 1 else 'models ' + _some(models)}"
    metadata = {"model": models[0]} if len(models) == 1 else {}
    return Found("openai", said, metadata=metadata, choices=models, endpoint=where)


async def _model_rows(http: HttpExchange, peer: Peer, leaf: str) -> list[Any]:
    _, body = await http.good(peer, peer.get(below(peer.base, leaf)))
    rows = _member(body, "data")
    if not isinstance(rows, list):
        raise BadResponse("the response is not a list of models")
    return rows


async def _plain(endpoint: str, auth: SecretRef | None) -> Found:
    """The weakest sign: many servers that are no agents have a health page."""
    peer = Peer(_agent(endpoint, "http", auth))
    async with _exchange() as http:
        try:
            await http.good(peer, peer.get(below(peer.base, "health")))
        except AgentError as error:
            if error.status not in (404, 405, 501) or not await _takes_tasks(http, peer):
                raise
            return Found("http", "an agent over HTTP without a health page")
        try:
            _, body = await http.good(peer, peer.get(below(peer.base, "capabilities")))
            capabilities = _names(_member(body, "capabilities"))
            concurrency = _count(_member(body, "concurrency"))
        except AgentError:
            capabilities, concurrency = (), None  # the page is optional
    listed = f", capabilities {_some(capabilities)}" if capabilities else ""
    said = f"an agent over HTTP that is healthy{listed}"
    return Found("http", said, capabilities=capabilities, concurrency=concurrency)


async def _takes_tasks(http: HttpExchange, peer: Peer) -> bool:
    """Whether there is a place to post tasks to; asked by methods that begin none."""
    target = below(peer.base, "analyze")
    options = httpx.Request("OPTIONS", target.httpx, headers=peer.authorised(), extensions=target.extensions)
    for request in (peer.get(target), options):
        response, _ = await http.send(peer, request)
        if response.status_code not in (401, 403, 404) and not 300 <= response.status_code < 400:
            return True
    return False


PROBES: dict[Protocol, Callable[[str, SecretRef | None], Coroutine[Any, Any, Found]]] = {
    "a2a": _card,
    "mcp": _tools,
    "openai": _models,
    "http": _plain,
}


@asynccontextmanager
async def _exchange() -> AsyncIterator[HttpExchange]:
    http = HttpExchange(max_answer_bytes=MAX_BYTES)
    try:
        yield http
    finally:
        await http.aclose()


def _member(body: bytes, name: str) -> Any:
    try:
        data = load_json(body)
    except BadResponse:
        raise BadResponse("the response is not JSON") from None
    return data.get(name) if isinstance(data, dict) else None


def _names(listed: Any) -> tuple[str, ...]:
    rows = listed[:MAX_NAMES] if isinstance(listed, list) else []
    return tuple(dict.fromkeys(name for name in rows if isinstance(name, str) and 0 < len(name) <= 256))


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(_printable(name) for name in names[:LISTED]) + more


def _named(name: str | None) -> str:
    return f" {_printable(name)!r}" if name else ""


def _printable(text: str) -> str:
    """A stranger's text on a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)[:80]
