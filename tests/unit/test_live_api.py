"""The API of the live page: what it refuses, who it cuts off, and that it ends at once."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from aiokafka.errors import KafkaConnectionError

from agents_io.secret_refs import secret_of
from streams.live import api, task_search
from streams.live.api import LiveApi
from streams.live.held_elsewhere import OtherWorkers
from streams.live.hub import MAX_WATCHERS, Hub
from streams.live.reading import Taker
from streams.live.task_search import TaskSearch
from streams.settings import Settings
from tests.support.sse import streaming
from tests.support.wait import until


class Reader:
    """Reads what the test gives its taker."""

    def __init__(self, taker: Taker) -> None:
        self.taker = taker

    def start(self) -> None:
        """An empty topic."""
        self.taker.begins({0: 0}, ())
        self.taker.caught_up()

    async def stop(self) -> None:
        """Nothing to release."""

    async def ends(self) -> dict[int, int]:
        """Not known."""
        return {}


class Served:
    """An API on a port."""

    def __init__(self) -> None:
        self.waiting: dict[str, dict[str, Any]] = {}
        self.others = Others({})
        self.api = LiveApi(Settings(), self.waiting.get, others=self.others)
        self.readers: list[Reader] = []
        self.api.hub = Hub(self._reader, api.wall_ms)
        self.url = ""

    def _reader(self, taker: Taker) -> Reader:
        self.readers.append(Reader(taker))
        return self.readers[-1]

    def write(self, offset: int, text: str = "") -> None:
        """One event."""
        value = orjson.dumps({"id": str(offset), "type": "task:started", "timestamp": "T", "data": {"taskId": text}})
        record: Any = SimpleNamespace(offset=offset, timestamp=api.wall_ms(), value=value)
        self.readers[-1].taker.take(0, [record], offset + 1)

    @property
    def watchers(self) -> int:
        """How many look on."""
        return self.api.hub.watchers

    async def get(self, path: str, **headers: str) -> tuple[int, Any]:
        """Status and body."""
        async with aiohttp.ClientSession() as session, session.get(self.url + path, headers=headers) as response:
            return response.status, await response.json()

    async def fill(self) -> None:
        """More than the way to a client holds that takes nothing."""
        for offset in range(1500):
            self.write(offset, "x" * 2000)
            if offset % 100 == 0:
                await asyncio.sleep(0.1)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """One that is closed at the end."""
    one = Served()
    app = web.Application()
    app.add_routes(one.api.routes())
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield one
    await one.api.close()
    await runner.cleanup()


def stuck_client(url: str) -> socket.socket:
    """One who asks for the stream and takes nothing."""
    port = int(url.rpartition(":")[2])
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.sendall(f"GET /api/v1/stream HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    return client


async def test_one_who_takes_nothing_is_cut_off_in_the_end(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place is free again; another sees everything meanwhile."""
    monkeypatch.setattr(api, "SEND_TIMEOUT_S", 0.5)
    with stuck_client(served.url):
        await until(lambda: served.watchers == 1, 10)
        async with streaming(served.url) as quick:
            await until(lambda: served.watchers == 2, 10)
            await served.fill()
            await quick.until(lambda seen: len(seen.events) + seen.dropped >= 1500)
            await until(lambda: served.watchers == 1, 20)
            served.write(1500)
            await quick.until(lambda seen: seen.events[-1]["id"] == "1500")


async def test_the_end_waits_for_no_client(served: Served) -> None:
    """Streams that flow end; one that is stuck is cut."""
    with stuck_client(served.url):
        await until(lambda: served.watchers == 1, 10)
        await served.fill()
        async with streaming(served.url) as quick:
            await quick.until(lambda seen: bool(seen.messages))
            began = time.monotonic()
            await served.api.close()
            await quick.until(lambda seen: seen.ended, 10)
            await until(lambda: served.watchers == 0, 10)
            assert time.monotonic() - began < 10
    assert (await served.get("/api/v1/stream")) == (503, {"error": "this worker is stopping"})


async def test_what_cannot_be_is_refused_by_name_and_the_twenty_first_too(served: Served) -> None:
    """400 and 503, with a reason."""
    for path, field in (("stream?last=9999", "last"), ("stream?types=x", "types"), ("tasks/t?since=soon", "since")):
        code, body = await served.get(f"/api/v1/{path}")
        assert (code, body["error"].split(":")[0]) == (400, field)
    code, body = await served.get("/api/v1/stream", **{"Last-Event-ID": "nonsense"})
    assert (code, body["error"].split(":")[0]) == (400, "Last-Event-ID")
    clients = [stuck_client(served.url) for _ in range(MAX_WATCHERS)]
    await until(lambda: served.watchers == MAX_WATCHERS, 10)
    code, body = await served.get("/api/v1/stream")
    assert (code, "20" in body["error"]) == (503, True)
    for client in clients:
        client.close()
    await until(lambda: served.watchers == 0, 20)


