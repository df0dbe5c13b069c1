"""An `httpx.AsyncBaseTransport` over our own HTTP/1.1 connections, and a direct way for calls that need none of httpx's types.

In: a prepared `httpx.Request`, or the bytes of one. Out: an `httpx.Response` whose stream is read by the caller, an
`HttpReply`, or an httpx exception. It follows no redirect, keeps no cookie, undoes no compression, reads no proxy or netrc
from the environment and sets no timeout: the caller's timeout covers the whole attempt, and cancelling closes the connection
at once.

A request is sent once. The exception is a reused connection that turns out to be closed: an idempotent method is sent once
more, on a new connection; so is a POST that may be repeated, if the server closed so soon that it cannot have worked on it. A
call of an agent is not: the server may have seen it, and calls are counted.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

import httpx
import yarl

from agents_io.http.connecting import Connector, Origin, default_context
from agents_io.http.connection import Connection
from agents_io.http.pool import ConnectionPool
from agents_io.http.rules.http1 import IDEMPOTENT, request_head

URL_KEY = "parallax.url"
"""Request extension: the URL as a `yarl.URL`, prepared once per agent."""
SSL_KEY = "parallax.ssl"
"""Request extension: the `ssl.SSLContext` for this request in place of the transport's own."""
REPEATABLE_KEY = "parallax.repeatable"
"""Request extension: true for a POST that may be sent twice."""
FRESH_KEY = "parallax.fresh"
"""Request extension: true for a request that needs a new connection."""


class RequestBody(httpx.AsyncByteStream):
    """A complete request body. As a stream it saves httpx a second pass over the headers."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.body


class HttpReply(NamedTuple):
    """A response. `is_complete`: the body was not cut off at the limit it was given."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    is_complete: bool


class WasClosing(httpx.ReadError):
    """A kept connection that closed as soon as this request was sent."""


class PooledTransport(httpx.AsyncBaseTransport):
    """One connection pool for all agents; at most `max_connections` in use at once."""

    def __init__(
        self,
        *,
        max_connections: int = 1000,
        connector: Connector | None = None,
        tls: Callable[[], ssl.SSLContext | None] | None = None,
    ) -> None:
        """`connector`: opens the connections, in place of a plain one. `tls`: returns each request's context."""
        self._tls = tls
        self.pool = ConnectionPool(connector or Connector(), max_connections)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send and wait for the head of the response. Raises `httpx.TransportError`."""
        extensions = request.extensions
        url: yarl.URL = extensions.get(URL_KEY) or yarl.URL(str(request.url), encoded=True)
        stream = request.stream
        body = stream.body if isinstance(stream, RequestBody) else await request.aread()
        method = request.method.encode("ascii")
        try:
            headers = with_credentials(url, request.headers.raw)
            head = request_head(method, url.raw_path_qs.encode("ascii"), headers)
        except ValueError as error:
            raise httpx.LocalProtocolError(str(error)) from error
        origin = self.origin(url, extensions.get(SSL_KEY))
        is_repeatable, is_fresh = extensions.get(REPEATABLE_KEY) is True, extensions.get(FRESH_KEY) is True
        connection = await self._answering(origin, method, head, body, is_repeatable, is_fresh)
        return httpx.Response(
            connection.status, headers=connection.headers, stream=_Body(self.pool, origin, connection)
        )

    async def fetch(
        self, origin: Origin, head: bytes, body: bytes, max_good: int, max_error: int, *, fresh: bool = False
    ) -> HttpReply:
        """Send a prepared POST and read the whole response, without httpx's types. Raises `httpx.TransportError`.

        `fresh`: on a new connection. The body is cut off once it is longer than the limit for its status: 2xx, or any other.
        """
        connection = await self._connection(origin, fresh)
        try:
            connection.send(head, body)
            content = await connection.read_all(max_good, max_error)
            return HttpReply(connection.status, connection.headers, content, connection.is_complete)
        except httpx.ReadError as error:
            if connection.was_closing:
                raise WasClosing(str(error)) from error
            raise
        finally:
            self.pool.release(origin, connection)

    def origin(self, url: yarl.URL, context: ssl.SSLContext | None = None) -> Origin:
        """What requests to this URL connect to. `context`: the request's own. Raises `httpx.LocalProtocolError`."""
        host, port = url.raw_host, url.port
        if not host or not port or url.scheme not in ("http", "https"):
            raise httpx.LocalProtocolError("the URL names no host or no port")
        if url.scheme == "http":
            return Origin(host, port, None)
        return Origin(host, port, context or (self._tls and self._tls()) or default_context())

    async def aclose(self) -> None:
        await self.pool.aclose()

    async def _connection(self, origin: Origin, fresh: bool) -> Connection:
        if fresh:
            return await self.pool.acquire(origin, fresh=True)
        return self.pool.take_idle(origin) or await self.pool.acquire(origin)

    async def _answering(
        self, origin: Origin, method: bytes, head: bytes, body: bytes, is_repeatable: bool, is_fresh: bool
    ) -> Connection:
        """A connection on which the request was sent and the head of the response has arrived."""
        connection = await self._connection(origin, is_fresh)
        try:
            return await self._send(origin, connection, method, head, body)
        except httpx.ReadError as error:
            is_idempotent = method in IDEMPOTENT and connection.requests > 1
            if not (is_idempotent or (is_repeatable and connection.was_closing)):
                if connection.was_closing:
                    raise WasClosing(str(error)) from error
                raise
        connection = await self.pool.acquire(origin, fresh=True)
        return await self._send(origin, connection, method, head, body)

    async def _send(
        self, origin: Origin, connection: Connection, method: bytes, head: bytes, body: bytes
    ) -> Connection:
        try:
            connection.send(head, body, method == b"HEAD")
            await connection.read_head()
        except BaseException:
            self.pool.release(origin, connection)
            raise
        return connection


class _Body(httpx.AsyncByteStream):
    """The body as it arrives. Closing it before its end closes the connection."""

    def __init__(self, pool: ConnectionPool, origin: Origin, connection: Connection) -> None:
        self._pool = pool
        self._origin = origin
        self._connection: Connection | None = connection

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self._connection is not None and (piece := await self._connection.read()):
            yield piece

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.release(self._origin, connection)


def with_credentials(url: yarl.URL, headers: Sequence[tuple[bytes, bytes]]) -> Sequence[tuple[bytes, bytes]]:
    """The headers, with basic authentication if the URL has a user. Raises ValueError if the headers have other
    credentials.
    """
    if url.raw_user is None and url.raw_password is None:
        return headers
    if any(name.lower() == b"authorization" for name, _ in headers):
        raise ValueError("the URL holds credentials and the request has others")
    pair = f"{url.user or ''}:{url.password or ''}".encode("latin-1")
    return [*headers, (b"Authorization", b"Basic " + base64.b64encode(pair))]
