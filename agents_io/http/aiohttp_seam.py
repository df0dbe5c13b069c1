"""An `httpx.AsyncBaseTransport` over an aiohttp session: httpx's types without its connection pool.

httpx's own pool costs milliseconds of CPU a call at a hundred connections; aiohttp's does not, and closes the agent's
connection at once when a call is cancelled. In: a prepared `httpx.Request`. Out: an `httpx.Response` whose stream is
read by the caller, or an httpx exception. It follows no redirect, keeps no cookie, undoes no compression, reads no
proxy or netrc from the environment and sets no timeout of its own: the caller's timeout covers the whole attempt.
"""

from __future__ import annotations

import io
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import aiohttp
import httpx
import yarl
from multidict import CIMultiDict

URL_KEY = "parallax.url"
"""Request extension: the URL as a `yarl.URL`, prepared once per agent."""
SSL_KEY = "parallax.ssl"
"""Request extension: the `ssl.SSLContext` for this request in place of the transport's own."""

# Agents' servers close idle connections, often after 5 s. A POST sent on one that is just closing is lost, so let go first.
KEEPALIVE_S = 4.0
_BYTES_AIOHTTP_WARNS_AT = 1024 * 1024
MAX_HEADER_BYTES = 64 * 1024
"""One header line; aiohttp's own 8 KiB are less than agents behind a mesh send."""


class NotHttp(httpx.RemoteProtocolError):
    """What came back is not HTTP. httpx's own class also stands for a connection that merely closed."""


class RequestBody(httpx.AsyncByteStream):
    """A request's body, all there. Made into a request as its stream it spares httpx a second pass over the headers."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.body


class AiohttpTransport(httpx.AsyncBaseTransport):
    """One connection pool for all agents; at most `max_connections` in use at once."""

    def __init__(
        self,
        max_connections: int = 1000,
        ssl_context: ssl.SSLContext | None = None,
        connector: Callable[[], aiohttp.BaseConnector] | None = None,
        tls: Callable[[], ssl.SSLContext | None] | None = None,
    ) -> None:
        """`connector`: makes the pool in place of a plain one, once there is a loop. `tls`: asked for each request's context."""
        self._tls = tls
        self._max_connections = max_connections
        self._ssl_context = ssl_context
        self._connector = connector or self._plain_connector
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send and wait for the head of the response. Raises `httpx.TransportError`."""
        session = self._session or self._open()
        extensions: Mapping[str, Any] = request.extensions
        url = extensions.get(URL_KEY) or yarl.URL(str(request.url), encoded=True)
        stream = request.stream
        body = stream.body if isinstance(stream, RequestBody) else request.content
        try:
            response = await session.request(
                request.method,
                url,
                headers=CIMultiDict(
                    [(key.decode("ascii"), value.decode("latin-1")) for key, value in request.headers.raw]
                ),
                data=body if len(body) < _BYTES_AIOHTTP_WARNS_AT else io.BytesIO(body),
                allow_redirects=False,
                ssl=extensions.get(SSL_KEY) or (self._tls and self._tls()) or True,
            )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _as_httpx(error) from error
        return httpx.Response(response.status, headers=list(response.raw_headers), stream=_Body(response))

    async def aclose(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        # Made at the first call: aiohttp wants the running loop.
        self._session = aiohttp.ClientSession(
            connector=self._connector(),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            auto_decompress=False,
            trust_env=False,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_read=None, sock_connect=None),
        )
        return self._session

    def _plain_connector(self) -> aiohttp.BaseConnector:
        return aiohttp.TCPConnector(
            limit=self._max_connections, keepalive_timeout=KEEPALIVE_S, ssl=self._ssl_context or True
        )


class _Body(httpx.AsyncByteStream):
    """The body as it comes. Closed before its end it takes the connection with it."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        content = self._response.content
        try:
            while chunk := await content.readany():
                yield chunk
        except (aiohttp.ClientError, OSError) as error:
            raise _as_httpx(error) from error

    async def aclose(self) -> None:
        self._response.close()


def _as_httpx(error: Exception) -> httpx.TransportError:
    text = str(error) or type(error).__name__
    if isinstance(error, TimeoutError):
        return httpx.ReadTimeout(text)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason = getattr(error.certificate_error, "verify_message", text)
        return httpx.ConnectError(f"the agent's certificate is refused: {reason}")
    if isinstance(error, aiohttp.ClientConnectorError):
        return httpx.ConnectError(text)
    if isinstance(error, aiohttp.ClientResponseError):
        return NotHttp(error.message or text)
    if isinstance(error, (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError, OSError)):
        return httpx.ReadError(text)
    return httpx.LocalProtocolError(text)
