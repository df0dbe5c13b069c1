"""The connection pool and the transport over it, against raw servers on loopback: reuse, limits, expiry, retries, addresses."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yarl

from agents_io.errors import ForbiddenTarget, InternalError
from agents_io.http import connecting, connection, pool
from agents_io.http.connecting import Connector, Origin
from agents_io.http.connection import Connection
from agents_io.http.pool import ConnectionPool
from agents_io.http.pooled_transport import FRESH_KEY, SSL_KEY, PooledTransport, WasClosing
from agents_io.lookup import system_lookup
from agents_io.protocols.http.transport import HttpTransport
from agents_io.rules.targets import AllowList
from agents_io.tls import TlsFiles, context_of
from agents_io.transport import Call
from schemas.messages import AgentRegistration
from tests.support.wait import until

CERTS = Path(__file__).parent.parent / "support" / "tls"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Serve = Callable[["Server", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Counts connections, keeps the heads of requests; `serve` handles one connection."""

    def __init__(self, serve: Serve) -> None:
        self.serve = serve
        self.port = 0
        self.connections = 0
        self.closed = 0
        self.heads: list[bytes] = []

    @property
    def origin(self) -> Origin:
        """Where it listens."""
        return Origin("127.0.0.1", self.port, None)

    def request(self, method: str = "POST", host: str = "127.0.0.1", **extensions: Any) -> httpx.Request:
        """A request to it."""
        url = yarl.URL(f"http://{host}:{self.port}/x")
        return httpx.Request(method, str(url), headers=[("Host", "h")], extensions=extensions)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        try:
            await self.serve(self, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.closed += 1
            writer.close()


async def answers(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """OK to every request."""
    while True:
        server.heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)


async def hangs(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reads a request, answers nothing, waits for the connection to close."""
    server.heads.append(await reader.readuntil(b"\r\n\r\n"))
    await reader.read()


@asynccontextmanager
async def serving(serve: Serve = answers, host: str = "127.0.0.1", **options: Any) -> AsyncIterator[Server]:
    """A server on loopback."""
    one = Server(serve)
    server = await asyncio.start_server(one.handle, host, 0, **options)
    one.port = server.sockets[0].getsockname()[1]
    try:
        yield one
    finally:
        server.close()


@asynccontextmanager
async def transport(**options: Any) -> AsyncIterator[PooledTransport]:
    """Closed at the end, with nothing left open."""
    one = PooledTransport(**options)
    try:
        yield one
    finally:
        await one.aclose()
        assert not one.pool._open


async def read(response: httpx.Response) -> bytes:
    """The whole body; the connection goes back to the pool."""
    assert isinstance(response.stream, httpx.AsyncByteStream)
    try:
        return b"".join([piece async for piece in response.stream])
    finally:
        await response.stream.aclose()


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


# --- addresses ---


async def test_an_address_that_refuses_is_followed_by_the_next() -> None:
    """Of the other family too, if there is one here."""
    async with serving() as server:

        async def lookup(host: str, port: int) -> list[str]:
            return ["::1", "127.0.0.2", "127.0.0.1"]

        async with transport(connector=Connector(lookup)) as one:
            assert await read(await one.handle_async_request(server.request(host="agent.test"))) == b"ok"


async def test_an_address_that_does_not_answer_delays_the_next_a_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of a second, not the kernel's two minutes."""
    monkeypatch.setattr(connecting, "FALLBACK_DELAY_S", 0.05)
    with socket.socket() as full:
        # Listening with a full backlog: further connections get no answer at all.
        full.bind(("127.0.0.2", 0))
        port = full.getsockname()[1]
        full.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.2", port))

        async def lookup(host: str, number: int) -> list[str]:
            return ["127.0.0.2", "127.0.0.1"]

        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", port)
        try:
            connection = await asyncio.wait_for(
                Connector(lookup).connect(Origin("agent.test", port, None), lambda lost: None), 3
            )
            assert connection._transport is not None
            assert connection._transport.get_extra_info("peername")[0] == "127.0.0.1"
            connection.abort()
            await asyncio.sleep(0)
        finally:
            server.close()
            for filler in fillers:
                filler.close()


async def test_answers_of_the_lookup_are_kept_for_a_while_and_used_in_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers at the same time share one lookup, and one that gives up does not take it from the others."""
    asked = 0
    gate = asyncio.Event()

    async def lookup(host: str, port: int) -> list[str]:
        nonlocal asked
        asked += 1
        await gate.wait()
        return ["127.0.0.1", "127.0.0.2"]

    one = Connector(lookup)
    callers = [asyncio.ensure_future(one._addresses("agent.test", 1)) for _ in range(3)]
    await asyncio.sleep(0)
    callers[0].cancel()
    await asyncio.sleep(0)
    gate.set()
    found = await asyncio.gather(*callers[1:])
    assert asked == 1
    assert sorted(addresses[0] for addresses in found) == ["127.0.0.1", "127.0.0.2"]
    monkeypatch.setattr(connecting, "CACHE_TTL_S", -1.0)
    await one._addresses("agent.test", 1)
    assert asked == 2


async def test_a_lookup_that_is_under_way_when_the_pool_closes_is_a_failure_to_connect() -> None:
    """Its caller was not cancelled, so it must not look as if it was."""

    looking = asyncio.Event()

    async def lookup(host: str, port: int) -> list[str]:
        looking.set()
        await asyncio.Event().wait()
        return []

    one = PooledTransport(connector=Connector(lookup))
    call = asyncio.ensure_future(one.handle_async_request(httpx.Request("POST", "http://agent.test:1/")))
    await looking.wait()
    await one.aclose()
    with pytest.raises(httpx.ConnectError, match="closing"):
        await asyncio.wait_for(call, 5)
    assert one.pool.in_use == 0


async def test_a_lookup_that_fails_is_a_failure_to_connect() -> None:
    """And is not kept."""

    async def lookup(host: str, port: int) -> list[str]:
        raise OSError(-2, "Name or service not known")

    one = Connector(lookup)
    for host in ("agent.test", "a" * 300):
        with pytest.raises(httpx.TransportError, match=r"cannot connect to|label"):
            await one.connect(Origin(host, 1, None), lambda lost: None)
    assert not one._under_way


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["127.0.0.1", "127.0.0.2"]])
async def test_no_descriptors_left_is_not_the_agents_fault(addresses: list[str]) -> None:
    """However many addresses it has."""

    class Exhausted(Connector):
        def _socket(self, row: tuple[Any, ...]) -> socket.socket:
            raise OSError(errno.EMFILE, "Too many open files")

    async def lookup(host: str, port: int) -> list[str]:
        return addresses

    transport = HttpTransport(PooledTransport(connector=Exhausted(lookup)))
    with pytest.raises(InternalError, match="this worker could not connect"):
        await transport.call(AgentRegistration(id="a", endpoint="http://agent.test:1"), Call("t", "t", b"{}", 5.0))
    await transport.close()


async def test_the_guard_looks_at_addresses_too_and_keeps_no_lookup() -> None:
    """Written in the URL or looked up; one bad address is enough."""
    found = ["127.0.0.1"]

    async def lookup(host: str, port: int) -> list[str]:
        return found

    async with serving() as server:
        one = Connector(lookup, AllowList([], ["127.0.0.1/32"]).check_text)
        connection = await one.connect(Origin("agent.test", server.port, None), lambda lost: None)
        connection.abort()
        found = ["127.0.0.1", "10.0.0.1"]
        for host in ("agent.test", "127.0.0.2", "10.0.0.1", "::ffff:10.0.0.1"):
            with pytest.raises(ForbiddenTarget, match="is not public"):
                await one.connect(Origin(host, server.port, None), lambda lost: None)
        assert server.connections <= 1


async def test_the_systems_lookup() -> None:
    """Addresses as text."""
    assert set(await system_lookup("localhost", 1)) & {"127.0.0.1", "::1"}


# --- TLS ---


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


async def test_a_server_without_tls_is_a_failure_to_connect() -> None:
    """In good time, and nothing stays open."""

    async def no_tls(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with serving(no_tls) as server, transport() as one:
        request = httpx.Request("POST", f"https://127.0.0.1:{server.port}/")
        with pytest.raises(httpx.ConnectError, match="cannot connect"):
            await one.handle_async_request(request)
        assert one.pool.in_use == 0


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
