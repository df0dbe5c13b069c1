"""One request, one response: what every transport over HTTP shares.

In: a registration, bytes to send, the time available. Out: status, headers and a body no larger than the cap, or one
`AgentError`. Works on httpx's types over any `httpx.AsyncBaseTransport`; requests are built from parts prepared once
per agent and given to the transport directly. It never retries, follows 307 and 308 (and 301 of a GET) within the same
origin only, undoes gzip and deflate within the cap, and never shows a secret in an error.

    no connection, reset, cut off    connection                     3xx                            bad_response
    no answer in time, 408           timeout                        429, 425, 529                  rate_limited (`rules/waits.py`)
    500-599                          http_5xx (`rules/waits.py`)    other 4xx                      http_4xx (`rules/statuses.py`)
    a 2xx compressed otherwise       bad_response                   body above the cap             too_large
"""

from __future__ import annotations

import asyncio
import errno
import time
import zlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import httpx
import yarl

from agents_io.errors import (
    AgentError,
    AnswerTooLarge,
    BadResponse,
    CallTimeout,
    ConnectionFailed,
    ConnectionWasClosing,
    Expired,
    InternalError,
    Unsupported,
)
from agents_io.http.connection import NotHttp
from agents_io.http.peer import Peer, RequestTarget
from agents_io.http.pooled_transport import URL_KEY, PooledTransport, RequestBody, WasClosing
from agents_io.rules.answer import body_excerpt, excerpt, in_utf8
from agents_io.rules.statuses import error_of
from agents_io.rules.waits import wait_of
from agents_io.transport import MAX_ANSWER_BYTES, Call

MAX_ERROR_BYTES = 4096
REFUSED_FOR_S = 300.0
MAX_REDIRECTS = 3
_SAME_REQUEST = (307, 308)
_SAME_PAGE = (301, 307, 308)
"""Redirects followed for a GET; 302 and 303 often lead to a login."""
_PLAIN = frozenset((b"", b"identity", b"none", b"utf-8", b"utf8"))
"""Content encodings that encode nothing; some agents send a charset there."""
_INFLATED = {b"gzip": 31, b"x-gzip": 31, b"deflate": 47}
"""zlib's window bits; 47 would detect gzip and zlib by itself."""
_GZIP = b"\x1f\x8b"

T = TypeVar("T")
# No descriptors or ports left on this machine: not the agent's fault.
_OUR_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM})


