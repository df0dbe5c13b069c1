"""One JSON-RPC request to an MCP server and its answer: as JSON, as an event stream, or piece by piece.

In: a server, a session, the bytes of a request. Out: the response's head and the answering message. A stream that ends
before the answer is resumed after its newest event (2025-11-25, SEP-1699), if its events have ids.

Requests of the server itself are answered at once, since it may wait for the answer, and the call with it: `ping` with
an empty result, any other with "cannot do that". They may come on the stream of the answer or, as in the official SDK,
on a stream of its own, which is read while a session is in use.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from agents_io.best_effort import BestEffortRequests
from agents_io.errors import BadResponse, ConnectionFailed
from agents_io.http.exchange import HttpExchange, header
from agents_io.http.peer import Peer, RequestTarget, below
from agents_io.protocols.mcp.rules import tool_calls
from agents_io.rules import jsonrpc
from agents_io.rules.answer import load_json
from agents_io.rules.sse import EventData, event_json
from agents_io.transport import Call
from schemas.messages import AgentRegistration

RETRY_S = 1.0
MIN_RETRY_S = 0.05
MAX_RETRY_S = 30.0
MAX_FAILED = 3
"""Resumptions that may fail in a row."""
MAX_REPLIES = 100
"""Answers to a server's own requests within one call."""
MAX_LISTENERS = 100
"""Each holds a connection of the pool."""
LINGER_S = 10.0
"""How often to check that a session with an open stream is still in use."""
OPENED_WITHIN_S = 0.2
SHORT_S = 1.0
_ACCEPT = (b"Accept", b"application/json, text/event-stream")
_JSON_OR_EVENTS = (b"Accept", b"Content-Type")


@dataclass(slots=True, eq=False)
class McpSession:
    """What client and server agreed on. `key`: the server's id of the session, empty if it keeps none.

    `users`: requests under way; `requests`: all so far; `listener`: reads what the server sends outside of answers.
    """

    version: str
    key: bytes = b""
    users: int = 0
    requests: int = 0
    listener: asyncio.Task[None] | None = None

    @property
    def modern(self) -> bool:
        """Whether each request stands alone, without a handshake."""
        return self.version == tool_calls.MODERN

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of a request of this session."""
        if self.modern:
            return []
        headers = [(b"MCP-Protocol-Version", self.version.encode())]
        return [*headers, (b"Mcp-Session-Id", self.key)] if self.key else headers


class Server(Peer):
    """One MCP server as one agent."""

    __slots__ = ("is_mute", "lock", "session", "tool", "url")

    keeps_cookies = True

    def __init__(self, agent: AgentRegistration) -> None:
        super().__init__(agent)
        self.headers = [(name, value) for name, value in self.headers if name != b"Accept"]
        self.headers.append(_ACCEPT)
        self.url: RequestTarget = below(self.base, "")
        self.tool = agent.metadata
        self.session: McpSession | None = None
        self.lock = asyncio.Lock()
        self.is_mute = False
        """Whether the server has no stream for messages outside of requests."""

    def build(
        self,
        session: McpSession | None,
        body: bytes,
        more: list[tuple[bytes, bytes]] | None = None,
        call: Call | None = None,
    ) -> httpx.Request:
        """A POST within a session."""
        return self.post(self.url, body, [*(more or ()), *(session.headers() if session is not None else ())], call)

    def bare(self, method: str, session: McpSession, more: list[tuple[bytes, bytes]] | None = None) -> httpx.Request:
        """A request without a body: to resume a stream, or to end a session."""
        kept = [(name, value) for name, value in self.authorised() if name not in _JSON_OR_EVENTS]
        headers = [*kept, (b"Accept", b"text/event-stream"), *session.headers(), *(more or ())]
        return httpx.Request(method, self.url.httpx, headers=headers, extensions=self._extensions(self.url))


Reply = tuple[httpx.Response, Any, bytes]
"""Head, the JSON-RPC message that answers (None if none came), and the bytes it was found in."""


class McpStream:
    """Makes requests over one connection pool."""

    def __init__(self, http: HttpExchange, best_effort: BestEffortRequests) -> None:
        self._listeners: set[asyncio.Task[None]] = set()
        self._http = http
        self._best_effort = best_effort

    async def post(
        self,
        server: Server,
        body: bytes,
        number: int,
        session: McpSession | None = None,
        more: list[tuple[bytes, bytes]] | None = None,
        call: Call | None = None,
    ) -> Reply:
        """The answer to request `number`. Raises `AgentError`; a status that is no 2xx is for the caller to judge."""
        reader = _Reader(number, lambda reply: self._reply(server, session, reply), self._http.max_answer_bytes)
        request = server.build(session, body, more, call)
        try:
            response, raw = await self._http.send(server, request, reader.enough, passes_on=True)
        except ConnectionFailed:
            if session is None or not reader.last_id:
                raise
            return await self._resumed(server, session, reader)
        if not 200 <= response.status_code < 300:
            try:
                return response, load_json(raw), raw
            except BadResponse:
                return response, None, raw
        if not _is_stream(response):
            return response, jsonrpc.picked(server.parsed(raw, lambda: load_json(raw)), number), raw
        message = reader.last()
        if message is not None:
            return response, message, reader.raw
        if session is None or not reader.last_id:
            raise BadResponse("the stream ended without an answer")
        return await self._resumed(server, session, reader)

    async def _resumed(self, server: Server, session: McpSession, reader: _Reader) -> Reply:
        """Resume the stream after its newest event until the answer comes; the call's timeout bounds it."""
        failed = 0
        while True:
            await asyncio.sleep(reader.wait_s())
            reader.begin()
            request = server.bare("GET", session, [(b"Last-Event-ID", reader.last_id)])
            try:
                response, _ = await self._http.send(server, request, reader.enough, passes_on=True)
            except ConnectionFailed:
                failed += 1
                if failed >= MAX_FAILED:
                    raise
                continue
            failed = 0
            if not 200 <= response.status_code < 300 or not _is_stream(response):
                status = response.status_code
                raise BadResponse(f"the stream ended without an answer, and the agent resumes none ({status})")
            message = reader.last()
            if message is not None:
                return response, message, reader.raw

    async def listen(self, server: Server, session: McpSession) -> None:
        """Read what the server sends outside of answers while the session is in use: it checks there whether the client
        is alive.
        """
        if session.modern or not session.key or server.is_mute or len(self._listeners) >= MAX_LISTENERS:
            return
        if session.listener is not None and not session.listener.done():
            return
        opened = asyncio.Event()
        listener = session.listener = asyncio.create_task(self._listen(server, session, opened))
        self._listeners.add(listener)
        listener.add_done_callback(self._listeners.discard)
        with contextlib.suppress(TimeoutError):  # some servers send no head before their first event
            async with asyncio.timeout(OPENED_WITHIN_S):
                await opened.wait()

    async def _listen(self, server: Server, session: McpSession, opened: asyncio.Event) -> None:
        events = EventData()

        def head(response: httpx.Response) -> bool:
            server.is_mute = not (200 <= response.status_code < 300 and _is_stream(response))
            opened.set()
            return not server.is_mute

        def take(piece: bytes) -> None:
            for data in events.feed(piece):
                if data.strip() and (reply := jsonrpc.reply(event_json(data))) is not None:
                    self._reply(server, session, reply)

        clock = asyncio.get_running_loop().time
        begun = clock()
        watching = asyncio.create_task(self._http.watch(server.bare("GET", session), head, take))
        try:
            seen = -1
            while not watching.done() and (session.users > 0 or session.requests != seen):
                seen = session.requests
                await asyncio.wait((watching,), timeout=LINGER_S)
        finally:
            opened.set()
            ended = watching.done()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            if ended and clock() - begun < SHORT_S:
                server.is_mute = True  # otherwise it would be asked at every call

    async def close(self) -> None:
        for listener in list(self._listeners):
            listener.cancel()
        await asyncio.gather(*self._listeners, return_exceptions=True)

    def _reply(self, server: Server, session: McpSession | None, reply: bytes) -> None:
        self._best_effort.start("mcp-reply", lambda: self._http.send(server, server.build(session, reply)))


