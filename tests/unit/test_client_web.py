"""What the client asks of a worker: with the token it was given, or the one that is configured."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from streams.client import Client
from streams.client.errors import ClientError
from streams.live.access import WebAccess
from streams.settings_parts import WebAuthSettings

VIEW = "view-token-0123456789"


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    """A worker that asks for a token."""
    token = tmp_path / "token"
    token.write_text(VIEW, "utf-8")

    async def stats(request: web.Request) -> web.Response:
        return web.json_response({"agentId": request.match_info["id"]})

    access = WebAccess(WebAuthSettings.model_validate({"view_tokens": f"file:{token}"}))
    app = web.Application(middlewares=[access.middleware()])
    app.add_routes([web.get("/api/v1/agents/{id}/stats", stats)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_the_client_shows_its_token(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument stands above the setting; without one, or with a wrong one, it says where to give it."""
    monkeypatch.chdir(tmp_path)
    given = Client(web=url, token=VIEW)
    assert await given.stats("a") == {"agentId": "a"}
    for client in (Client(web=url), Client(web=url, token="wrong-token-0123456789")):
        with pytest.raises(ClientError, match=r"401: .*Client\(token=\.\.\.\).*web_auth\.token") as caught:
            await client.stats("a")
        assert "0123456789" not in str(caught.value)
        await client.close()
    monkeypatch.setenv("MY_TOKEN", VIEW)
    monkeypatch.setenv("PARALLAX_WEB_AUTH__TOKEN", "env:MY_TOKEN")
    configured = Client(web=url)
    assert await configured.stats("a") == {"agentId": "a"}
    monkeypatch.setenv("PARALLAX_WEB_AUTH__TOKEN", f"file:{tmp_path}/none")
    missing = Client(web=url)
    with pytest.raises(ClientError, match=r"web_auth\.token: the file .*none cannot be read"):
        await missing.stats("a")
    for client in (given, configured, missing):
        await client.close()