async def within(timeout_s: float, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run the whole attempt under one timeout. Raises `Expired` (no time was left to begin), `CallTimeout`, and errors
    of `work`.
    """
    if not timeout_s > 0:
        raise Expired("no time is left for a call")
    try:
        async with asyncio.timeout(timeout_s):
            return await work()
    except (TimeoutError, httpx.TimeoutException):
        raise CallTimeout(f"no answer within {timeout_s:.3g} s") from None


class HttpExchange:
    """One connection pool; `transport`: in place of one of its own."""

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        inflates: bool = True,
    ) -> None:
        """`inflates`: undo gzip and deflate, within the cap, instead of refusing them."""
        self._inflates = inflates
        self._transport = transport or PooledTransport()
        self._pooled = self._transport if isinstance(self._transport, PooledTransport) else None
        self.max_answer_bytes = max_answer_bytes

    async def raw(
        self, request: httpx.Request, enough: Callable[[bytes], bool] | None = None, passes_on: bool = False
    ) -> tuple[httpx.Response, bytes]:
        """Head and body, for any status. Raises `AgentError`; it has no timeout of its own (see `within`).

        `enough` is called with each piece of a 2xx body; once it returns True the rest is not read. `passes_on`: an
        event stream goes to `enough` alone, which bounds what it keeps; the body is then empty.
        """
        try:
            response = await self._transport.handle_async_request(request)
            try:
                body = await self._read(response, enough, passes_on)
            finally:
                await response.stream.aclose()  # type: ignore[union-attr]
        except httpx.TimeoutException:
            raise
        except httpx.TransportError as error:
            raise transport_error(error) from error
        return response, body

    async def send(
        self,
        peer: Peer,
        request: httpx.Request,
        enough: Callable[[bytes], bool] | None = None,
        passes_on: bool = False,
    ) -> tuple[httpx.Response, bytes]:
        """As `raw`, but follows a redirect within the same origin once, and keeps the peer's cookies."""
        response, body = await self.raw(request, enough, passes_on)
        return await self._follow(peer, request, response, body, enough, passes_on)

    async def _follow(
        self,
        peer: Peer,
        request: httpx.Request,
        response: httpx.Response,
        body: bytes,
        enough: Callable[[bytes], bool] | None = None,
        passes_on: bool = False,
    ) -> tuple[httpx.Response, bytes]:
        """Keep the cookies of a response; repeat the request if it redirects within the same origin."""
        for asked in range(1, MAX_REDIRECTS + 1):
            if peer.cookies is not None:
                peer.cookies.learn(response.headers.raw, time.time())
            same = _SAME_PAGE if request.method == "GET" else _SAME_REQUEST
            if asked == MAX_REDIRECTS or response.status_code not in same:
                break
            if (target := _moved(request, response)) is None:
                break
            extensions = {**request.extensions, **target.extensions}
            request = httpx.Request(
                request.method,
                target.httpx,
                headers=request.headers.raw,
                stream=request.stream,
                extensions=extensions,
            )
            response, body = await self.raw(request, enough, passes_on)
        return response, body

    async def good(self, peer: Peer, request: httpx.Request, call: Call | None = None) -> tuple[httpx.Response, bytes]:
        """As `send`, but raises the error of any status other than 2xx. `call`: the attempt it belongs to."""
        response, body = await self.send(peer, request)
        return response, _good(response, body, peer, call)

    async def post(self, peer: Peer, target: RequestTarget, call: Call) -> bytes:
        """The body of a 2xx to `POST target`, as `good` gives it. Raises `AgentError`.

        Two cases: 1 over a pool of ours the usual answer (2xx, not encoded, within the cap) never meets httpx's types, which
        cost as much as the call itself. 2 any other answer, or transport, goes the way of `good`.
        """
        pooled = self._pooled
        if pooled is None or target.has_credentials:
            return (await self.good(peer, peer.post(target, call.body, call=call), call=call))[1]
        try:
            origin = pooled.origin(target.url, peer.context())
            head = peer.post_head(target, call)
            reply = await pooled.fetch(
                origin, head, call.body, self.max_answer_bytes, MAX_ERROR_BYTES, fresh=call.fresh
            )
        except httpx.TransportError as error:
            raise transport_error(error) from error
        except ValueError as error:
            raise InternalError(f"the call could not be made: {error}") from None
        is_good = 200 <= reply.status < 300
        is_usual = is_good and reply.is_complete and len(reply.body) <= self.max_answer_bytes and peer.cookies is None
        if is_usual and not has_coding(reply.headers):
            peer.unauthorized_status = None
            return reply.body
        response = httpx.Response(reply.status, headers=reply.headers, stream=RequestBody(reply.body))
        body = await self._read(response, None)
        if is_good and not reply.is_complete:
            raise AnswerTooLarge(f"the answer is larger than {self.max_answer_bytes} bytes")
        if reply.status in _SAME_REQUEST or peer.cookies is not None:
            response, body = await self._follow(peer, peer.post(target, call.body, call=call), response, body)
        return _good(response, body, peer, call)

    async def check_health(self, peer: Peer, page: httpx.Request, calls: httpx.Request, timeout_s: float) -> None:
        """`page` answers 2xx in time, and the URL of the calls does not refuse our credentials.

        `calls`: that URL is asked by GET, which starts no work. There a 403 may refuse the method, as API gateways do:
        only that of a call counts. Raises `AgentError` with the reason; `Unsupported` if there is no such page (404,
        405, 501).
        """

        async def ask() -> None:
            response, body = await self.send(peer, page)
            if response.status_code in (404, 405, 501):
                raise Unsupported("the agent has no health endpoint")
            _good(response, body, peer, None)
            response, body = await self.send(peer, calls)
            if response.status_code == 401:
                raise status_error(response, shown_body(peer, body), body)
            check_authorized(peer)

        await within(timeout_s, ask)

    async def watch(
        self, request: httpx.Request, opened: Callable[[httpx.Response], bool], take: Callable[[bytes], None]
    ) -> None:
        """Pass on a body that may never end, piece by piece. `opened`: gets the head and returns whether to read on.

        Raises `AgentError`; it has no timeout of its own.
        """
        try:
            response = await self._transport.handle_async_request(request)
            try:
                if opened(response):
                    async for piece in response.stream:  # type: ignore[union-attr]
                        take(piece)
            finally:
                await response.stream.aclose()  # type: ignore[union-attr]
        except httpx.TransportError as error:
            raise transport_error(error) from error

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def _read(
        self, response: httpx.Response, enough: Callable[[bytes], bool] | None, passes_on: bool = False
    ) -> bytes:
        good = 200 <= response.status_code < 300
        cap = self.max_answer_bytes if good else MAX_ERROR_BYTES
        passes_on = passes_on and good and header(response, b"content-type").startswith(b"text/event-stream")
        length = header(response, b"content-length")
        if good and not passes_on and length.isdigit() and len(length) < 20 and int(length) > cap:
            raise AnswerTooLarge(f"the answer has {int(length)} bytes, more than {cap}")
        chunks: list[bytes] = []
        size = 0
        inflate = _inflater(response, good, self._inflates)
        async for piece in response.stream:  # type: ignore[union-attr]
            chunk = piece if inflate is None else inflate(piece, cap + 1 - size)
            if not passes_on:
                chunks.append(chunk)
                size += len(chunk)
            if size > cap or (inflate is not None and len(chunk) > cap):
                if good:
                    raise AnswerTooLarge(f"the answer is larger than {cap} bytes")
                break
            if enough is not None and good and enough(chunk):
                break
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        return in_utf8(body, header(response, b"content-type"))


def _good(response: httpx.Response, body: bytes, peer: Peer, call: Call | None) -> bytes:
    """The body of a 2xx. Raises the error of any other status."""
    if not 200 <= response.status_code < 300:
        raise status_error(response, shown_body(peer, body), body, peer, call)
    if call is not None:
        peer.unauthorized_status = None
    return body


def has_coding(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether the body may have to be decoded before it is JSON: it is compressed, or its type names another charset."""
    for name, value in headers:
        if len(name) == 16 and name.lower() == b"content-encoding":
            return True
        if len(name) == 12 and b"=" in value and name.lower() == b"content-type" and b"utf-8" not in value.lower():
            return True
    return False


def check_authorized(peer: Peer) -> None:
    """Raises the error of an agent that refused the newest call for its credentials, although its health page answers.

    For a while only: an agent that gets no calls, since it is unhealthy, cannot show that it accepts them again.
    """
    status = peer.unauthorized_status
    if status is not None and time.monotonic() - peer.unauthorized_at < REFUSED_FOR_S:
        raise error_of(status, "the last call was refused: check the agent's `auth`", None)


def shown_body(peer: Peer, body: bytes) -> str:
    """The start of a body as an error may quote it, without our secret."""
    return body_excerpt(peer.hidden(body))


def header(response: httpx.Response, name: bytes) -> bytes:
    """The first header of that (lower-case) name, lower-case, empty if there is none: cheaper than httpx's own look-up."""
    for key, value in response.headers.raw:
        if key.lower() == name:
            return value.strip().lower()
    return b""


def status_error(
    response: httpx.Response, text: str, body: bytes = b"", peer: Peer | None = None, call: Call | None = None
) -> AgentError:
    """The error of a status other than 2xx. `text`: the part of the body that may be shown; `call`: the attempt it
    belongs to.
    """
    status = response.status_code
    if 300 <= status < 400:
        text = f"this redirect is not followed: it leads to {_place(response)}"
    if peer is not None and call is not None:
        peer.unauthorized_status = status if status in (401, 403) else None
        peer.unauthorized_at = time.monotonic()
    wait_s = wait_of(response.headers, body, time.time()) if status >= 400 else None
    return error_of(status, text, wait_s, attempt=1 if call is None else call.attempt, body=body)


def _moved(request: httpx.Request, response: httpx.Response) -> RequestTarget | None:
    """The target of a redirect, if it is within the same origin: no other one may get our token."""
    url: yarl.URL = request.extensions[URL_KEY]
    try:
        target = url.join(yarl.URL(response.headers.get("location", ""), encoded=True)).with_fragment(None)
        return RequestTarget(target) if target.origin() == url.origin() else None
    except (ValueError, TypeError, httpx.InvalidURL):
        return None


def _place(response: httpx.Response) -> str:
    """The target of a redirect, without user and query, which may be secret."""
    try:
        url = yarl.URL(response.headers.get("location", "")).with_query(None).with_fragment(None)
        return excerpt((str(url.with_user(None)) if url.host else url.path).encode("utf-8", "replace"))
    except ValueError:
        return "an invalid URL"


def _inflater(response: httpx.Response, good: bool, known: bool) -> Callable[[bytes, int], bytes] | None:
    """A function that decompresses a piece of the body, to at most so many bytes; None: no compression. Raises
    `BadResponse`.
    """
    encoding = header(response, b"content-encoding")
    if encoding in _PLAIN:
        return None
    bits = _INFLATED.get(encoding) if known else None
    if bits is None:
        if good:
            raise BadResponse(f"the answer is compressed ({excerpt(encoding)}) although identity was requested")
        return None
    machine = zlib.decompressobj(bits)
    begun = False

    def inflate(piece: bytes, room: int) -> bytes:
        """Besides the plain case: gzip in several members, bytes after the last member, deflate without zlib's head."""
        nonlocal machine, begun
        found: list[bytes] = []
        while piece:
            if machine.eof:
                if not piece.startswith(_GZIP):
                    break
                machine = zlib.decompressobj(bits)
            try:
                part = machine.decompress(piece, max(1, room))
            except zlib.error:
                if begun or encoding != b"deflate":
                    raise BadResponse("the answer is marked as compressed but is not") from None
                machine, begun = zlib.decompressobj(-zlib.MAX_WBITS), True
                continue
            begun = True
            found.append(part)
            room -= len(part)
            piece = machine.unused_data if room > 0 else b""
        return b"".join(found)

    return inflate


def transport_error(error: httpx.TransportError) -> AgentError:
    """The error of a failed connection."""
    text = excerpt(str(error).encode())
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _OUR_ERRNOS:
            return InternalError(f"this worker could not connect: {text}")
        cause = cause.__cause__
    if isinstance(error, NotHttp):
        return BadResponse(f"the answer is not HTTP: {text}")
    if isinstance(error, WasClosing):
        return ConnectionWasClosing(f"the connection was closing: {text}")
    if isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError)):
        return ConnectionFailed(f"the connection failed: {text}")
    return InternalError(f"the call could not be made: {text}")
