"""Who may ask a worker over HTTP: tokens with two powers, users named by a trusted proxy, probes, and nobody else."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from streams.live.access import WebAccess
from streams.settings import Settings
from streams.settings_parts import WebAuthSettings
from streams.web import WebServer

VIEW, OPERATE = "view-token-0123456789", "operate-token-0123456789"
GUARDED = {"view_tokens": "env:VIEW", "operate_tokens": "env:OPERATE"}
HTML = {"Accept": "text/html"}
Ask = Callable[..., Any]


@pytest.fixture(autouse=True)
def _tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIEW", VIEW)
    monkeypatch.setenv("OPERATE", OPERATE)


def bearer(token: str) -> dict[str, str]:
    """The header that shows a token."""
    return {"Authorization": f"Bearer {token}"}


@asynccontextmanager
async def worker(**given: Any) -> AsyncIterator[str]:
    """A worker's whole web side; its address."""
    server = WebServer(Settings.model_validate({"web_port": 0, "web_auth": given}), CollectorRegistry())
    await server.start()
    try:
        yield server.url
    finally:
        await server.stop()


async def asked(url: str, headers: dict[str, str] | None = None, method: str = "GET") -> tuple[int, str]:
    """Status and body."""
    async with aiohttp.ClientSession() as session, session.request(method, url, headers=headers) as answer:
        return answer.status, await answer.text()


