"""Detects the protocol at an endpoint by probing all protocols at once, for registrations without one.

In: a URL. Out: the first match, most specific sign first: an A2A agent card; an MCP server and its tools; the models of
an OpenAI-compatible API; an HTTP agent (`GET /health`, or a URL that accepts `POST /analyze`). For each other protocol,
the reason why it did not match. Everything happens within one short timeout. It gives no agent a task and never raises
because of what the other side does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from agents_io.errors import AgentError, CallTimeout, ConnectionFailed, InternalError, Unsupported
from agents_io.http.peer import Peer
from agents_io.protocols.a2a import probe as a2a
from agents_io.protocols.http import probe as http
from agents_io.protocols.mcp import probe as mcp
from agents_io.protocols.openai import probe as openai
from agents_io.protocols.probing import TIMEOUT_S, Found, asked_agent
from agents_io.secret_refs import Secret
from schemas.messages import Protocol, SecretRef


@dataclass(frozen=True, slots=True)
class Discovery:
    """What was found, and by protocol why the others did not match. `answered`: whether anything answered. `note`: why
    the secret was not sent.
    """

    found: Found | None
    reasons: tuple[tuple[Protocol, str], ...] = ()
    answered: bool = False
    note: str | None = None


async def discover(endpoint: str, auth: SecretRef | None = None, timeout_s: float = TIMEOUT_S) -> Found | None:
    """The first of `PROBES`, in their order, that matches within `timeout_s`; None also for a URL that is not
    http(s).
    """
    return (await investigate(endpoint, auth, timeout_s)).found


async def investigate(endpoint: str, auth: SecretRef | None = None, timeout_s: float = TIMEOUT_S) -> Discovery:
    """As `discover`, with the reasons. A secret that only the worker has is not sent; `note` says so."""
    if not endpoint.lower().startswith(("http://", "https://")):
        return Discovery(None)
    note = None
    try:
        if auth is not None:
            Secret(auth).token()
    except Unsupported as error:
        auth, note = None, f"{error.message} here; requests carry no token"
    try:
        Peer(asked_agent(endpoint, "http", auth))
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


PROBES: dict[Protocol, Callable[[str, SecretRef | None], Coroutine[Any, Any, Found]]] = {
    "a2a": a2a.probe,
    "mcp": mcp.probe,
    "openai": openai.probe,
    "http": http.probe,
}
