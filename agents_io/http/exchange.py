"""One request, one response: what every transport over HTTP shares, whatever it says in the body.

In: a registration, bytes to send, the time there is. Out: status, headers and a body no larger than the cap, or one
`AgentError`. Works on httpx's types over any `httpx.AsyncBaseTransport`; requests are built from parts prepared once per
agent and given to the transport directly. It never retries, never follows a redirect, never accepts a compressed answer,
and never shows a secret in an error.

  no connection, reset, cut off    connection        3xx                        bad_response
  no answer in time, 408           timeout           429, 425                   rate_limited (Retry-After)
  500-599                          http_5xx (503: Retry-After)                  other 4xx    http_4xx
  a compressed 2xx                 bad_response      body above the cap         too_large
"""

from __future__ import annotations

import asyncio
import errno
import ssl
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

import httpx
import yarl

from agents_io.errors import (
    AgentError,
    AnswerTooLarge,
    BadResponse,
    CallTimeout,
    ConnectionFailed,
    Expired,
    InternalError,
    Unsupported,
)
from agents_io.http.aiohttp_seam import SSL_KEY, URL_KEY, AiohttpTransport, NotHttp, RequestBody
from agents_io.rules.answer import excerpt, reading_of
from agents_io.rules.retry import parse_retry_after
from agents_io.rules.statuses import error_of
from agents_io.secret_refs import Secret
from agents_io.tls import CONTEXTS, tls_of
from agents_io.transport import MAX_ANSWER_BYTES, Call, idempotency_key
from schemas.messages import AgentRegistration

MAX_ERROR_BYTES = 4096

Headers = Iterable[tuple[bytes, bytes]]
T = TypeVar("T")

_KEY = b"Idempotency-Key"
_BUDGET = b"X-Request-Timeout-Ms"
_STATIC_HEADERS = (
    (b"Content-Type", b"application/json"),
    (b"Accept", b"application/json"),
    (b"Accept-Encoding", b"identity"),
    (b"User-Agent", b"parallax-streams"),
)
# No descriptors or ports left on this machine: not the agent's fault.
_OUR_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM})


class Target:
    """One URL in the two forms that are needed. Raises ValueError."""

    __slots__ = ("extensions", "httpx")

    def __init__(self, url: yarl.URL) -> None:
        if not url.host:
            raise ValueError("no host")
        self.httpx = httpx.URL(str(url))
        self.extensions: dict[str, Any] = {URL_KEY: url}


def web_url(agent: AgentRegistration) -> yarl.URL:
    """The agent's endpoint as a URL. `openai://`, `a2a://` and `mcp://` stand for https: no token goes in the clear by accident.

    Raises `Unsupported`.

    >>> str(web_url(AgentRegistration(id="m", endpoint="openai://host/v1")))
    'https://host/v1'
    """
    scheme, separator, rest = agent.endpoint.partition("://")
    text = f"https://{rest}" if separator and scheme == agent.transport != "http" else agent.endpoint
    try:
        url = yarl.URL(text)
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError("write http://host or https://host")
        Target(url)
    except (ValueError, httpx.InvalidURL) as error:
        raise Unsupported(f"endpoint: is not a URL: {excerpt(str(error).encode())}") from None
    return url


def below(base: yarl.URL, leaf: str) -> Target:
    """A path under the agent's endpoint; its query is kept."""
    path = base.raw_path.rstrip("/") + "/" + leaf if leaf else base.raw_path
    return Target(base.with_path(path, encoded=True, keep_query=True))


class Peer:
    """One agent as a peer over HTTP: what stays the same between calls to it. Raises `Unsupported`."""

    __slots__ = ("agent", "base", "headers", "reading", "secret")

    def __init__(self, agent: AgentRegistration) -> None:
        self.agent = agent
        self.base = web_url(agent)
        self.headers = [(b"Host", Target(self.base).httpx.netloc), *_STATIC_HEADERS]
        self.secret = Secret(agent.auth) if agent.auth is not None else None
        self.reading = reading_of(agent.metadata)

    def authorised(self) -> list[tuple[bytes, bytes]]:
        """A fresh list of the headers every request carries."""
        if self.secret is None:
            return self.headers.copy()
        return [*self.headers, self.secret.header()]

    def get(self, target: Target) -> httpx.Request:
        """A GET request."""
        return httpx.Request("GET", target.httpx, headers=self.authorised(), extensions=self._extensions(target))

    def post(self, target: Target, body: bytes, more: Headers = (), call: Call | None = None) -> httpx.Request:
        """A POST request; one that belongs to a call carries its key, its time and its headers. Raises `Unsupported`."""
        headers = self.authorised()
        if call is not None:
            headers.append((_KEY, idempotency_key(call.idempotency_key).encode("ascii")))
            headers.append((_BUDGET, b"%d" % max(1, int(call.timeout_s * 1000))))
            try:
                for name, value in call.headers:
                    headers.append((name.encode("ascii"), value.encode("ascii")))
            except UnicodeEncodeError:
                raise Unsupported("a header of the call is not ASCII") from None
        headers.extend(more)
        headers.append((b"Content-Length", b"%d" % len(body)))
        # A stream of our own spares httpx's second pass over the headers.
        return httpx.Request(
            "POST", target.httpx, headers=headers, stream=RequestBody(body), extensions=self._extensions(target)
        )

    def _extensions(self, target: Target) -> dict[str, Any]:
        files = tls_of(self.agent.metadata)
        return target.extensions if files is None else {**target.extensions, SSL_KEY: CONTEXTS.get(files)}

    def hidden(self, body: bytes) -> bytes:
        """The same without our secret: an agent may echo what it was sent."""
        token = b"" if self.secret is None else self.secret.token().encode("ascii")
        return body.replace(token, b"***") if token and token in body else body

    def parsed(self, body: bytes, parse: Callable[[], T]) -> T:
        """What `parse` makes of the body; its complaint shows no secret that the body may repeat."""
        try:
            return parse()
        except AgentError as error:
            message = error.message.encode()
            if self.hidden(body) is not body or self.hidden(message) is not message:
                kind = type(error)
                raise kind("the answer is none, and repeats the secret it was called with: not shown") from None
            raise


