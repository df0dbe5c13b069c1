"""The pool of connections to agents, against raw servers on loopback: reuse, limits, expiry, cancelling, closing."""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import Any

import httpx
import pytest

from agents_io.http import pool
from agents_io.http.connecting import Connector
from agents_io.http.connection import Connection
from agents_io.http.pool import ConnectionPool
from agents_io.http.pooled_transport import SSL_KEY, PooledTransport
from agents_io.tls import TlsFiles, context_of
from tests.support.raw_http import CERTS, hangs, read, serving, transport
from tests.support.wait import until


async def test_connections_are_reused_newest_first() -> None:
    """As many as were in use at once."""
    async with serving() as server, transport() as one:
        for _ in range(3):
            assert await read(await one.handle_async_request(server.request())) == b"ok"
        assert server.connections == 1
        await asyncio.gather(*(one.fetch(server.origin, b"POST / HTTP/1.1\r\n\r\n", b"", 9, 9) for _ in range(5)))
        assert (server.connections, one.pool.idle, one.pool.in_use) == (5, 5, 0)


async def test_callers_above_the_limit_wait_in_order_and_may_give_up() -> None:
    """A slot that is handed to a caller that gives up in the same turn goes to the next."""
    async with serving(hangs) as server:
        connections = ConnectionPool(Connector(), 1)
        first = await connections.acquire(server.origin)
        waiting = [asyncio.ensure_future(connections.acquire(server.origin)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        connections.release(server.origin, first)
        waiting[1].cancel()
        second = await asyncio.wait_for(waiting[2], 5)
        assert connections.in_use == 1
        connections.release(server.origin, second)
        assert connections.in_use == 0
        await connections.aclose()


async def test_a_connection_that_cannot_be_opened_frees_its_slot() -> None:
    """Else a dead agent would use up the pool."""
    async with serving() as server:
        origin = server.origin
    connections = ConnectionPool(Connector(), 1)
    for _ in range(3):
        with pytest.raises(httpx.ConnectError, match="cannot connect to 127"):
            await connections.acquire(origin)
    assert connections.in_use == 0
    await connections.aclose()
    with pytest.raises(httpx.LocalProtocolError, match="closed"):
        await connections.acquire(origin)


async def test_idle_connections_are_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without another call, and never used once they are too old."""
    monkeypatch.setattr(pool, "KEEPALIVE_S", 0.1)
    async with serving() as server, transport() as one:
        await read(await one.handle_async_request(server.request()))
        await until(lambda: server.closed == 1)
        assert one.pool.idle == 0
        await read(await one.handle_async_request(server.request()))
        time.sleep(0.15)  # noqa: ASYNC251 - no timer of the pool may run meanwhile
        await read(await one.handle_async_request(server.request()))
        assert server.connections == 3


@pytest.mark.parametrize("direct", [True, False])
async def test_cancelling_closes_the_connection_at_once(direct: bool) -> None:
    """And frees its slot."""
    async with serving(hangs) as server, transport() as one:
        call: Any = (
            one.fetch(server.origin, b"POST / HTTP/1.1\r\n\r\n", b"", 9, 9)
            if direct
            else one.handle_async_request(server.request())
        )
        task = asyncio.ensure_future(call)
        await until(lambda: len(server.heads) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: server.closed == 1, 1.0)
        assert one.pool.in_use == 0


async def test_each_context_has_its_own_connections() -> None:
    """A renewed certificate is not shown on an old connection, nor a connection of one agent used for another's trust."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTS / "server.pem", CERTS / "server.key")
    old, new = (context_of(TlsFiles(str(CERTS / "authority.pem"))) for _ in range(2))
    async with serving(ssl=context) as server, transport(tls=lambda: old) as one:
        url = f"https://127.0.0.1:{server.port}/"
        for extensions in ({}, {}, {SSL_KEY: new}, {SSL_KEY: new}):
            request = httpx.Request("POST", url, headers=[("Host", "h")], extensions=extensions)
            assert await read(await one.handle_async_request(request)) == b"ok"
        assert (server.connections, one.pool.idle) == (2, 2)


async def test_closing_the_pool_ends_calls_under_way() -> None:
    """With an error that says so, in use and waiting."""
    async with serving(hangs) as server:
        one = PooledTransport(max_connections=1)
        calls = [asyncio.ensure_future(one.handle_async_request(server.request())) for _ in range(2)]
        await until(lambda: len(server.heads) == 1)
        await one.aclose()
        ends = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5)
        assert [type(end) for end in ends] == [httpx.ReadError, httpx.LocalProtocolError]


def test_a_connection_has_no_dictionary() -> None:
    """There may be 20,000 of them."""
    assert not hasattr(Connection(), "__dict__")
