"""Calls to agents over HTTP: `POST {endpoint}/analyze`, one attempt each.

In: a registration and a `Call`. Out: an `Answer`, or one `AgentError`: the table of statuses and failures is below.
Works on httpx's types over any `httpx.AsyncBaseTransport`; requests are built from parts prepared once per agent and
given to the transport directly. One timeout covers the whole attempt, body included; the body is read up to a cap.
It never retries, never follows a redirect, never accepts a compressed answer, and never shows a secret in an error.

  no connection, reset, cut off    connection        3xx                        bad_response
  no answer in time, 408           timeout           429, 425                   rate_limited (Retry-After)
  500-599                          http_5xx (503: Retry-After)                  other 4xx    http_4xx
  2xx that is no answer            bad_response      body above the cap         too_large
"""

from __future__ import annotations

import asyncio
import errno
import ssl
import time
from collections import OrderedDict
from urllib.parse import quote

import httpx
import yarl

from agents_io.aiohttp_seam import URL_KEY, AiohttpTransport, NotHttp, RequestBody
from agents_io.errors import (
    AgentError,
    AnswerTooLarge,
    BadResponse,
    CallTimeout,
    ClientError,
    ConnectionFailed,
    Expired,
    InternalError,
    RateLimited,
    ServerError,
    Unsupported,
)
from agents_io.rules.answer import Path, compile_path, excerpt, parse_answer
from agents_io.rules.retry import parse_retry_after
from agents_io.secret_refs import Secret
from agents_io.transport import Answer, Call
from schemas.messages import AgentRegistration

MAX_ANSWER_BYTES = 768 * 1024
MAX_ERROR_BYTES = 4096
MAX_PREPARED = 10_000
HEALTH_TIMEOUT_S = 5.0

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


class _Prepared:
    """What stays the same between calls to one agent."""

    __slots__ = ("agent", "confidence_path", "headers", "health", "secret", "url", "value_path")

    def __init__(self, agent: AgentRegistration) -> None:
        self.agent = agent
        try:
            base = yarl.URL(agent.endpoint)
            self.url = _Target(base, "analyze")
            self.health = _Target(base, "health")
        except (ValueError, httpx.InvalidURL) as error:
            raise Unsupported(f"endpoint: is not a URL: {excerpt(str(error).encode())}") from None
        self.headers = [(b"Host", self.url.httpx.netloc), *_STATIC_HEADERS]
        self.secret = Secret(agent.auth) if agent.auth is not None else None
        self.value_path = _path(agent, "valuePath")
        self.confidence_path = _path(agent, "confidencePath")

    def authorised(self) -> list[tuple[bytes, bytes]]:
        """A fresh list of the headers every call carries."""
        if self.secret is None:
            return self.headers.copy()
        return [*self.headers, (b"Authorization", b"Bearer " + self.secret.token().encode("ascii"))]


class _Target:
    """One URL in the two forms that are needed."""

    __slots__ = ("extensions", "httpx")

    def __init__(self, base: yarl.URL, leaf: str) -> None:
        if not base.host:
            raise ValueError("no host")
        url = base.with_path(base.raw_path.rstrip("/") + "/" + leaf, encoded=True, keep_query=True)
        self.httpx = httpx.URL(str(url))
        self.extensions = {URL_KEY: url}


def _path(agent: AgentRegistration, name: str) -> Path | None:
    expression = (agent.metadata or {}).get(name)
    if expression is None:
        return None
    if not isinstance(expression, str):
        raise Unsupported(f"metadata.{name}: must be a JMESPath expression in a string")
    return compile_path(name, expression)


