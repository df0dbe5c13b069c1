"""An agent over HTTP: `POST /analyze`, `GET /health`, `GET /capabilities`.

In: payloads as JSON, with `Idempotency-Key` and `X-Request-Timeout-Ms`. Out: `{"value", "confidence", ...}`, or a status with
`{"error": ...}`: 400 names the field, 422 declined, 429 and 503 carry Retry-After, 500 what the function raised, 504 too late.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from aiohttp import web

from agents_io.serving.answers import CallFailed
from agents_io.serving.runs import Served, parse_body
from agents_io.transport import CONTEXT_HEADER

MAX_BODY_BYTES = 16 * 1024 * 1024


class HttpAgent:
    """`async with HttpAgent(agent, "127.0.0.1", 0) as server:` serves at `server.endpoint`."""

    def __init__(self, *, agent: Served, host: str, port: int, stop_timeout: float = 20.0) -> None:
        self._agent = agent
        self._host = host
        self._port = port
        self._stop_timeout = stop_timeout
        self._runs = agent.runs()
        self._runner: web.AppRunner | None = None

    @property
    def endpoint(self) -> str:
        """The endpoint for its registration."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    @property
    def ready_line(self) -> str:
        """The line to print once it serves."""
        return (
            f"agent {self._agent.id} serves at {self.endpoint}; register it: "
            f"parallax agents add {self._agent.id} {self.endpoint}"
        )

    async def failed(self) -> None:
        """Never returns: an HTTP agent does not fail by itself."""
        await asyncio.Event().wait()

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.add_routes(
            [
                web.post("/analyze", self._analyze),
                web.get("/health", self._health),
                web.get("/capabilities", self._capabilities),
            ]
        )
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        self._port = runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Answer new calls with 503 and let those under way finish."""
        await self._runs.drain(self._stop_timeout)
        if self._runner is not None:
            await self._runner.cleanup()

    async def _analyze(self, request: web.Request) -> web.Response:
        try:
            timeout_s = _timeout_s(request.headers.get("X-Request-Timeout-Ms"))
            payload = parse_body(await request.read())
            context = request.headers.get(CONTEXT_HEADER, "")
            reply = await self._runs.run(request.headers.get("Idempotency-Key", ""), payload, timeout_s, context)
        except CallFailed as failed:
            headers = {} if failed.retry_after_s is None else {"Retry-After": str(failed.retry_after_s)}
            return web.json_response({"error": str(failed)}, status=failed.status, headers=headers)
        return web.Response(body=reply.body, content_type="application/json")

    async def _health(self, request: web.Request) -> web.Response:
        status = "draining" if self._runs.draining else "ok"
        body = {"status": status, "inFlight": self._runs.in_flight}
        return web.json_response(body, status=503 if self._runs.draining else 200)

    async def _capabilities(self, request: web.Request) -> web.Response:
        agent = self._agent
        body = {"id": agent.id, "capabilities": list(agent.capabilities), "concurrency": agent.concurrency}
        return web.json_response(body)


def _timeout_s(text: str | None) -> float | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise CallFailed(400, f"X-Request-Timeout-Ms: must be a whole number of milliseconds, not {text[:40]!r}")
    return max(1, int(text)) / 1000
