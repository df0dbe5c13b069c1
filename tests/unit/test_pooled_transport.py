"""Requests over pooled connections: what may stand in their heads, and bodies that are read slowly or not to their end."""

from __future__ import annotations

import asyncio

import httpx
import pytest
import yarl

from tests.support.raw_http import Server, read, serving, transport
from tests.support.wait import until


@pytest.mark.parametrize("value", ["1\r\nX-Evil: 2", "1\n", "1\0"])
async def test_a_header_cannot_end_its_line(value: str) -> None:
    """Nothing is sent."""
    async with serving() as server, transport() as one:
        request = httpx.Request("POST", "http://h", headers=[("X", value)])
        with pytest.raises(httpx.LocalProtocolError, match="control character"):
            await one.handle_async_request(request)
        assert server.connections == 0


async def test_the_credentials_of_a_url_become_a_header() -> None:
    """Basic authentication; never beside another one."""
    async with serving() as server, transport() as one:
        url = yarl.URL(f"http://me:p%40w@127.0.0.1:{server.port}/")
        request = httpx.Request("POST", "http://h", extensions={"parallax.url": url})
        await read(await one.handle_async_request(request))
        assert b"\r\nAuthorization: Basic bWU6cEB3\r\n" in server.heads[0]
        request.headers["Authorization"] = "Bearer t"
        with pytest.raises(httpx.LocalProtocolError, match="credentials"):
            await one.handle_async_request(request)


async def test_a_body_that_is_not_read_to_its_end_closes_the_connection() -> None:
    """The rest would be taken for the next response."""

    async def long(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")
        await reader.read()

    async with serving(long) as server, transport() as one:
        response = await one.handle_async_request(server.request())
        assert isinstance(response.stream, httpx.AsyncByteStream)
        await response.stream.aclose()
        await until(lambda: server.closed == 1)
        assert (one.pool.in_use, one.pool.idle) == (0, 0)


async def test_a_reader_that_is_slow_holds_up_the_server() -> None:
    """A stream without end does not fill the memory."""
    sent = 0

    async def floods(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            sent += 65536
            await writer.drain()

    async with serving(floods) as server, transport() as one:
        response = await one.handle_async_request(server.request())
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.1)
        assert sent < 20_000_000
        assert isinstance(response.stream, httpx.AsyncByteStream)
        async for _ in response.stream:
            if sent > before + 1_000_000:
                break
        await response.stream.aclose()
