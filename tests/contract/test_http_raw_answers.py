"""What servers send, byte for byte, over both ways of a call, the direct one and httpx's types: one outcome for both."""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from agents_io.errors import AgentError
from agents_io.http.pooled_transport import PooledTransport
from agents_io.protocols.http.transport import HttpTransport
from agents_io.transport import Call
from schemas.messages import AgentRegistration
from tests.support.wait import until

CAP = 50_000
OK = b'{"value": "yes", "confidence": 0.5}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
LENGTH = b"Content-Length: %d\r\n\r\n" % len(OK)
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(OK) + OK + b"\r\n"
ZIPPED = gzip.compress(OK)

YES = "yes"
CASES: dict[str, tuple[list[bytes | None], str]] = {
    # The pieces that are sent, a while apart (None: the connection is reset; the last thing is that it is closed).
    "length": ([HEAD + LENGTH + OK], YES),
    "in three pieces": ([HEAD[:9], HEAD[9:] + LENGTH + OK[:5], OK[5:]], YES),
    "chunked": ([HEAD + CHUNKED + b"0\r\n\r\n"], YES),
    "chunked with trailers": ([HEAD + CHUNKED + b"0\r\nX-T: 1\r\n\r\n"], YES),
    "http/1.0, closed": ([b"HTTP/1.0 200 OK\r\n\r\n", OK], YES),
    "no length, closed": ([HEAD + b"\r\n" + OK], YES),
    "connection: close": ([HEAD + b"Connection: close\r\n" + LENGTH + OK], YES),
    "100 first": ([b"HTTP/1.1 100 Continue\r\n\r\n", HEAD + LENGTH + OK], YES),
    "103 and 102 first": (
        [b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 102 x\r\n\r\n", HEAD + LENGTH + OK],
        YES,
    ),
    "no reason": ([b"HTTP/1.1 200\r\n" + LENGTH + OK], YES),
    "bare LF": ([b"HTTP/1.1 200 OK\nContent-Length: %d\n\n" % len(OK) + OK], YES),
    "more than was asked for": ([HEAD + LENGTH + OK + HEAD + LENGTH + OK], YES),
    "gzip": ([HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(ZIPPED) + ZIPPED], YES),
    "large header": ([HEAD + b"X-Big: " + b"a" * 60_000 + b"\r\n" + LENGTH + OK], YES),
    "many headers": ([HEAD + b"".join(b"X-%d: 1\r\n" % n for n in range(500)) + LENGTH + OK], YES),
    "upgrade offered": ([HEAD + b"Upgrade: h2c\r\nConnection: Upgrade\r\n" + LENGTH + OK], YES),
    "nothing": ([b""], "connection"),
    "reset": ([None], "connection"),
    "reset in the body": ([HEAD + LENGTH + OK[:9], None], "connection"),
    "cut off": ([HEAD + LENGTH + OK[:9]], "connection"),
    "cut off after whole JSON": ([HEAD + b"Content-Length: 99\r\n\r\n" + OK], "connection"),
    "chunks without their end": ([HEAD + CHUNKED], "connection"),
    "two lengths": ([HEAD + LENGTH[:-2] + LENGTH + OK], "bad_response"),
    "length and chunks": ([HEAD + LENGTH[:-2] + CHUNKED + b"0\r\n\r\n"], "bad_response"),
    "http/2": ([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], "bad_response"),
    "another protocol": ([b"SSH-2.0-OpenSSH_9.2\r\n"], "bad_response"),
    "too large a header": ([HEAD + b"X: " + b"a" * 70_000 + b"\r\n" + LENGTH + OK], "bad_response"),
    "204": ([b"HTTP/1.1 204 No Content\r\n\r\n"], "bad_response"),
    "101": ([b"HTTP/1.1 101 x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"], "bad_response"),
    "states too much": ([HEAD + b"Content-Length: 99999999\r\n\r\n" + OK], "too_large"),
    "sends too much": ([HEAD + b"\r\n", b"x" * (CAP + 1)], "too_large"),
    "gzip of too much": (
        [HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"x" * (CAP + 1))],
        "too_large",
    ),
    "413 that is long": ([b"HTTP/1.1 413 x\r\nContent-Length: 99999\r\n\r\n" + b"x" * 50_000], "http_4xx"),
    "redirect elsewhere": ([b"HTTP/1.1 307 x\r\nLocation: http://h/\r\nContent-Length: 0\r\n\r\n"], "bad_response"),
}


class OverHttpx(httpx.AsyncBaseTransport):
    """Our transport behind a face that hides the direct way."""

    def __init__(self) -> None:
        self._inner = PooledTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """As it is."""
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._inner.aclose()


@asynccontextmanager
async def server(pieces: list[bytes | None], *, reads_body: bool = True) -> AsyncIterator[str]:
    """One that sends these pieces to every request, and closes."""

    under_way: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        under_way.add(writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if reads_body:
                await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
            for piece in pieces:
                if piece is None:
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    writer.transport.abort()
                    return
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.02)
        except ConnectionError:
            pass
        finally:
            under_way.discard(writer)
            writer.close()

    one = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**24)
    try:
        yield f"http://127.0.0.1:{one.sockets[0].getsockname()[1]}"
    finally:
        one.close()
        await until(lambda: not under_way)


async def outcome(way: type[httpx.AsyncBaseTransport], url: str, body: bytes = b"{}") -> str:
    """The value of the answer, or the code of the error."""
    transport = HttpTransport(way(), max_answer_bytes=CAP)
    try:
        answer = await transport.call(AgentRegistration(id="a", endpoint=url), Call("t", "t", body, 5.0))
    except AgentError as error:
        return error.code if error.message.isprintable() else repr(error.message)
    finally:
        await transport.close()
    return str(answer.value)


@pytest.mark.parametrize("way", [PooledTransport, OverHttpx])
@pytest.mark.parametrize("case", CASES)
async def test_what_a_server_sends(case: str, way: type[httpx.AsyncBaseTransport]) -> None:
    """Row by row."""
    pieces, expected = CASES[case]
    async with server(pieces) as url:
        assert await outcome(way, url) == expected


@pytest.mark.parametrize("way", [PooledTransport, OverHttpx])
async def test_an_answer_before_the_request_is_read(way: type[httpx.AsyncBaseTransport]) -> None:
    """It counts, though most of the request is never read."""
    early = b"HTTP/1.1 413 Payload Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
    async with server([early], reads_body=False) as url:
        assert await outcome(way, url, b'"' + b"x" * 20_000_000 + b'"') == "http_4xx"
