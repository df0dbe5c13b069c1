"""A small HTTP server for one test, and one call to it: what real servers were seen to do, without the servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp import web

from agents_io.errors import AgentError
from agents_io.transport import Answer, Call, Transport
from schemas.messages import AgentRegistration, Protocol

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[str]:
    """The server's URL."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return await handler(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Asked:
    """One agent, asked again and again."""

    def __init__(self, transport: Transport, agent: AgentRegistration) -> None:
        self.transport = transport
        self.agent = agent

    async def __call__(
        self, payload: Any = None, *, key: str = "k", timeout_s: float = 10.0, attempt: int = 1, fresh: bool = False
    ) -> Answer | AgentError:
        """How the call ended."""
        body = orjson.dumps({"task": "ok"} if payload is None else payload)
        try:
            return await self.transport.call(self.agent, Call("t", key, body, timeout_s, attempt=attempt, fresh=fresh))
        except AgentError as error:
            return error


@asynccontextmanager
async def asking(
    transport: Transport,
    handler: Handler,
    protocol: Protocol,
    path: str = "",
    confidence: dict[str, Any] | None = None,
    **metadata: Any,
) -> AsyncIterator[Asked]:
    """An agent that this handler serves."""
    async with served(handler) as url:
        given = {"id": "a", "endpoint": url + path, "protocol": protocol, "metadata": metadata or None}
        agent = AgentRegistration.model_validate(given | {"confidence": confidence})
        try:
            yield Asked(transport, agent)
        finally:
            await transport.close()


def said(end: Answer | AgentError) -> tuple[Any, ...]:
    """An end in short: value and confidence, or code, whether it is tried again and whether it counts."""
    if isinstance(end, Answer):
        return end.value, end.confidence
    return end.code, end.retryable, end.counts_against_agent
