"""The worker's pages are found at the address that is told."""

from __future__ import annotations

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from streams.settings import Settings
from streams.web import WebServer


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_the_address_that_is_told_is_a_url(host: str) -> None:
    """Also where it is one of IPv6."""
    web = WebServer(Settings(web_host=host, web_port=0), CollectorRegistry())
    await web.start()
    try:
        async with aiohttp.ClientSession() as session, session.get(web.reachable + "/livez") as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "ok"})
    finally:
        await web.stop()
