"""Any worker answers for all: parts of several owners make the exact whole, and what is not certain is a 503."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web

from agents_io.secret_refs import Secret
from schemas.messages import ConfidenceDataPoint, SecretRef
from schemas.times import parse_time
from streams.live.access import WebAccess
from streams.rules.detection.detectors import Thresholds
from streams.rules.windows.windows import Span
from streams.settings_parts import WebAuthSettings
from streams.statistics.api import StatsApi
from streams.statistics.processor import NotReady
from streams.statistics.query import Question, firing, part
from streams.statistics.state import State

SPANS: Any = {"minute": Span(60_000, 0, 60), "hour": Span(3_600_000, 0, 24), "day": Span(86_400_000, 0, 30)}
NOON_MS = 1_795_348_800_000


class Owner:
    """What the API needs of a processor, over a real state."""

    def __init__(self, partitions: list[int], count: int) -> None:
        self.table: Any = SimpleNamespace(data={})
        self.state = State(table=self.table, spans=SPANS, limits=Thresholds())
        self.partitions = partitions
        self.partition_count = count
        self.addresses: dict[int, str] = {}
        self.ready = True
        self.asked = 0

    async def part(self, question: Question) -> dict[str, Any]:
        """As the processor's."""
        self.asked += 1
        if not self.ready:
            raise NotReady("statistics are recovering")
        return await part(self.state, question, self.partitions)

    async def firing(self) -> dict[str, Any]:
        """As the processor's."""
        return await firing(self.state, self.partitions)

    def owners(self) -> dict[int, str]:
        """As the processor's."""
        return self.addresses

    def feed(self, partition: int, agent: str, pattern: str, values: list[float]) -> None:
        """A point a minute."""
        for offset, value in enumerate(values):
            point = ConfidenceDataPoint(
                agent_id=agent, pattern_name=pattern, task_type="agent", confidence=value, success=value > 0.5,
                timestamp=NOON_MS + offset * 60_000, execution_time=10,
            )  # fmt: skip
            live = self.state.apply(point, partition, offset)
            rows = self.state.rows(live)
            live.series.windows.touched.clear()
            self.table.data.update((key, value) for key, value in rows if value is not None)
            live.leaving.clear()


