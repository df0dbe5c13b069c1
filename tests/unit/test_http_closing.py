"""Servers that close a connection: which requests are sent again, and which failures are not the agent's."""

from __future__ import annotations

import asyncio
import socket
import struct

import httpx
import pytest

from agents_io.http import connection
from agents_io.http.pooled_transport import FRESH_KEY, PooledTransport, WasClosing
from tests.support.raw_http import OK, Server, read, serving, transport


async def closes_second(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers one request, reads the second and closes: the race with a server's idle timeout."""
    for _ in range(2):
        server.heads.append(await reader.readuntil(b"\r\n\r\n"))
        if len(server.heads) != 2:
            writer.write(OK)
        else:
            return


@pytest.mark.parametrize(("method", "again"), [("GET", True), ("PUT", True), ("DELETE", True), ("POST", False)])
async def test_a_reused_connection_that_was_closing(method: str, again: bool) -> None:
    """An idempotent request is sent once more; a POST without a key may have been carried out."""
    async with serving(closes_second) as server, transport() as one:
        await read(await one.handle_async_request(server.request(method)))
        if again:
            assert await read(await one.handle_async_request(server.request(method))) == b"ok"
        else:
            with pytest.raises(httpx.ReadError, match="without an answer"):
                await one.handle_async_request(server.request(method))
        assert len(server.heads) == (3 if again else 2)


async def sends(one: PooledTransport, server: Server, direct: bool, fresh: bool = False) -> bytes:
    """The body of the answer to a call."""
    if direct:
        return (await one.fetch(server.origin, b"POST / HTTP/1.1\r\n\r\n", b"", 9, 9, fresh=fresh)).body
    request = server.request()
    request.extensions = {**request.extensions, FRESH_KEY: fresh}
    return await read(await one.handle_async_request(request))


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("how", ["reads it first", "closes at once", "half-closes", "resets"])
async def test_a_call_on_a_connection_that_was_closing_is_told_apart(
    how: str, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that closes after each answer and does not say so has not failed. It is not sent again here: calls are counted."""
    monkeypatch.setattr(connection, "CLOSING_S", 10.0)

    async def closes(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)
        if how == "reads it first":
            await reader.readuntil(b"\r\n\r\n")
        elif how == "half-closes":
            writer.write_eof()
            await reader.read()
        elif how == "resets":
            await writer.drain()
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    async with serving(closes) as server, transport() as one:
        assert await sends(one, server, direct) == b"ok"
        with pytest.raises(WasClosing):
            await sends(one, server, direct)
        for _ in range(4):
            assert await sends(one, server, direct, fresh=True) == b"ok"
        assert len(server.heads) == 5


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("how", ["it begins to answer", "it works for long", "a new one closes"])
async def test_a_call_that_failed_otherwise_failed_by_the_agent(
    how: str, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server had begun its answer, or had the time to work on the request, or closed a new connection."""
    monkeypatch.setattr(connection, "CLOSING_S", -1.0 if how == "it works for long" else 10.0)

    async def closes(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.heads.append(await reader.readuntil(b"\r\n\r\n"))
        if len(server.heads) > 1 and how == "a new one closes":
            return
        writer.write(OK)
        server.heads.append(await reader.readuntil(b"\r\n\r\n"))
        if how == "it begins to answer":
            writer.write(OK[:12])

    async with serving(closes) as server, transport() as one:
        assert await sends(one, server, direct) == b"ok"
        with pytest.raises(httpx.ReadError) as failed:
            await sends(one, server, direct, fresh=how == "a new one closes")
        assert not isinstance(failed.value, WasClosing)
        assert len(server.heads) == 2


async def test_a_new_connection_that_closes_is_not_tried_again() -> None:
    """Whatever the method: one attempt is one request."""

    async def closes(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.heads.append(await reader.readuntil(b"\r\n\r\n"))

    async with serving(closes) as server, transport() as one:
        with pytest.raises(httpx.ReadError):
            await one.handle_async_request(server.request("GET"))
        assert len(server.heads) == 1
