"""One HTTP/1.1 connection to an agent: an `asyncio.Protocol` that parses responses with llhttp (`httptools`).

In: the bytes of a request, one at a time, the next only after the response's end. Out: status, headers and body, whole
(`read_all`) or in pieces with backpressure (`read_head`, `read`), or an `httpx.TransportError`. It opens no connection,
chooses none, sends nothing twice and has no timeout.

What llhttp leaves to its caller:
- httptools never signals the end of input, so a body that ends with the connection is completed in `connection_lost`;
- it cannot know that a response to HEAD has no body;
- it parses on after a response. Unsolicited bytes never fail the response before them; they end the connection;
- it limits nothing: the head, and what comes between two pieces of a body, is counted here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httptools
import httpx

from agents_io.http.rules.http1 import content_length, ends_with_connection, is_interim

MAX_HEAD_BYTES = 256 * 1024
"""All heads of one response, including interim ones, and everything else outside the body, such as trailers."""
MAX_FIELD_BYTES = 64 * 1024
"""One header; agents behind a mesh send more than the usual 8 KiB."""
PAUSE_ABOVE_BYTES = 128 * 1024
"""Unread body bytes at which the connection stops reading."""
CLOSING_S = 0.25
"""A server that was closing an idle connection shows it within a round trip, which is at most this long."""
_WRITE_TOGETHER_BYTES = 64 * 1024
_MANY_PIECES = 16

_HEAD, _PIECE, _WHOLE = 1, 2, 3
"""What the reader waits for: the head, more of the body, or its end."""


class NotHttp(httpx.RemoteProtocolError):
    """What came back is not HTTP. httpx's own class also stands for a connection that merely closed."""