Serve = Callable[..., Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts an API for an owner; its address."""
    stop: list[Callable[[], Awaitable[None]]] = []

    async def start(owner: Owner, access: WebAccess | None = None, token: Secret | None = None) -> str:
        keeper = SimpleNamespace(processor=owner, ready=True)
        api = StatsApi(lambda: cast("Any", keeper), token)
        app = web.Application(middlewares=[] if access is None else [access.middleware()])
        app.add_routes(api.routes())
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        stop.extend((api.close, runner.cleanup))
        host, port = runner.addresses[0]
        return f"http://{host}:{port}"

    yield start
    for close in stop:
        await close()


async def get(url: str) -> tuple[int, Any]:
    """Status and JSON."""
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.json()


async def two(serve: Serve) -> tuple[Owner, Owner, str, str]:
    """Two workers that share three partitions; agent a's points lie with both, as other partitioners may have it."""
    one, other = Owner([0, 2], 3), Owner([1], 3)
    one.feed(0, "a", "p", [0.9] * 5)
    one.feed(2, "b", "p", [0.6, 0.4])
    other.feed(1, "a", "q", [0.5, 0.4, 0.3, 0.2, 0.1])
    first, second = await serve(one), await serve(other)
    one.addresses = other.addresses = {0: first, 1: second, 2: first}
    return one, other, first, second


async def test_every_worker_gives_the_same_whole(serve: Serve) -> None:
    """Counts, mean, patterns and a falling trend, whoever is asked."""
    _, _, first, second = await two(serve)
    answers = [await get(f"{url}/api/v1/agents/a/stats") for url in (first, second)]
    assert answers[0] == answers[1]
    status, stats = answers[0]
    assert status == 200
    assert stats["totalExecutions"] == 10
    assert stats["avgConfidence"] == pytest.approx(0.6)
    assert stats["successRate"] == 0.5
    assert [(row["patternName"], row["totalExecutions"]) for row in stats["patterns"]] == [("p", 5), ("q", 5)]
    assert stats["patterns"][0]["confidenceTrend"] == pytest.approx(0, abs=1e-9)
    assert stats["patterns"][1]["confidenceTrend"] == pytest.approx(-6)
    assert stats["patterns"][1]["confidenceTrendError"] < 0.001


async def test_ranges_patterns_windows_and_comparison(serve: Serve) -> None:
    """Two minutes of one pattern; the windows; agents side by side; a pattern over agents."""
    _, _, first, _ = await two(serve)
    span = f"from={NOON_MS + 60_000}&to={NOON_MS + 180_000}"
    _, stats = await get(f"{first}/api/v1/agents/a/stats?{span}&patternName=q")
    assert (stats["totalExecutions"], stats["avgConfidence"]) == (2, pytest.approx(0.35))
    assert stats["from"] == "2026-11-22T12:01:00.000Z"
    _, windows = await get(f"{first}/api/v1/agents/a/windows?interval=minute")
    assert [window["count"] for window in windows] == [2] * 5
    assert windows[0]["avgConfidence"] == pytest.approx(0.7)
    _, rows = await get(f"{first}/api/v1/compare?agents=a,b,nobody")
    assert [(row["agentId"], row["totalExecutions"]) for row in rows] == [("a", 10), ("b", 2), ("nobody", 0)]
    _, pattern = await get(f"{first}/api/v1/patterns/p/stats")
    assert [(row["agentId"], row["totalExecutions"]) for row in pattern["agents"]] == [("a", 5), ("b", 2)]


async def test_what_is_not_certain_is_no_number(serve: Serve) -> None:
    """An owner that recovers, that is gone, partitions nobody speaks for or two do: 503 and "recovering", each time."""
    one, other, first, _ = await two(serve)

    async def refused() -> None:
        status, body = await get(f"{first}/api/v1/agents/a/stats")
        assert status == 503
        assert "recovering" in body["error"]

    other.ready = False
    await refused()
    other.ready, other.partitions = True, []
    await refused()
    other.partitions = [1, 2]
    await refused()
    other.partitions = [1]
    one.addresses = {1: "http://127.0.0.1:9"}
    await refused()
    one.addresses = {}
    await refused()
    assert other.asked == 3


async def test_questions_that_are_none(serve: Serve) -> None:
    """Each names what is wrong."""
    _, _, first, _ = await two(serve)
    for path, status, word in (
        ("agents/nobody/stats", 404, "nobody"),
        ("agents/a/stats?from=yesterday", 400, "from"),
        ("agents/a/stats?from=5&to=5", 400, "before"),
        ("agents/a/windows?interval=week", 400, "interval"),
        ("compare", 400, "agents"),
        ("anomalies?state=over", 400, "state"),
    ):
        found, body = await get(f"{first}/api/v1/{path}")
        assert (found, word in body["error"]) == (status, True), path


async def test_alarms_of_all_workers_are_listed(serve: Serve) -> None:
    """One agent fell."""
    _, other, first, _ = await two(serve)
    other.feed(1, "c", "p", [0.9, 0.91] * 40 + [0.3] * 12)
    status, rows = await get(f"{first}/api/v1/anomalies?state=firing")
    assert status == 200
    fell = next(row for row in rows if (row["agentId"], row["type"]) == ("c", "sudden_drop"))
    assert NOON_MS + 80 * 60_000 <= parse_time(fell["detectedAt"]) < NOON_MS + 92 * 60_000


async def test_a_worker_shows_its_token_to_the_others(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which ask for it. Without one, or with another, the answer is none; a redirect leads the token nowhere."""
    monkeypatch.setenv("VIEW", "view-token-0123456789")
    access = WebAccess(WebAuthSettings.model_validate({"view_tokens": "env:VIEW"}))
    here, there = Owner([0], 2), Owner([1], 2)
    there.feed(1, "a", "p", [0.9])
    here.addresses = there.addresses = {1: await serve(there, access)}
    for name, status in (("VIEW", 200), (None, 503), ("HOME", 503), ("NO_SUCH_VARIABLE", 503)):
        token = None if name is None else Secret(SecretRef(env=name))
        assert (await get(f"{await serve(here, None, token)}/api/v1/agents/a/stats"))[0] == status, name
    caught: list[str] = []

    async def take(request: web.Request) -> web.Response:
        caught.append(request.headers.get("Authorization", ""))
        return web.json_response({})

    async def lead_on(request: web.Request) -> web.Response:
        raise web.HTTPFound("/taken")

    app = web.Application()
    app.add_routes([web.get("/internal/v2/stats", lead_on), web.get("/taken", take)])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        here.addresses = {1: f"http://127.0.0.1:{runner.addresses[0][1]}"}
        url = await serve(here, None, Secret(SecretRef(env="VIEW")))
        assert (await get(f"{url}/api/v1/agents/a/stats"))[0] == 503
    finally:
        await runner.cleanup()
    assert caught == []
