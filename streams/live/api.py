"""The live page's HTTP API: the stream of events, and one task.

In: `GET /api/v1/stream` and `GET /api/v1/tasks/{id}`. Out: server-sent events while the client stays, and JSON. Each
stream is written by its own task, at most four times a second; a client that reads nothing for `SEND_TIMEOUT_S` is cut
off.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Callable
from typing import Any

import orjson
import structlog
from aiohttp import web
from aiokafka.errors import KafkaError

from schemas.times import format_time, parse_duration, parse_time
from schemas.topics import full_name
from streams.answers import error_answer, json_answer
from streams.broker.kafka import client_options
from streams.live.held_elsewhere import OtherWorkers
from streams.live.hub import Hub, TooManyWatchers, Watcher
from streams.live.reading import Taker, TopicReader
from streams.live.task_search import SEARCH_TIMEOUT_S, Busy, TaskSearch
from streams.rules.live.query import watch_request
from streams.settings import Settings

log = structlog.get_logger(__name__)

TICK_S = 0.25
METRICS_S = 1.0
SEND_TIMEOUT_S = 30.0
CLOSE_WAIT_S = 0.5
SEND_BUFFER_BYTES = 128 * 1024
"""The kernel's buffer: its content is old when a slow client reads it."""
RECONNECT_MS = 1000
SINCE_MS = 3_600_000
MAX_ID = 256
HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_DIGITS = re.compile(r"[0-9]+")


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


class LiveApi:
    """The routes of one worker."""

    def __init__(
        self,
        settings: Settings,
        explain: Callable[[str], dict[str, Any] | None] = lambda task_id: None,
        others: OtherWorkers | None = None,
    ) -> None:
        """`explain`: what a task that this worker holds waits for; `others`: asked for tasks it does not hold."""
        self._others = others or OtherWorkers(frozenset)
        self._explain = explain
        topic = full_name("events", settings.topic_prefix)

        def reader(taker: Taker) -> TopicReader:
            return TopicReader(client_options(settings), topic, taker)

        self.hub = Hub(reader, wall_ms)
        self._search = TaskSearch(settings)
        self._open: dict[Watcher, tuple[web.Request, asyncio.Task[Any] | None]] = {}

    def routes(self) -> list[web.RouteDef]:
        """The routes for the web application. No HEAD: it would be a stream without a reader."""
        return [
            web.get("/api/v1/stream", self._stream, allow_head=False),
            web.get("/api/v1/tasks/{id:[^/]+}", self._task, allow_head=False),
            web.get("/api/v1/tasks/{id:[^/]+}/waiting", self._waits, allow_head=False),
        ]

    async def close(self) -> None:
        """End all streams; those stuck in a write are cut off."""
        await self._others.close()
        await self.hub.close()
        writing = [task for _, task in self._open.values() if task is not None]
        if writing:
            await asyncio.wait(writing, timeout=CLOSE_WAIT_S)
        for request, _ in self._open.values():
            _cut(request)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        try:
            asked = watch_request(
                request.query.get("types"), request.query.get("last"), request.headers.get("Last-Event-ID")
            )
        except ValueError as error:
            return error_answer(400, str(error))
        try:
            watcher = self.hub.join(asked)
        except TooManyWatchers as error:
            return error_answer(503, str(error))
        self._open[watcher] = request, asyncio.current_task()
        response = web.StreamResponse(headers=HEADERS)
        try:
            await response.prepare(request)
            _small_buffer(request)
            hello = {"now": format_time(wall_ms()), "last": asked.last}
            await self._send(response, _message("hello", orjson.dumps(hello), extra=f"retry: {RECONNECT_MS}\n"))
            await self._show(response, watcher)
        except TimeoutError:
            log.info("a watcher read nothing for too long and was disconnected", timeout_s=SEND_TIMEOUT_S)
            _cut(request)
        except ConnectionError:
            pass  # the watcher has gone, which is how a stream ends
        finally:
            self.hub.leave(watcher)
            del self._open[watcher]
        return response

    async def _show(self, response: web.StreamResponse, watcher: Watcher) -> None:
        clock = asyncio.get_running_loop().time
        metrics_at = clock()
        while not self.hub.closed.is_set():
            tick = clock()
            await self.hub.begin(watcher)
            chunk = b""
            if dropped := watcher.dropped():
                chunk += _message("dropped", b'{"count":%d}' % dropped)
            if batch := watcher.batch():
                listed = b"[" + b",".join([one.json for one in batch]) + b"]"
                chunk += _message("events", listed, self.hub.cursor(watcher))
            if tick >= metrics_at:
                # Send the cursor again: if events are rare, the last one's would soon be too old.
                chunk += _message("metrics", self.hub.metrics(), self.hub.cursor(watcher))
                metrics_at = max(metrics_at + METRICS_S, tick)
            if chunk:
                await self._send(response, chunk)
            try:
                async with asyncio.timeout(TICK_S):
                    await self.hub.closed.wait()
            except TimeoutError:
                continue

    async def _send(self, response: web.StreamResponse, chunk: bytes) -> None:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await response.write(chunk)

    async def _task(self, request: web.Request) -> web.Response:
        task_id = request.match_info["id"]
        try:
            since_ms = _since(request.query.get("since"), wall_ms())
            if len(task_id) > MAX_ID:
                raise ValueError(f"id: longer than {MAX_ID} characters")
        except ValueError as error:
            return error_answer(400, str(error))
        try:
            found = await self._search.find(task_id, since_ms)
        except Busy as error:
            return error_answer(503, str(error))
        except TimeoutError:
            return error_answer(504, f"not found within {SEARCH_TIMEOUT_S:g} s; search a shorter time with since=10m")
        except KafkaError as error:
            return error_answer(503, f"the brokers do not answer: {error!r}")
        if found is None or found.get("result") is None:
            waiting = self._explain(task_id) or await self._others.waiting(task_id)
            if waiting is not None:
                found = (found or {"taskId": task_id, "status": "waiting", "events": []}) | {"waiting": waiting}
        if found is None:
            why = f"nothing is known of task {task_id!r} since {format_time(since_ms)}; search further back with since=24h"
            return error_answer(404, why)
        return json_answer(found)

    async def _waits(self, request: web.Request) -> web.Response:
        """What a task in this worker's memory waits for; asks no topic and no other worker."""
        task_id = request.match_info["id"]
        found = self._explain(task_id)
        if found is None:
            return error_answer(404, f"this worker does not hold task {task_id!r} in memory")
        return json_answer(found)


def _message(kind: str, data: bytes, cursor: str | None = None, extra: str = "") -> bytes:
    """One server-sent event; `data` is JSON on one line."""
    head = f"{extra}id: {cursor}\n" if cursor else extra
    return f"{head}event: {kind}\ndata: ".encode() + data + b"\n\n"


def _since(text: str | None, now_ms: int) -> int:
    """Epoch ms from a time, or from a duration before now. Raises ValueError."""
    if text is None:
        return now_ms - SINCE_MS
    try:
        if "T" in text.upper() and not _DIGITS.fullmatch(text):
            return parse_time(text)
        return max(0, now_ms - parse_duration(text))
    except ValueError as error:
        raise ValueError(f"since: {error}") from None


def _small_buffer(request: web.Request) -> None:
    found = None if request.transport is None else request.transport.get_extra_info("socket")
    if found is not None:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