class Connection(asyncio.Protocol):
    """`on_lost`: called once, when the connection is gone."""

    __slots__ = (
        "_buffered",
        "_chunks",
        "_complete",
        "_error",
        "_has_head",
        "_head_bytes",
        "_head_only",
        "_interim",
        "_keep_alive",
        "_limits",
        "_on_lost",
        "_parser",
        "_paused",
        "_quiet_bytes",
        "_received",
        "_sent_at",
        "_transport",
        "_waiter",
        "_waits_for",
        "headers",
        "idle_since",
        "is_busy",
        "is_lost",
        "requests",
        "round_trip_s",
        "status",
    )

    def __init__(self, on_lost: Callable[[Connection], None] | None = None) -> None:
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._parser: Any = None
        self._waiter: asyncio.Future[None] | None = None
        self._waits_for = 0
        self.requests = 0
        """Requests sent so far: more than one means that the connection was reused."""
        self.idle_since = 0.0
        self.is_lost = False
        self.is_busy = False
        self._sent_at = 0.0
        self.round_trip_s = 0.0
        """How long the TCP handshake took."""
        self._reset(False)

    def _reset(self, head_only: bool) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._chunks: list[bytes] = []
        self._received = 0
        self._buffered = 0
        self._limits = (0, 0)
        self._head_bytes = 0
        self._quiet_bytes = 0
        self._has_head = self._complete = self._interim = self._paused = False
        self._head_only = head_only
        self._keep_alive = True
        self._error: httpx.TransportError | None = None

    # --- requests ---

    def send(self, head: bytes, body: bytes = b"", head_only: bool = False) -> None:
        """Send a request. `head_only`: it is a HEAD, whose response has no body. Raises `httpx.ReadError`."""
        transport = self._transport
        self._reset(head_only)
        self.requests += 1
        self._sent_at = time.monotonic()
        if transport is None or self.is_lost or transport.is_closing():
            raise httpx.ReadError("the agent closed the connection before the request was sent")
        self.is_busy = True
        if len(body) < _WRITE_TOGETHER_BYTES:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)

    async def read_all(self, max_good: int, max_error: int) -> bytes:
        """The whole body; less, with `is_complete` false, if it is longer than the limit for its status (2xx, or any other).

        Raises `httpx.TransportError`.
        """
        self._limits = (max_good, max_error)
        if not self._complete and self._error is None:
            await self._wait(_WHOLE)
        if self._error is not None:
            raise self._error
        chunks, self._chunks = self._chunks, []  # an idle connection must not keep a body in memory
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def read_head(self) -> None:
        """Wait for the response's head. Raises `httpx.TransportError`."""
        if not self._has_head and self._error is None:
            await self._wait(_HEAD)
        if not self._has_head and self._error is not None:
            raise self._error

    async def read(self) -> bytes:
        """What has come of the body since the last time, empty at its end. Raises `httpx.TransportError`."""
        if not self._chunks and not self._complete and self._error is None:
            await self._wait(_PIECE)
        if self._chunks:
            piece = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
            self._chunks.clear()
            self._buffered = 0
            if self._paused and self._transport is not None:
                self._paused = False
                self._transport.resume_reading()
            return piece
        if self._error is not None:
            raise self._error
        return b""

    @property
    def was_closing(self) -> bool:
        """For a connection that failed: whether it was reused, and the server closed it soon, without a byte of an
        answer.
        """
        has_begun = self._has_head or self._quiet_bytes > 0 or self._received > 0
        soon_s = self.round_trip_s + CLOSING_S
        return self.requests > 1 and not has_begun and time.monotonic() - self._sent_at < soon_s

    @property
    def is_complete(self) -> bool:
        """Whether the response has come to its end."""
        return self._complete

    @property
    def is_reusable(self) -> bool:
        """Whether the next request may follow: request and response are complete, and the server keeps the connection
        open.
        """
        return (
            self._complete
            and self._keep_alive
            and not self._paused
            and not self.is_lost
            and self._transport is not None
            and not self._transport.is_closing()
            # An early answer: the server may not have read the rest of the request.
            and self._transport.get_write_buffer_size() == 0
        )

    def abort(self) -> None:
        """Close at once: nothing that is still to be sent is sent, TLS sends no close_notify."""
        if self._transport is not None:
            self._transport.abort()

    async def _wait(self, what: int) -> None:
        self._waits_for = what
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        try:
            await waiter
        finally:
            self._waiter = None
            self._waits_for = 0

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _fail(self, error: httpx.TransportError) -> None:
        if self._error is None and not self._complete:
            self._error = error
            self._keep_alive = False
            self._wake()
        self.abort()

    # --- called by asyncio ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there, after the handshake if it has TLS."""
        self._transport = transport  # type: ignore[assignment]
        self._parser = parser = httptools.HttpResponseParser(self)
        # As browsers: obsolete line folding, bare LF, spaces behind the size of a chunk.
        parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )

    def data_received(self, data: bytes) -> None:
        """Parse what came; decide afterwards, since a callback must not raise through llhttp."""
        is_over = self._complete or self._error is not None
        if is_over or not self.is_busy:
            # Unsolicited: often a 408 before the server closes an idle connection.
            self._keep_alive = False
            self.abort()
            return
        before, pieces = self._received, len(self._chunks)
        self._quiet_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._keep_alive = False
            if not self._complete:
                self._fail(NotHttp(str(error) or type(error).__name__))
                return
        if len(self._chunks) - pieces > _MANY_PIECES:
            # Chunks of a few bytes each would cost many times their size.
            self._chunks[pieces:] = [b"".join(self._chunks[pieces:])]
        if self._complete:
            return
        if self._received > before:
            self._quiet_bytes = 0
            self._on_body_grown()
        elif self._quiet_bytes > MAX_HEAD_BYTES:
            self._fail(NotHttp(f"more than {MAX_HEAD_BYTES} bytes without a body"))

    def eof_received(self) -> bool:
        """The server ends its side. The transport closes ours once all is written; an end is not waited for."""
        self._on_end(None)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        self.is_lost = True
        self._parser = None  # it refers to this object
        self._on_end(error)
        if self._on_lost is not None:
            self._on_lost(self)
            self._on_lost = None

    def _on_end(self, error: Exception | None) -> None:
        """No more bytes come: the end of a body that is delimited by the connection, an error in any other response."""
        self._keep_alive = False
        if self._complete or self._error is not None:
            return
        if self._has_head and error is None and ends_with_connection(self.headers):
            self._complete = True
        else:
            where = "in the middle of its answer" if self._has_head else "without an answer"
            reason = f": {error}" if error is not None and str(error) else ""
            self._error = httpx.ReadError(f"the agent closed the connection {where}{reason}")
            self._error.__cause__ = error
        self._wake()

    # --- called by llhttp; must not raise ---

    def on_message_begin(self) -> None:
        """A response begins: ours, the one after an interim one, or an unsolicited one."""
        if self._complete:
            self._keep_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header. Trailers are counted and dropped."""
        if not self._has_head:
            self._head_bytes += len(name) + len(value)
            if len(name) + len(value) > MAX_FIELD_BYTES or b"\0" in value or b"\0" in name:
                self._head_bytes = MAX_HEAD_BYTES + 1
            self.headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """The head is there, perhaps of an interim response."""
        if self._has_head:
            return
        status = self._parser.get_status_code()
        if is_interim(status):
            self._interim = True
            return
        if self._head_bytes > MAX_HEAD_BYTES:
            self._fail(NotHttp("the head of the response is too large or holds a NUL"))
            return
        self.status = status
        self._has_head = True
        self._keep_alive = status != 101 and self._parser.should_keep_alive()
        if self._head_only:
            # llhttp now waits for the body that the headers announce: the parser cannot be used any more.
            self._complete = True
            self._keep_alive = False
        if self._waits_for == _HEAD or self._complete:
            self._wake()

    def on_body(self, piece: bytes) -> None:
        """A piece of the body."""
        if self._complete:
            return
        self._received += len(piece)
        self._buffered += len(piece)
        self._chunks.append(piece)

    def on_message_complete(self) -> None:
        """The end of a response; after an interim one the real one follows."""
        if self._complete:
            return
        if self._interim:
            self._interim = False
            self.headers.clear()
            return
        if self._error is None:
            self._complete = True
            self._wake()

    def _on_body_grown(self) -> None:
        if self._waits_for == _WHOLE:
            is_good = 200 <= self.status < 300
            limit = self._limits[0 if is_good else 1]
            if self._received > limit or (is_good and (content_length(self.headers) or 0) > limit):
                self._keep_alive = False
                self._wake()
            return
        if self._waits_for == _PIECE:
            self._wake()
        if not self._paused and self._buffered > PAUSE_ABOVE_BYTES and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