@asynccontextmanager
async def guarded(given: WebAuthSettings, clock: Callable[[], float] = lambda: 0.0) -> AsyncIterator[str]:
    """A server with something to read and something to change."""
    access = WebAccess(given, clock)

    async def well(request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application(middlewares=[access.middleware()])
    app.add_routes([web.get("/thing", well), web.post("/thing", well), *access.routes()])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def paths_of(url: str) -> list[str]:
    """All routes of a worker, with something in place of each parameter."""
    import json

    _, body = await asked(url + "/", bearer(VIEW))
    return [path.replace("{id}", "x").replace("{name}", "x") for path in json.loads(body)["paths"]]


async def test_without_a_token_nothing_is_answered_but_probes_and_the_page_to_log_in_with() -> None:
    """Every route, those that workers ask each other, and paths that do not exist."""
    async with worker(**GUARDED) as url:
        paths = await paths_of(url)
        assert "/internal/v2/stats" in paths
        assert "/internal/v1/plans" in paths
        for path in [*paths, "/nothing", "/metrics/", "//api/v1/agents", "/page/../api/v1/agents"]:
            status, body = await asked(url + path)
            if path in ("/livez", "/readyz", "/page/{file}"):
                assert status in (200, 503, 404), path
            else:
                assert status in (401, 404), path
                assert "bootstrap" not in body
                assert status == 401 or path.startswith("/page/"), path
        assert (await asked(url + "/"))[0] == 401
        status, body = await asked(url + "/", HTML)
        assert (status, "Parallax Streams" in body) == (200, True)
        assert (await asked(url + "/page/app.js"))[0] == 200


async def test_a_probe_without_a_token_learns_yes_or_no_only() -> None:
    """Which role or topic is missing is for those who may view."""
    async with worker(**GUARDED) as url:
        assert (await asked(url + "/livez"))[0] == 200
        status, body = await asked(url + "/readyz")
        assert (status, body) == (503, '{"ready":false}')
        assert '"checks"' in (await asked(url + "/readyz", bearer(VIEW)))[1]
        assert (await asked(url + "/readyz", bearer("wrong")))[1] == '{"ready":false}'


async def test_metrics_are_for_those_who_may_view_unless_a_setting_opens_them() -> None:
    """Prometheus can send a token."""
    async with worker(**GUARDED) as url:
        assert [(await asked(url + "/metrics", headers))[0] for headers in (None, bearer(VIEW))] == [401, 200]
    async with worker(**GUARDED, open_metrics=True) as url:
        assert (await asked(url + "/metrics"))[0] == 200
        assert (await asked(url + "/api/v1/agents"))[0] == 401


async def test_one_power_reads_and_the_other_changes() -> None:
    """Operating includes viewing; what a caller may is told to it."""
    async with guarded(WebAuthSettings.model_validate(GUARDED)) as url:
        statuses = {
            (name, method): (await asked(url + "/thing", headers, method))[0]
            for name, headers in (("none", None), ("view", bearer(VIEW)), ("operate", bearer(OPERATE)))
            for method in ("GET", "POST")
        }
        assert statuses == {
            ("none", "GET"): 401,
            ("none", "POST"): 401,
            ("view", "GET"): 200,
            ("view", "POST"): 403,
            ("operate", "GET"): 200,
            ("operate", "POST"): 200,
        }
        assert await asked(url + "/api/v1/access", bearer(VIEW)) == (
            200,
            '{"required":true,"power":"view","user":null}',
        )
        assert '"power":"operate"' in (await asked(url + "/api/v1/access", bearer(OPERATE)))[1]


@pytest.mark.parametrize("shown", [VIEW, f"Basic {VIEW}", "Bearer ", "Bearer", f"bearer  {VIEW}x", "Bearer \xff"])
async def test_what_is_no_right_bearer_token_is_refused(shown: str) -> None:
    """A header of another scheme, an empty token, one that only begins rightly."""
    async with guarded(WebAuthSettings.model_validate(GUARDED)) as url:
        assert (await asked(url + "/thing", {"Authorization": shown}))[0] == 401
        assert (await asked(f"{url}/thing?token={VIEW}&access_token={VIEW}"))[0] == 401


async def test_a_worker_without_tokens_asks_for_none() -> None:
    """On loopback, or where that was allowed."""
    async with guarded(WebAuthSettings()) as url:
        assert (await asked(url + "/thing", method="POST"))[0] == 200
        assert '"required":false' in (await asked(url + "/api/v1/access"))[1]


async def test_tokens_are_rotated_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old and new side by side; a file that is gone lets nobody in."""
    monkeypatch.setattr("agents_io.secret_refs.RECHECK_S", 0.0)
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("old-token-0123456789\n", "utf-8")
    new.write_text("new-token-0123456789", "utf-8")
    given = WebAuthSettings.model_validate({"view_tokens": f"file:{old}, file:{new}"})
    async with guarded(given) as url:

        async def statuses() -> list[int]:
            return [(await asked(url + "/thing", bearer(f"{n}-token-0123456789")))[0] for n in ("old", "new", "newer")]

        assert await statuses() == [200, 200, 401]
        new.write_text("newer-token-0123456789", "utf-8")
        assert await statuses() == [200, 401, 200]
        old.unlink()
        assert await statuses() == [401, 401, 200]


async def test_a_source_with_many_wrong_tokens_waits() -> None:
    """Its right token too, or guessing would go on; other sources do not notice, and a missing token is no guess."""
    now = [0.0]
    async with guarded(WebAuthSettings.model_validate(GUARDED), lambda: now[0]) as url:
        for _ in range(20):
            assert (await asked(url + "/thing"))[0] == 401
        for _ in range(10):
            assert (await asked(url + "/thing", bearer("guess")))[0] == 401
        assert (await asked(url + "/thing", bearer("guess")))[0] == 429
        assert (await asked(url + "/thing", bearer(VIEW)))[0] == 429
        now[0] = 61.0
        assert (await asked(url + "/thing", bearer(VIEW)))[0] == 200


async def test_a_proxy_that_is_trusted_names_the_user() -> None:
    """From listed networks only, once only; operators are listed too; tokens go on to work."""
    given = GUARDED | {"proxy_header": "X-Forwarded-User", "proxy_operators": "ops"}
    near = WebAuthSettings.model_validate(given | {"proxy_networks": "127.0.0.0/8"})
    async with guarded(near) as url:
        for user, power in (("ann", "view"), ("ops", "operate")):
            headers = {"X-Forwarded-User": user}
            assert await asked(url + "/api/v1/access", headers) == (
                200,
                f'{{"required":true,"power":"{power}","user":"{user}"}}',
            )
            assert (await asked(url + "/thing", headers, "POST"))[0] == (200 if power == "operate" else 403)
        # The proxy's word stands above a token of the user's that it passes on.
        assert (await asked(url + "/thing", {"X-Forwarded-User": "ann"} | bearer("of another system")))[0] == 200
        assert (await asked(url + "/thing", {"X-Forwarded-User": " "}))[0] == 401
        assert (await asked(url + "/thing", bearer(VIEW)))[0] == 200
        async with aiohttp.ClientSession() as session:
            twice = [("X-Forwarded-User", "ann"), ("X-Forwarded-User", "ops")]
            async with session.get(url + "/thing", headers=twice) as answer:
                assert answer.status == 401
    far = WebAuthSettings.model_validate(given | {"proxy_networks": "10.0.0.7/32, 2001:db8::/32"})
    async with guarded(far) as url:
        assert (await asked(url + "/thing", {"X-Forwarded-User": "ops"}))[0] == 401


async def test_no_token_is_logged(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither right nor wrong ones, nor those in a request that cannot be parsed."""
    caplog.set_level(logging.DEBUG)
    async with worker(**GUARDED) as url:
        for shown in (VIEW, "wrong-token-0123456789", "bad\x01token-0123456789"):
            async with aiohttp.ClientSession() as session:
                try:
                    await session.get(url + "/api/v1/agents", headers=bearer(shown))
                except (aiohttp.ClientError, ValueError):
                    continue
        import asyncio

        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(
            b"GET /api/v1/agents HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + VIEW.encode() + b"\r\n"
        )
        writer.write(b"bad header\r\n\r\n")
        assert b"400" in await reader.readline()
        writer.close()
    told = capfd.readouterr()
    assert "0123456789" not in caplog.text + told.out + told.err