async def within(timeout_s: float, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The whole attempt under one timeout. Raises `Expired` (nothing was begun), `CallTimeout` and what `work` raises."""
    if not timeout_s > 0:
        raise Expired("no time is left for a call")
    try:
        async with asyncio.timeout(timeout_s):
            return await work()
    except (TimeoutError, httpx.TimeoutException):
        raise CallTimeout(f"no answer within {timeout_s:.3g} s") from None


class HttpExchange:
    """One connection pool; `transport` stands in for it in tests. `max_connections`: at least the calls in flight."""

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        max_connections: int = 1000,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._transport = transport or AiohttpTransport(max_connections, ssl_context)
        self.max_answer_bytes = max_answer_bytes

    async def raw(
        self, request: httpx.Request, enough: Callable[[bytes], bool] | None = None
    ) -> tuple[httpx.Response, bytes]:
        """Head and body, whatever the status. Raises `AgentError`; it has no timeout of its own (`within`).

        `enough` is asked with each piece of a 2xx body; when it says so the rest is not waited for.
        """
        try:
            response = await self._transport.handle_async_request(request)
            try:
                body = await self._read(response, enough)
            finally:
                await response.stream.aclose()  # type: ignore[union-attr]
        except httpx.TimeoutException:
            raise
        except httpx.TransportError as error:
            raise transport_error(error) from error
        return response, body

    async def good(
        self, peer: Peer, request: httpx.Request, enough: Callable[[bytes], bool] | None = None
    ) -> tuple[httpx.Response, bytes]:
        """As `raw`, but anything but a plain 2xx is raised as what it means."""
        response, body = await self.raw(request, enough)
        if 200 <= response.status_code < 300:
            if header(response, b"content-encoding") not in (b"", b"identity"):
                raise BadResponse("the answer is compressed although identity was asked for")
            return response, body
        raise status_error(response, said(peer, body))

    async def is_well(self, request: httpx.Request, timeout_s: float) -> bool:
        """Whether this request is answered 2xx in time. Raises `Unsupported`: there is no such page (404, 405, 501)."""
        try:
            response, _ = await within(timeout_s, lambda: self.raw(request))
        except AgentError:
            return False
        if response.status_code in (404, 405, 501):
            raise Unsupported("the agent has no health page")
        return 200 <= response.status_code < 300

    async def aclose(self) -> None:
        """Release every connection."""
        await self._transport.aclose()

    async def _read(self, response: httpx.Response, enough: Callable[[bytes], bool] | None) -> bytes:
        good = 200 <= response.status_code < 300
        cap = self.max_answer_bytes if good else MAX_ERROR_BYTES
        length = header(response, b"content-length")
        if good and length.isdigit() and len(length) < 20 and int(length) > cap:
            raise AnswerTooLarge(f"the answer has {int(length)} bytes, more than {cap}")
        chunks: list[bytes] = []
        size = 0
        async for chunk in response.stream:  # type: ignore[union-attr]
            chunks.append(chunk)
            size += len(chunk)
            if size > cap:
                if good:
                    raise AnswerTooLarge(f"the answer is larger than {cap} bytes")
                break
            if enough is not None and good and enough(chunk):
                break
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def said(peer: Peer, body: bytes) -> str:
    """The start of a body, fit for an error."""
    return excerpt(peer.hidden(body)) if body.strip() else "no body"


def header(response: httpx.Response, name: bytes) -> bytes:
    """The first header of that (lower-case) name, lower-case, empty if there is none: cheaper than httpx's own look-up."""
    for key, value in response.headers.raw:
        if key.lower() == name:
            return value.strip().lower()
    return b""


def status_error(response: httpx.Response, text: str, wait_s: float | None = None) -> AgentError:
    """What a status that is no 2xx means. `wait_s`: how long a 429 without Retry-After asks to wait, seconds."""
    status, asked_s = response.status_code, None
    if status in (425, 429, 503):
        asked_s = parse_retry_after(response.headers.get("retry-after"), time.time())
    return error_of(status, text, wait_s if asked_s is None else asked_s)


def transport_error(error: httpx.TransportError) -> AgentError:
    """What a failed connection means."""
    text = excerpt(str(error).encode())
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _OUR_ERRNOS:
            return InternalError(f"this worker could not connect: {text}")
        cause = cause.__cause__
    if isinstance(error, NotHttp):
        return BadResponse(f"the answer is not HTTP: {text}")
    if isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError)):
        return ConnectionFailed(f"the connection failed: {text}")
    return InternalError(f"the call could not be made: {text}")