async def test_searches_wait_in_line_and_end_in_time(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """One goes on, a few wait, the others are told to come again; none lasts for ever."""
    monkeypatch.setattr(task_search, "SEARCH_TIMEOUT_S", 0.1)
    under_way, most = 0, 0

    async def endless() -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            await asyncio.sleep(60)
        finally:
            under_way -= 1

    consumer = SimpleNamespace(start=endless)
    monkeypatch.setattr(task_search, "committed_reader", lambda *_, **__: consumer)
    monkeypatch.setattr(task_search, "close", lambda *_: asyncio.sleep(0))
    codes = [code for code, _ in await asyncio.gather(*(served.get("/api/v1/tasks/t") for _ in range(12)))]
    assert sorted(codes) == [503] * 4 + [504] * 8
    assert most == 1

    async def away() -> None:
        raise KafkaConnectionError

    consumer.start = away
    assert (await served.get("/api/v1/tasks/t"))[0] == 503


async def test_a_task_says_what_it_waits_for(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one of which no event tells yet; not one that has its result."""
    found: dict[str, Any] = {
        "old": {"taskId": "old", "status": "success", "result": {"status": "success"}, "events": []}
    }

    async def find(self: TaskSearch, task_id: str, since_ms: int) -> dict[str, Any] | None:
        return found.get(task_id)

    monkeypatch.setattr(TaskSearch, "find", find)
    reason = {"agentId": "a1", "reason": "rate_limited", "since": "2026-11-29T00:00:00.000Z"}
    served.waiting["new"] = served.waiting["old"] = reason
    status, body = await served.get("/api/v1/tasks/new")
    assert (status, body["status"], body["waiting"]) == (200, "waiting", reason)
    assert "waiting" not in (await served.get("/api/v1/tasks/old"))[1]
    assert (await served.get("/api/v1/tasks/none"))[0] == 404


class Others(OtherWorkers):
    """Says what it is told to."""

    def __init__(self, known: dict[str, dict[str, Any]]) -> None:
        super().__init__(frozenset)
        self.known = known
        self.asked: list[str] = []

    async def waiting(self, task_id: str) -> dict[str, Any] | None:
        self.asked.append(task_id)
        return self.known.get(task_id)


async def test_a_task_that_another_worker_holds_is_asked_for_there(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not if it has a result, nor if it is held here."""
    topics: dict[str, Any] = {"ended": {"taskId": "ended", "result": {"status": "success"}, "events": []}}

    async def find(_: TaskSearch, task_id: str, since_ms: int) -> Any:
        return topics.get(task_id)

    monkeypatch.setattr(TaskSearch, "find", find)
    served.others.known["far"] = {"reason": "turn"}
    served.waiting["near"] = {"reason": "calling"}
    assert (await served.get("/api/v1/tasks/far"))[1]["waiting"] == {"reason": "turn"}
    assert (await served.get("/api/v1/tasks/near"))[1]["waiting"] == {"reason": "calling"}
    assert "waiting" not in (await served.get("/api/v1/tasks/ended"))[1]
    assert (await served.get("/api/v1/tasks/nobody"))[0] == 404
    assert served.others.asked == ["far", "nobody"]
    assert (await served.get("/api/v1/tasks/near/waiting"))[1] == {"reason": "calling"}
    assert (await served.get("/api/v1/tasks/far/waiting"))[0] == 404


async def test_other_workers_are_asked_at_once_with_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that holds the task answers; those that are away, refuse or are none hold nobody up; ids stay as they are."""
    monkeypatch.setenv("TOKEN", "secret-secret-123")
    asked: list[tuple[str, str | None]] = []

    async def handle(request: web.Request) -> web.Response:
        asked.append((request.raw_path, request.headers.get("Authorization")))
        holds = request.match_info["who"] == "holder"
        return web.json_response({"reason": "turn"} if holds else {"error": "no"}, status=200 if holds else 404)

    app = web.Application()
    app.router.add_get("/{who}/api/v1/tasks/{id}/waiting", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    peers = [f"{base}/other", f"{base}/holder", f"{base}/odd/odd", "http://127.0.0.1:9"]
    others = OtherWorkers(lambda: peers, secret_of("env:TOKEN", "web_auth.token"))
    try:
        assert await others.waiting("a/b") == {"reason": "turn"}
        peers.remove(f"{base}/holder")
        assert await others.waiting("a/b") is None
    finally:
        await others.close()
        await runner.cleanup()
    assert ("/holder/api/v1/tasks/a%2Fb/waiting", "Bearer secret-secret-123") in asked