class HttpTransport:
    """Calls agents of protocol `http`; one instance, one connection pool, for all of a worker's agents."""

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        max_connections: int = 1000,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """`transport`: in place of the pool over aiohttp, for tests. `max_connections`: at least the calls in flight."""
        self._transport = transport or AiohttpTransport(max_connections, ssl_context)
        self._max_answer_bytes = max_answer_bytes
        self._prepared: OrderedDict[str, _Prepared] = OrderedDict()

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """One attempt. Raises `AgentError`; cancelling it closes the agent's connection."""
        if not call.timeout_s > 0:
            raise Expired("no time is left for a call")
        prepared = self._prepare(agent)
        request = _request(prepared, call)
        response, body = await self._exchange(request, call.timeout_s)
        if 200 <= response.status_code < 300:
            if _header(response, b"content-encoding") not in (b"", b"identity"):
                raise BadResponse("the answer is compressed although identity was asked for")
            return _parse(body, prepared)
        raise _status_error(response, _safe_excerpt(body, prepared))

    async def health(self, agent: AgentRegistration, timeout_s: float = HEALTH_TIMEOUT_S) -> bool:
        """Whether `GET {endpoint}/health` says 2xx in time. Raises `Unsupported` on a registration that cannot work."""
        prepared = self._prepare(agent)
        target = prepared.health
        headers = prepared.authorised()
        request = httpx.Request("GET", target.httpx, headers=headers, extensions=target.extensions)
        try:
            response, _ = await self._exchange(request, timeout_s)
        except AgentError:
            return False
        return 200 <= response.status_code < 300

    async def close(self) -> None:
        """Release every connection."""
        await self._transport.aclose()

    def _prepare(self, agent: AgentRegistration) -> _Prepared:
        prepared = self._prepared.get(agent.id)
        if prepared is None or prepared.agent is not agent:
            prepared = self._prepared[agent.id] = _Prepared(agent)
            if len(self._prepared) > MAX_PREPARED:
                self._prepared.popitem(last=False)
        return prepared

    async def _exchange(self, request: httpx.Request, timeout_s: float) -> tuple[httpx.Response, bytes]:
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._transport.handle_async_request(request)
                try:
                    body = await self._read(response)
                finally:
                    await response.stream.aclose()  # type: ignore[union-attr]
        except (TimeoutError, httpx.TimeoutException):
            raise CallTimeout(f"no answer within {timeout_s:.3g} s") from None
        except httpx.TransportError as error:
            raise _transport_error(error) from error
        return response, body

    async def _read(self, response: httpx.Response) -> bytes:
        good = 200 <= response.status_code < 300
        cap = self._max_answer_bytes if good else MAX_ERROR_BYTES
        length = _header(response, b"content-length")
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
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _request(prepared: _Prepared, call: Call) -> httpx.Request:
    headers = prepared.authorised()
    headers.append((_KEY, idempotency_key(call.idempotency_key).encode("ascii")))
    headers.append((_BUDGET, b"%d" % max(1, int(call.timeout_s * 1000))))
    try:
        for name, value in call.headers:
            headers.append((name.encode("ascii"), value.encode("ascii")))
    except UnicodeEncodeError:
        raise Unsupported("a header of the call is not ASCII") from None
    target = prepared.url
    headers.append((b"Content-Length", b"%d" % len(call.body)))
    # A stream of our own spares httpx's second pass over the headers.
    return httpx.Request(
        "POST", target.httpx, headers=headers, stream=RequestBody(call.body), extensions=target.extensions
    )


def idempotency_key(key: str) -> str:
    """The key as a header can carry it; unlike keys stay unlike.

    >>> idempotency_key("task-1"), idempotency_key("tâche 1")
    ('task-1', "utf-8''t%C3%A2che%201")
    """
    if key.isascii() and key.isprintable() and " " not in key and not key.startswith("utf-8''"):
        return key
    return "utf-8''" + quote(key, safe="")


def _parse(body: bytes, prepared: _Prepared) -> Answer:
    try:
        return parse_answer(body, prepared.value_path, prepared.confidence_path)
    except BadResponse:
        if _hidden(body, prepared) is not body:
            raise BadResponse("the answer is none, and repeats the secret it was called with: not shown") from None
        raise


def _hidden(body: bytes, prepared: _Prepared) -> bytes:
    """An agent may echo what it was sent."""
    token = b"" if prepared.secret is None else prepared.secret.token().encode("ascii")
    return body.replace(token, b"***") if token and token in body else body


def _safe_excerpt(body: bytes, prepared: _Prepared) -> str:
    return excerpt(_hidden(body, prepared)) if body.strip() else "no body"


def _header(response: httpx.Response, name: bytes) -> bytes:
    """The first header of that (lower-case) name, empty if there is none: cheaper than httpx's own look-up."""
    for key, value in response.headers.raw:
        if key.lower() == name:
            return value.strip().lower()
    return b""


def _status_error(response: httpx.Response, said: str) -> AgentError:
    status, headers = response.status_code, response.headers
    text = f"the agent answered {status}: {said}"
    if status >= 500:
        return ServerError(text, retry_after_s=_retry_after(headers) if status == 503 else None)
    if status in (425, 429):
        return RateLimited(text, retry_after_s=_retry_after(headers))
    if status == 408:
        return CallTimeout(text)
    if status >= 400:
        return ClientError(text)
    return BadResponse(f"the agent answered {status}; redirects are not followed")


def _retry_after(headers: httpx.Headers) -> float | None:
    return parse_retry_after(headers.get("retry-after"), time.time())


def _transport_error(error: httpx.TransportError) -> AgentError:
    said = excerpt(str(error).encode())
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _OUR_ERRNOS:
            return InternalError(f"this worker could not connect: {said}")
        cause = cause.__cause__
    if isinstance(error, NotHttp):
        return BadResponse(f"the answer is not HTTP: {said}")
    if isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError)):
        return ConnectionFailed(f"the connection failed: {said}")
    return InternalError(f"the call could not be made: {said}")
