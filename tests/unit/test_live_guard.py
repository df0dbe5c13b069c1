"""Pages of other sites do not read a worker on loopback; whoever listens wide is left alone."""

from __future__ import annotations

import aiohttp
import pytest
from aiohttp import web

from streams.live.guard import loopback_only


async def asked(bound_to: str, headers: dict[str, str], path: str = "/") -> int:
    """The status a request with these headers gets."""

    async def well(request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application(middlewares=[loopback_only(bound_to)])
    app.router.add_get("/", well)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}{path}"
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
            return response.status
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "127.0.0.2", "[::1]", "[::1]:8080"])
async def test_this_machine_is_let_in(host: str) -> None:
    """By any of its names, whatever the port."""
    assert await asked("127.0.0.1", {"Host": host}) == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example:80", "127.0.0.1.nip.io", "10.0.0.1", "[", "a@127.0.0.1@b", "0.0.0.0"],
)
async def test_a_name_that_only_resolves_to_this_machine_is_refused(host: str) -> None:
    """Also for pages that do not exist."""
    assert await asked("127.0.0.1", {"Host": host}) == 403
    assert await asked("localhost", {"Host": host}, "/none") == 403


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:3000", 200),
        ("http://[::1]:1", 200),
        ("https://evil.example", 403),
        ("null", 403),
        ("http://[", 403),
    ],
)
async def test_a_page_from_elsewhere_is_refused(origin: str, status: int) -> None:
    """Whatever host it asks."""
    assert await asked("::1", {"Origin": origin}) == status


async def test_a_worker_that_listens_wide_refuses_nobody() -> None:
    """Probes and other workers come by all names."""
    assert await asked("0.0.0.0", {"Host": "worker-1.pod:8080", "Origin": "https://board.example"}) == 200
