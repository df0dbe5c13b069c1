"""Calls to a tool of an MCP server over streamable HTTP, protocol `mcp`.

In: a registration whose endpoint is the server's MCP URL and whose `metadata.tool` names the tool. Out: the tool's result as an
`Answer`, or one `AgentError` (`rules/wire/mcp.py`; statuses as in `exchange.py`). A session is opened once per agent and kept
(at most `MAX_PREPARED`); one that the server has forgotten is opened again, once a call. A server that has no handshake any more
(2026-07-28) is called without one. It answers no request of the server's, and resumes no stream that broke.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx

from agents_io.background import LastWords
from agents_io.errors import AgentError, BadResponse, ClientError, Unsupported
from agents_io.http.exchange import HttpExchange, Peer, below, header, said, status_error, within
from agents_io.per_agent import PerAgent
from agents_io.rules.answer import load_json
from agents_io.rules.wire import jsonrpc, mcp
from agents_io.rules.wire.prompts import read_payload
from agents_io.rules.wire.sse import EventData
from agents_io.transport import MAX_ANSWER_BYTES, Answer, Call
from schemas.messages import AgentRegistration

_ACCEPT = (b"Accept", b"application/json, text/event-stream")
_SESSION = b"mcp-session-id"


@dataclass(frozen=True, slots=True)
class Session:
    """What a server agreed to. `key`: its name for the session, empty if it keeps none."""

    version: str
    key: bytes = b""

    @property
    def modern(self) -> bool:
        """Each request stands for itself."""
        return self.version == mcp.MODERN


class _SessionGone(Exception):
    """The server no longer knows the session."""


class _Server(Peer):
    """One MCP server as one agent."""

    __slots__ = ("lock", "session", "tool", "url")

    def __init__(self, agent: AgentRegistration) -> None:
        super().__init__(agent)
        self.headers = [(name, value) for name, value in self.headers if name != b"Accept"]
        self.headers.append(_ACCEPT)
        self.url = below(self.base, "")
        self.tool = agent.metadata
        self.session: Session | None = None
        self.lock = asyncio.Lock()


class McpTransport:
    """Calls agents of protocol `mcp`; one instance serves all of a worker's agents."""

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        max_connections: int = 1000,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        """`transport`: in place of the pool over aiohttp, for tests."""
        self._http = HttpExchange(transport, max_connections=max_connections, max_answer_bytes=max_answer_bytes)
        self._servers = PerAgent(_Server)
        self._last_words = LastWords()
        self._number = 0

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """One attempt. Raises `AgentError`; cancelling it closes the connection and tells the server."""
        return await within(call.timeout_s, lambda: self._attempt(agent, call))

    async def _attempt(self, agent: AgentRegistration, call: Call) -> Answer:
        server = self._servers.get(agent)
        tool = mcp.ToolCall(server.tool)
        try:
            params = tool.params(read_payload(call.body))
        except ValueError:
            raise Unsupported("the payload is not JSON") from None
        session = await self._open(server)
        try:
            result, body = await self._request(server, session, "tools/call", params, call)
        except _SessionGone:
            if server.session is session:
                server.session = None
            session = await self._open(server)
            try:
                result, body = await self._request(server, session, "tools/call", params, call)
            except _SessionGone:
                server.session = None
                raise ClientError("the agent answered 404 to a session it had just opened") from None
        return server.parsed(body, lambda: mcp.tool_answer(result, server.reading))

    async def _open(self, server: _Server) -> Session:
        """The session, opened by whoever comes first."""
        if server.session is None:
            async with server.lock:
                if server.session is None:
                    server.session = await self._handshake(server)
        return server.session

    async def _handshake(self, server: _Server) -> Session:
        """`initialize`, or the proof that the server has none: then `server/discover`."""
        self._number += 1
        number = self._number
        body = jsonrpc.request(number, "initialize", mcp.initialize_params())
        response, message, raw = await self._post(server, body, number)
        error = jsonrpc.error_of(message)
        if error is not None and mcp.speaks_modern(error):
            modern = Session(mcp.MODERN)
            await self._request(server, modern, "server/discover", {})
            return modern
        if not 200 <= response.status_code < 300:
            raise status_error(response, said(server, raw))
        version = mcp.negotiated(server.parsed(raw, lambda: jsonrpc.result_of(message)))
        key = next((value for name, value in response.headers.raw if name.lower() == _SESSION), b"").strip()
        session = Session(version, key)
        await self._http.good(server, self._build(server, session, jsonrpc.notification("notifications/initialized")))
        return session

    async def _request(
        self, server: _Server, session: Session, method: str, params: dict[str, Any], call: Call | None = None
    ) -> tuple[dict[str, Any], bytes]:
        """The result of one request and the body it came in. Raises `AgentError`, `_SessionGone`."""
        self._number += 1
        number = self._number
        more: list[tuple[bytes, bytes]] = []
        if session.modern:
            params = mcp.modern_params(params)
            more = mcp.modern_headers(method, params.get("name"))
        body = jsonrpc.request(number, method, params)
        try:
            response, message, raw = await self._post(server, body, number, session, more, call)
        except asyncio.CancelledError:
            if not session.modern:  # newer servers take the closed connection for it
                self._tell_cancelled(server, session, number)
            raise
        if response.status_code == 404 and session.key:
            raise _SessionGone
        if not 200 <= response.status_code < 300 and jsonrpc.error_of(message) is None:
            raise status_error(response, said(server, raw))
        if response.status_code in (401, 403, 429) or response.status_code >= 500:
            raise status_error(response, said(server, raw))
        return server.parsed(raw, lambda: jsonrpc.result_of(message)), raw

    def _tell_cancelled(self, server: _Server, session: Session, number: int) -> None:
        body = jsonrpc.notification(
            "notifications/cancelled", {"requestId": number, "reason": "the task was cancelled"}
        )
        self._last_words.say("mcp-cancel", lambda: self._http.raw(self._build(server, session, body)))

    def _build(
        self,
        server: _Server,
        session: Session | None,
        body: bytes,
        more: list[tuple[bytes, bytes]] | None = None,
        call: Call | None = None,
    ) -> httpx.Request:
        headers = list(more or ())
        if session is not None and not session.modern:
            headers.append((b"MCP-Protocol-Version", session.version.encode()))
            if session.key:
                headers.append((b"Mcp-Session-Id", session.key))
        return server.post(server.url, body, headers, call)

    async def _post(
        self,
        server: _Server,
        body: bytes,
        number: int,
        session: Session | None = None,
        more: list[tuple[bytes, bytes]] | None = None,
        call: Call | None = None,
    ) -> tuple[httpx.Response, Any, bytes]:
        """Head, the JSON-RPC message that answers (None if none came), and the bytes it was found in."""
        reader = _Reader(number)
        response, raw = await self._http.raw(self._build(server, session, body, more, call), reader.enough)
        if not 200 <= response.status_code < 300:
            try:
                return response, load_json(raw), raw
            except BadResponse:
                return response, None, raw
        if header(response, b"content-encoding") not in (b"", b"identity"):
            raise BadResponse("the answer is compressed although identity was asked for")
        if header(response, b"content-type").startswith(b"text/event-stream"):
            message = reader.message or reader.last()
            if message is None:
                raise BadResponse("the stream ended without an answer")
            return response, message, raw
        return response, server.parsed(raw, lambda: load_json(raw)), raw

    async def health(self, agent: AgentRegistration, timeout_s: float) -> bool:
        """Whether the server opens a session, or answers a ping in the one that is open, in time. Raises `Unsupported`."""
        server = self._servers.get(agent)
        mcp.ToolCall(server.tool)
        try:
            await within(timeout_s, lambda: self._greet(server))
        except Unsupported:
            raise
        except AgentError:
            return False
        return True

    async def _greet(self, server: _Server) -> None:
        if server.session is None:
            await self._open(server)
            return
        try:
            await self._request(server, server.session, "server/discover" if server.session.modern else "ping", {})
        except _SessionGone:
            server.session = None
            await self._open(server)

    async def tools(self, agent: AgentRegistration, timeout_s: float) -> list[str]:
        """The names on the first page of the server's tools. Raises `AgentError`."""
        server = self._servers.get(agent)

        async def ask() -> list[str]:
            result, _ = await self._request(server, await self._open(server), "tools/list", {})
            return mcp.tool_names(result)

        return await within(timeout_s, ask)

    async def close(self) -> None:
        """Tell the servers that their sessions are over, as far as a moment allows, and release every connection."""
        for server in self._servers.all():
            session = server.session
            if session is not None and session.key:
                self._last_words.say("mcp-close", lambda server=server, session=session: self._delete(server, session))  # type: ignore[misc]
        await self._last_words.close()
        await self._http.aclose()

    async def _delete(self, server: _Server, session: Session) -> None:
        headers = [*server.authorised(), (b"Mcp-Session-Id", session.key)]
        url = server.url
        await self._http.raw(httpx.Request("DELETE", url.httpx, headers=headers, extensions=server._extensions(url)))


def _event(data: bytes) -> Any:
    try:
        return load_json(data)
    except BadResponse:  # not shown: it may repeat our secret
        raise BadResponse("the stream holds an event that is not JSON") from None


class _Reader:
    """Watches an event stream for the answer to one request, so that the end of the stream need not be waited for."""

    __slots__ = ("_events", "_number", "_stream", "message")

    def __init__(self, number: int) -> None:
        self._number = number
        self._events = EventData()
        self._stream: bool | None = None
        self.message: Any = None

    def enough(self, piece: bytes) -> bool:
        """Whether the answer is there."""
        if self._stream is None:
            # A JSON body begins with a bracket; an event stream never does.
            self._stream = piece.lstrip()[:1] not in (b"{", b"[")
        if not self._stream:
            return False
        return self._look(self._events.feed(piece))

    def last(self) -> Any:
        """The answer in an event whose end is missing, or None."""
        self._look(self._events.end())
        return self.message

    def _look(self, found: list[bytes]) -> bool:
        for data in found:
            if data.strip():  # the first event of some servers is empty
                message = _event(data)
                if jsonrpc.answers(message, self._number):
                    self.message = message
                    return True
        return False
