"""The worker's web side as the live page sees it, played by a test: real files and headers, made-up answers.

In: `agents`, `anomalies`, `tasks`... set by the test (a list or dict to answer with, or `Refusal`); `send` for the stream.
Out: an address on 127.0.0.1; what was asked, in `asked`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import orjson
from aiohttp import web

from schemas.exact_json import dumps
from schemas.times import format_time
from streams.live import page
from streams.live.access import WebAccess
from streams.settings_parts import WebAuthSettings
from tests.support.wait import until


@dataclass(frozen=True)
class Refusal:
    """An error in place of an answer."""

    status: int
    error: str


def event(number: int, kind: str, at_ms: int | None = None, **data: Any) -> dict[str, Any]:
    """An event as it lies on the topic."""
    return {
        "id": f"e{number}",
        "type": kind,
        "timestamp": format_time(at_ms or time.time_ns() // 1_000_000),
        "data": data,
    }


class FakeWorker:
    """One web server. `async with`."""

    def __init__(self) -> None:
        self.agents: Any = []
        self.anomalies: Any = []
        self.partitions: Any = []
        self.ready: Any = {"ready": True, "checks": {"broker": True}}
        self.windows: Any = []
        self.stats: Any = Refusal(404, "no execution")
        self.stats_of: dict[str, Any] = {}
        """Of single agents, in place of `stats`."""
        self.stats_from = ""
        """Since when statistics were asked for last."""
        self.plan: Any = Refusal(404, "no such plan")
        self.tasks: dict[str, Any] = {}
        self.letters: dict[str, Any] = {}
        """By the place of the record each was."""
        self.letter_list: Any = []
        self.action: Any = {}
        """The answer to an action, as JSON or `Refusal`."""
        self.acted: list[tuple[str, Any]] = []
        """Path and body of each action that was let through."""
        self.first: list[dict[str, Any]] = []
        self.metrics: dict[str, Any] = {
            "perSecond": {"task:completed": 12.0},
            "p50Ms": 4.5,
            "p95Ms": 9.0,
            "successRate": 1.0,
        }
        self.refusal: Refusal | None = None
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.watchers: set[asyncio.Queue[tuple[str, Any] | None]] = set()
        self.url = ""
        self.access = WebAccess(WebAuthSettings())
        self._number = 0

    async def __aenter__(self) -> FakeWorker:
        app = web.Application(middlewares=[self.access.middleware()])
        app.add_routes(
            [
                *page.routes(self._index),
                web.get("/readyz", self._of("ready")),
                web.get("/api/v1/agents", self._of("agents")),
                web.get("/api/v1/agents/{id:[^/]+}/windows", self._of("windows")),
                web.get("/api/v1/agents/{id:[^/]+}/stats", self._stats),
                web.get("/api/v1/anomalies", self._of("anomalies")),
                web.get("/api/v1/partitions", self._of("partitions")),
                web.get("/api/v1/compare", self._compare),
                web.get("/api/v1/tasks/{id:[^/]+}", self._task),
                web.get("/api/v1/dead-letters", self._of("letter_list")),
                web.get("/api/v1/dead-letters/{place:.+}", self._letter),
                web.post("/api/v1/{action:.+}", self._act),
                web.get("/api/v1/plans/{id:[^/]+}", self._of("plan")),
                web.get("/api/v1/stream", self._stream),
                *self.access.routes(),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hang_up()
        await self._runner.cleanup()

    def send(self, name: str, data: Any) -> None:
        """One message to everybody who watches."""
        for queue in self.watchers:
            queue.put_nowait((name, data))

    def hang_up(self) -> None:
        """End every stream."""
        for queue in self.watchers:
            queue.put_nowait(None)

    async def watched(self) -> None:
        """Until somebody watches."""
        await until(lambda: bool(self.watchers), 20)

    def _of(self, name: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await self._answer(request, getattr(self, name))

        return handle

    async def _index(self, request: web.Request) -> web.Response:
        return web.json_response({"paths": ["/"], "bootstrapServers": "10.0.0.7:9092", "topicPrefix": "parallax."})

    async def _answer(self, request: web.Request, found: Any) -> web.Response:
        self.asked.append((request.path, dict(request.headers)))
        if isinstance(found, Refusal):
            return web.json_response({"error": found.error}, status=found.status)
        return web.Response(body=dumps(found), content_type="application/json")

    async def _compare(self, request: web.Request) -> web.Response:
        rows = [
            {"agentId": name, "totalExecutions": 100, "successRate": 0.98, "p95ExecutionTime": 21.5}
            for name in request.query["agents"].split(",")
        ]
        return await self._answer(request, rows)

    async def _stats(self, request: web.Request) -> web.Response:
        self.stats_from = request.query["from"]
        return await self._answer(request, self.stats_of.get(request.match_info["id"], self.stats))

    async def _task(self, request: web.Request) -> web.Response:
        task_id = request.match_info["id"]
        return await self._answer(
            request, self.tasks.get(task_id, Refusal(404, f"nothing is known of task {task_id!r}"))
        )

    async def _letter(self, request: web.Request) -> web.Response:
        found = self.letters.get(request.match_info["place"], Refusal(404, "no dead letter of it"))
        return await self._answer(request, found)

    async def _act(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/json"
        self.acted.append((request.path, orjson.loads(await request.read())))
        return await self._answer(request, self.action)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        if self.refusal is not None:
            return await self._answer(request, self.refusal)
        self.asked.append((request.path, dict(request.headers)))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        queue: asyncio.Queue[tuple[str, Any] | None] = asyncio.Queue()
        await self._write(response, "hello", {"now": format_time(time.time_ns() // 1_000_000), "last": len(self.first)})
        await self._write(response, "events", self.first)
        self.watchers.add(queue)
        measuring = asyncio.create_task(self._measure(queue))
        try:
            while (message := await queue.get()) is not None:
                await self._write(response, *message)
        except ConnectionResetError:
            pass
        finally:
            measuring.cancel()
            self.watchers.discard(queue)
        return response

    async def _measure(self, queue: asyncio.Queue[tuple[str, Any] | None]) -> None:
        """Figures, sooner than a worker's, for nobody to wait for them."""
        while True:
            now = format_time(time.time_ns() // 1_000_000)
            queue.put_nowait(("metrics", {"time": now, "watchers": len(self.watchers)} | self.metrics))
            await asyncio.sleep(0.3)

    async def _write(self, response: web.StreamResponse, name: str, data: Any) -> None:
        mark = ""
        if name == "events":
            self._number += 1
            mark = f"id: {self._number}\n"
        await response.write(f"event: {name}\n{mark}data: ".encode() + dumps(data) + b"\n\n")
