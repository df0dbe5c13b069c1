"""Raw HTTP/1.1 servers on loopback, which do with a connection what a test says, and the transport that calls them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import yarl

from agents_io.http.connecting import Connector, Origin
from agents_io.http.connection import Connection
from agents_io.http.pooled_transport import PooledTransport

CERTS = Path(__file__).parent / "tls"

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
async def serving(
    serve: Serve = answers, host: str = "127.0.0.1", port: int = 0, **options: Any
) -> AsyncIterator[Server]:
    """A server on loopback."""
    one = Server(serve)
    server = await asyncio.start_server(one.handle, host, port, **options)
    one.port = server.sockets[0].getsockname()[1]
    try:
        yield one
    finally:
        server.close()


class CountingConnector(Connector):
    """Opens connections as another connector does, and knows which of them are open."""

    def __init__(self, connector: Connector) -> None:
        super().__init__()
        self.open: set[Connection] = set()
        self._connector = connector

    async def connect(self, origin: Origin, on_lost: Callable[[Connection], None]) -> Connection:
        """As the other one."""

        def lost(connection: Connection) -> None:
            self.open.discard(connection)
            on_lost(connection)

        connection = await self._connector.connect(origin, lost)
        if not connection.is_lost:
            self.open.add(connection)
        return connection

    async def aclose(self) -> None:
        """As the other one."""
        await self._connector.aclose()


@asynccontextmanager
async def transport(connector: Connector | None = None, **options: Any) -> AsyncIterator[PooledTransport]:
    """Closed at the end, with nothing left open."""
    counting = CountingConnector(connector or Connector())
    one = PooledTransport(connector=counting, **options)
    try:
        yield one
    finally:
        await one.aclose()
        assert not counting.open


async def read(response: httpx.Response) -> bytes:
    """The whole body; the connection goes back to the pool."""
    assert isinstance(response.stream, httpx.AsyncByteStream)
    try:
        return b"".join([piece async for piece in response.stream])
    finally:
        await response.stream.aclose()