def _is_stream(response: httpx.Response) -> bool:
    return header(response, b"content-type").startswith(b"text/event-stream")


class _Reader:
    """Watches event streams for the answer to one request. The end of the stream need not be waited for."""

    __slots__ = ("_events", "_max_bytes", "_number", "_replies", "_reply", "_stream", "last_id", "message", "raw")

    def __init__(self, number: int, reply: Callable[[bytes], None], max_bytes: int) -> None:
        """`reply`: sends the answer to a request of the server itself. `max_bytes`: the largest event."""
        self._number = number
        self._max_bytes = max_bytes
        self._reply = reply
        self._events = EventData()
        self._stream: bool | None = None
        self._replies = 0
        self.last_id = b""
        self.message: Any = None
        self.raw = b""
        """The event that holds the answer."""

    def begin(self) -> None:
        """Begin the next stream of the same answer."""
        retry_s = self._events.retry_s
        self._events = EventData()
        self._events.retry_s = retry_s
        self._stream = None

    def wait_s(self) -> float:
        """Seconds to wait before the stream is resumed."""
        asked_s = self._events.retry_s
        return RETRY_S if asked_s is None else min(MAX_RETRY_S, max(MIN_RETRY_S, asked_s))

    def enough(self, piece: bytes) -> bool:
        """Whether the answer has come. Raises `BadResponse`, `AnswerTooLarge`."""
        if self._stream is None:
            # A JSON body begins with a bracket; an event stream never does.
            self._stream = piece.lstrip()[:1] not in (b"{", b"[")
        if not self._stream:
            return False
        is_there = self._accept(self._events.feed(piece))
        self._events.check_size(self._max_bytes)
        return is_there

    def last(self) -> Any:
        """The answer, also from an event whose end is missing. None if it did not come."""
        if self.message is None:
            self._accept(self._events.end())
        return self.message

    def _accept(self, found: list[bytes]) -> bool:
        self.last_id = self._events.last_id or self.last_id
        for data in found:
            if data.strip():  # the first event of some servers is empty
                event = event_json(data)
                for message in event if isinstance(event, list) else [event]:
                    if self._take(message):
                        self.raw = data
                        return True
        return False

    def _take(self, message: Any) -> bool:
        if jsonrpc.answers(message, self._number):
            self.message = message
            return True
        if self._replies < MAX_REPLIES and (reply := jsonrpc.reply(message)) is not None:
            self._replies += 1
            self._reply(reply)
        return False
