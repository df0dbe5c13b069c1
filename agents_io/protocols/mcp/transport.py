"""Calls to a tool of an MCP server over streamable HTTP, protocol `mcp`.

In: a registration whose endpoint is the server's MCP URL and whose `metadata.tool` names the tool. Out: the tool's
result as an `Answer`, or one `AgentError` (`rules/tool_calls.py`; statuses as in `http/exchange.py`).

A session is opened once per agent and kept (at most `MAX_PREPARED`). If a request ends without a result, the next
attempt opens another session. If the server does not know the session, and so has run nothing, the same attempt opens
another one. A server without a handshake (2026-07-28) is called without a session. Cookies are kept: a load balancer
may bind a session by one.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from agents_io.best_effort import BestEffortRequests
from agents_io.errors import AgentError, RateLimited, Unsupported
from agents_io.http.exchange import HttpExchange, check_authorized, shown_body, status_error, within
from agents_io.per_agent import PerAgent
from agents_io.protocols.mcp.rules import tool_calls
from agents_io.protocols.mcp.stream import McpSession, McpStream, Reply, Server
from agents_io.rules import jsonrpc
from agents_io.rules.prompts import read_payload
from agents_io.transport import MAX_ANSWER_BYTES, Answer, Call
from schemas.messages import AgentRegistration

MAX_PAGES = 20
_SESSION = b"mcp-session-id"


class _SessionGone(Exception):
    """The server does not know the session and has run nothing. `error`: what to raise if another session does not
    help.
    """

    def __init__(self, error: AgentError) -> None:
        super().__init__(error.message)
        self.error = error


class McpTransport:
    """Calls agents of protocol `mcp`; one instance serves all of a worker's agents."""

    def __init__(
        self, transport: httpx.AsyncBaseTransport | None = None, *, max_answer_bytes: int = MAX_ANSWER_BYTES
    ) -> None:
        """`transport`: in place of a connection pool of its own."""
        self._http = HttpExchange(transport, max_answer_bytes=max_answer_bytes)
        self._servers = PerAgent(Server)
        self._best_effort = BestEffortRequests()
        self._stream = McpStream(self._http, self._best_effort)
        self._number = 0

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """One attempt. Raises `AgentError`; cancelling it closes the connection and tells the server."""
        deadline = asyncio.get_running_loop().time() + call.timeout_s
        return await within(call.timeout_s, lambda: self._attempt(agent, call, deadline))

    async def _attempt(self, agent: AgentRegistration, call: Call, deadline: float) -> Answer:
        server = self._servers.get(agent)
        tool = tool_calls.ToolCall(server.tool)
        try:
            params = tool.params(read_payload(call.body))
        except ValueError:
            raise Unsupported("the payload is not JSON") from None
        result, body = await self._in_session(server, "tools/call", params, call, deadline)
        return server.parsed(body, lambda: tool_calls.tool_answer(result, server.reading))

    async def _in_session(
        self, server: Server, method: str, params: dict[str, Any], call: Call | None, deadline: float
    ) -> tuple[dict[str, Any], bytes]:
        """The result of one request, in the kept session or a new one. `deadline`: loop time, seconds."""
        for _ in range(2):
            was_kept = server.session is not None
            session = await self._open(server)
            session.users += 1
            session.requests += 1
            doubt = gone = False
            try:
                if call is not None:
                    await self._stream.listen(server, session)
                return await self._request(server, session, method, params, call)
            except _SessionGone as lost:
                doubt = gone = True
                if not was_kept and lost.error.status != 404:
                    raise lost.error from None
                failure = lost.error
            except RateLimited:
                raise
            except AgentError:
                doubt = True
                raise
            except asyncio.CancelledError:
                doubt = asyncio.get_running_loop().time() >= deadline  # a timeout: the session may be the cause
                raise
            finally:
                session.users -= 1
                if doubt:
                    self._drop(server, session)
                if server.session is not session and session.users == 0:
                    if session.listener is not None:
                        session.listener.cancel()
                    if not gone:
                        self._end(server, session)
        raise failure

    def _drop(self, server: Server, session: McpSession) -> None:
        """The next request opens another session; requests under way in this one go on."""
        if server.session is session:
            server.session = None

    async def _open(self, server: Server) -> McpSession:
        """The session; the first call opens it."""
        if server.session is None:
            async with server.lock:
                if server.session is None:
                    server.session = await self._handshake(server)
        return server.session

    async def _handshake(self, server: Server) -> McpSession:
        """`initialize`, or if the server has no handshake, `server/discover`."""
        response, message, raw = await self._initialize(server, tool_calls.LEGACY[0])
        error = jsonrpc.error_of(message)
        if tool_calls.speaks_modern(error):
            modern = McpSession(tool_calls.MODERN)
            await self._request(server, modern, "server/discover", {})
            return modern
        if (offered := tool_calls.other_version(error)) is not None:
            response, message, raw = await self._initialize(server, offered)
        if not 200 <= response.status_code < 300:
            raise status_error(response, shown_body(server, raw), raw)
        version = tool_calls.negotiated(server.parsed(raw, lambda: jsonrpc.result_of(message)))
        key = next((value for name, value in response.headers.raw if name.lower() == _SESSION), b"").strip()
        session = McpSession(version, key)
        await self._http.good(server, server.build(session, jsonrpc.notification("notifications/initialized")))
        return session

    async def _initialize(self, server: Server, version: str) -> Reply:
        self._number += 1
        body = jsonrpc.request(self._number, "initialize", tool_calls.initialize_params(version))
        return await self._stream.post(server, body, self._number)

    async def _request(
        self, server: Server, session: McpSession, method: str, params: dict[str, Any], call: Call | None = None
    ) -> tuple[dict[str, Any], bytes]:
        """The result of one request and the body it came in. Raises `AgentError`, `_SessionGone`."""
        self._number += 1
        number = self._number
        more: list[tuple[bytes, bytes]] = []
        if session.modern:
            params = tool_calls.modern_params(params)
            more = tool_calls.modern_headers(method, params.get("name"))
        body = jsonrpc.request(number, method, params)
        try:
            response, message, raw = await self._stream.post(server, body, number, session, more, call)
        except asyncio.CancelledError:
            if not session.modern:  # for newer servers, closing the connection is enough
                self._tell_cancelled(server, session, number)
            raise
        status, error = response.status_code, jsonrpc.error_of(message)
        is_good = 200 <= status < 300
        if not session.modern and _says_gone(status, error, raw):
            raise _SessionGone(
                status_error(response, shown_body(server, raw), raw) if not is_good else jsonrpc.meaning(error or {})
            )
        if not is_good and (error is None or status in (401, 403, 429) or status >= 500):
            raise status_error(response, shown_body(server, raw), raw, server, call)
        result = server.parsed(raw, lambda: jsonrpc.result_of(message))
        server.unauthorized_status = None
        return result, raw

    def _tell_cancelled(self, server: Server, session: McpSession, number: int) -> None:
        body = jsonrpc.notification(
            "notifications/cancelled", {"requestId": number, "reason": "the task was cancelled"}
        )
        self._best_effort.start("mcp-cancel", lambda: self._http.raw(server.build(session, body)))

    async def check_health(self, agent: AgentRegistration, timeout_s: float) -> None:
        """The server answers a ping in time, in a new session if necessary. Raises `AgentError`; `Unsupported`."""
        server = self._servers.get(agent)
        tool_calls.ToolCall(server.tool)
        deadline = asyncio.get_running_loop().time() + timeout_s
        await within(timeout_s, lambda: self._greet(server, deadline))
        check_authorized(server)

    async def _greet(self, server: Server, deadline: float) -> None:
        if server.session is None:
            await self._open(server)
            return
        session = server.session
        method = "server/discover" if session.modern else "ping"
        try:
            await self._in_session(server, method, {}, None, deadline)
        except AgentError:
            await self._open(server)  # the old session may have been the cause

    async def tools(self, agent: AgentRegistration, timeout_s: float) -> list[str]:
        """The names of the server's tools, of `MAX_PAGES` pages at most. Raises `AgentError`."""
        server = self._servers.get(agent)
        deadline = asyncio.get_running_loop().time() + timeout_s

        async def ask() -> list[str]:
            names: list[str] = []
            params: dict[str, Any] = {}
            for _ in range(MAX_PAGES):
                result, _ = await self._in_session(server, "tools/list", params, None, deadline)
                names += tool_calls.tool_names(result)
                cursor = result.get("nextCursor")
                if not isinstance(cursor, str) or not cursor:
                    break
                params = {"cursor": cursor}
            return names

        return await within(timeout_s, ask)

    async def close(self) -> None:
        """End the sessions at the servers, within a short time, and release every connection."""
        for server in self._servers.all():
            if server.session is not None:
                self._end(server, server.session)
        await self._stream.close()
        await self._best_effort.close()
        await self._http.aclose()

    def _end(self, server: Server, session: McpSession) -> None:
        if session.key:
            self._best_effort.start("mcp-close", lambda: self._http.raw(server.bare("DELETE", session)))


def _says_gone(status: int, error: dict[str, Any] | None, raw: bytes) -> bool:
    """Whether a response means that the session is unknown: 404 by the specification; some servers answer 400, 410, or
    an error about the session.
    """
    if status in (404, 410):
        return True
    if status == 400:
        return tool_calls.names_session(raw) if error is None else error.get("code") not in (-32602, -32601)
    return status not in (401, 403, 429) and tool_calls.is_about_session(error)
