"""What MCP servers of others were seen to do: sessions, wrappers, their own requests, streams that end early."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from agents_io.errors import ConnectionWasClosing
from agents_io.protocols.mcp.transport import McpTransport
from schemas.messages import SecretRef
from tests.support.health import is_well
from tests.support.served import asking, said
from tests.support.wait import until

ANSWER = {"structuredContent": {"value": "yes", "confidence": 0.9, "why": "so"}, "content": []}
OK = ("yes", 0.9)
First = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


def ok(message: dict[str, Any], result: Any) -> web.Response:
    """A JSON-RPC result."""
    return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": result})


class Server:
    """One tool with sessions. `gone`: what it answers to a session it does not know."""

    def __init__(self, result: Any = None, *, version: str = "2025-11-25", sticky: bool = False) -> None:
        self.result = ANSWER if result is None else result
        self.version = version
        self.sticky = sticky
        self.sessions: set[str] = set()
        self.seen: list[str] = []
        self.gets: list[str | None] = []
        self.posted: list[dict[str, Any]] = []
        self.calls = 0
        self.first: First | None = None
        self.gone: Callable[[dict[str, Any]], web.Response] = lambda message: web.Response(status=404)
        self.resumed: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """All requests."""
        if request.method == "GET" and self.resumed is not None and "Last-Event-ID" in request.headers:
            self.gets.append(request.headers["Last-Event-ID"])
            return await self.resumed(request)
        if request.method != "POST":
            return web.Response(status=405)
        message = await request.json()
        self.posted.append(message)
        self.seen.append(message.get("method") or "response")
        if message.get("method") == "initialize":
            key = f"s{len(self.seen)}"
            self.sessions.add(key)
            about = {"protocolVersion": self.version, "capabilities": {}, "serverInfo": {"name": "n", "version": "1"}}
            answer = ok(message, about)
            answer.headers["Mcp-Session-Id"] = key
            if self.sticky:
                answer.set_cookie("lb", "1")
            return answer
        known = request.headers.get("Mcp-Session-Id") in self.sessions
        if not known or (self.sticky and request.cookies.get("lb") != "1"):
            return self.gone(message)
        if "id" not in message or "method" not in message:
            return web.Response(status=202)
        if message["method"] != "tools/call":
            return ok(message, {})
        self.calls += 1
        return ok(message, self.result) if self.first is None else await self.first(request, message)


def error(code: int, text: str, status: int) -> Callable[[dict[str, Any]], web.Response]:
    """A JSON-RPC error by some status."""
    return lambda message: web.json_response(
        {"jsonrpc": "2.0", "id": message.get("id"), "error": {"code": code, "message": text}}, status=status
    )


GONE = {
    "404": lambda message: web.Response(status=404),
    "410": lambda message: web.Response(status=410),
    "400 and words": lambda message: web.Response(status=400, text="Bad Request: no valid session"),
    "400 and an error": error(-32000, "Bad Request: No valid session ID provided", 400),
    "404 and an error": error(-32001, "Session not found", 404),
    "200 and an error": error(-32600, "Session not found", 200),
    "500 and an error": error(-32000, "Server not initialized", 500),
}


@pytest.mark.parametrize("how", GONE)
async def test_a_restarted_server_is_called_in_a_new_session(how: str) -> None:
    """In the same attempt: it refused the old one, and has run nothing."""
    server = Server()
    server.gone = GONE[how]
    async with asking(McpTransport(), server, "mcp", "/mcp", tool="judge") as ask:
        assert said(await ask()) == OK
        server.sessions.clear()
        assert said(await ask()) == OK
        server.sessions.clear()
        assert await is_well(ask.transport, ask.agent, 5.0)
        assert (server.seen.count("initialize"), server.calls) == (3, 2)


@pytest.mark.parametrize(
    "sick",
    [
        lambda message: web.Response(status=500),
        lambda message: web.Response(text="<html>", content_type="text/html"),
        lambda message: web.Response(status=202),
        error(-32603, "boom", 200),
        error(-32042, "try later", 200),
    ],
    ids=["500", "html", "202", "internal error", "unknown error"],
)
async def test_whatever_is_no_result_puts_the_session_in_doubt(sick: Callable[[Any], web.Response]) -> None:
    """The next attempt opens another one; a tool's own failure is a result and opens none."""
    server = Server()

    async def broken(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        return sick(message)

    async with asking(McpTransport(), server, "mcp", "/mcp", tool="judge") as ask:
        await ask()
        server.first = broken
        assert said(await ask())[0] in ("http_5xx", "bad_response")
        server.first = None
        assert said(await ask()) == OK
        assert server.seen.count("initialize") == 2
        server.result = {"isError": True, "content": [{"type": "text", "text": "disk full"}]}
        assert said(await ask()) == ("http_5xx", True, True)
        await ask()
        assert server.seen.count("initialize") == 2


async def test_a_call_out_of_time_doubts_its_session_and_a_cancelled_one_does_not() -> None:
    """The server may hang in the session; the user's request says nothing of it."""
    server = Server()

    async def hanging(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    async with asking(McpTransport(), server, "mcp", "/mcp", tool="judge") as ask:
        await ask()
        server.first = hanging
        waiting = asyncio.create_task(ask())
        await until(lambda: server.calls == 2)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert said(await ask([*range(150_000)], timeout_s=0.2))[0] == "timeout"  # reading it takes time of the attempt
        assert server.seen.count("initialize") == 1
        server.first = None
        assert said(await ask()) == OK
        assert server.seen.count("initialize") == 2


def wrapped(value: Any, text: str, **more: Any) -> dict[str, Any]:
    """A result as FastMCP wraps it."""
    return {"structuredContent": {"result": value}, "content": [{"type": "text", "text": text}], **more}


MARK = {"_meta": {"x-fastmcp-wrap-result": True}}
SPAM = '{"value": "spam", "confidence": 0.91}'


@pytest.mark.parametrize(
    ("result", "metadata", "expected"),
    [
        (wrapped(SPAM, SPAM, **MARK), {}, ("spam", 0.91)),
        (wrapped(SPAM, SPAM), {}, ("spam", 0.91)),
        (wrapped(SPAM, SPAM, _meta={"fastmcp": {"wrap_result": True}}), {}, ("spam", 0.91)),
        (wrapped("plain words", "plain words"), {"defaultConfidence": 0.5}, ("plain words", 0.5)),
        (wrapped(4.5, "4.5"), {"defaultConfidence": 0.5}, (4.5, 0.5)),
        (wrapped([1, 2], "[1, 2]"), {"defaultConfidence": 0.5}, ([1, 2], 0.5)),
        (wrapped({"value": 1, "confidence": 1}, '{"value": 1, "confidence": 1}'), {}, (1, 1.0)),
        (wrapped(5, '{"result": 5}'), {"defaultConfidence": 0.5}, ({"result": 5}, 0.5)),
        ({"content": [{"type": "text", "text": f"Sure:\n```json\n{SPAM}\n```"}]}, {}, ("spam", 0.91)),
        ({"content": [{"type": "text", "text": "use {x}"}]}, {"defaultConfidence": 0.5}, ("use {x}", 0.5)),
    ],
)
async def test_what_the_sdk_wrapped_is_unwrapped(result: Any, metadata: Any, expected: Any) -> None:
    """A tool that returns a string, a number or a list; an object of its own that looks like it stays."""
    async with asking(McpTransport(), Server(result), "mcp", "/mcp", tool="judge", **metadata) as ask:
        assert said(await ask()) == expected


async def test_all_a_tool_says_beside_value_and_confidence_is_kept() -> None:
    """Members of the structured content, and `_meta`."""
    result = ANSWER | {"_meta": {"x/confidence": 0.5, "model": "m"}}
    async with asking(McpTransport(), Server(result), "mcp", "/mcp", tool="judge") as ask:
        end = await ask()
        assert getattr(end, "metadata", None) == {"why": "so", "model": "m"}


@pytest.mark.parametrize(
    ("text", "is_tasks"),
    [
        ("Unknown tool: judge", True),
        ("Input validation error: 'x' is a required property", True),
        ("Error executing tool judge: 1 validation error for judgeArguments\nx\n  Field required", True),
        ("1 validation error for call[judge]\nx\n  Missing required argument", True),
        ("MCP error -32602: Tool judge not found", True),
        ("Error executing tool judge: disk full", False),
        ("2 validation errors for Invoice", False),
    ],
)
async def test_a_task_that_does_not_fit_the_tool_is_not_the_agents_fault(text: str, is_tasks: bool) -> None:
    """The SDKs report it as a result with `isError`."""
    result = {"isError": True, "content": [{"type": "text", "text": text}]}
    async with asking(McpTransport(), Server(result), "mcp", "/mcp", tool="judge") as ask:
        assert said(await ask()) == (("http_4xx", False, False) if is_tasks else ("http_5xx", True, True))


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("ping", {"result": {}}),
        ("elicitation/create", -32601),
        ("sampling/createMessage", -32601),
        ("roots/list", -32601),
    ],
)
async def test_the_servers_own_request_is_answered_at_once(method: str, expected: Any) -> None:
    """It waits for that, and our call with it."""
    server = Server()

    async def asks(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"jsonrpc":"2.0","id":"srv1","method":"%s","params":{}}\n\n' % method.encode())
        await until(lambda: "response" in server.seen)
        await response.write(b"data: " + (ok(message, server.result).body or b"") + b"\n\n")  # type: ignore[operator]
        return response

    server.first = asks
    async with asking(McpTransport(), server, "mcp", "/mcp", tool="judge") as ask:
        assert said(await ask()) == OK
        reply = next(message for message in server.posted if "method" not in message)
        assert reply["id"] == "srv1"
        assert reply.get("result" if method == "ping" else "error") is not None
        if method != "ping":
            assert reply["error"]["code"] == expected


@pytest.mark.parametrize("has_length", [False, True])
@pytest.mark.parametrize(("size", "expected"), [(200, OK), (2_000_000, ("too_large", False, True))])
async def test_what_a_server_says_beside_its_answer_is_no_part_of_it(
    size: int, expected: Any, has_length: bool
) -> None:
    """Log lines and progress count towards no limit, together; one that is too large by itself does."""
    server = Server()

    async def chats(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        if not has_length:
            await response.prepare(request)
        line = '{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"%s"}}' % ("x" * size)
        pieces = [b"data: " + line.encode() + b"\n\n"] * (100 if size < 1000 else 2)
        pieces.append(b"data: " + (ok(message, server.result).body or b"") + b"\n\n")  # type: ignore[operator]
        if has_length:
            return web.Response(body=b"".join(pieces), content_type="text/event-stream")
        for piece in pieces:
            await response.write(piece)
        return response

    server.first = chats
    async with asking(McpTransport(max_answer_bytes=10_000), server, "mcp", "/mcp", tool="judge") as ask:
        assert said(await ask()) == expected


@pytest.mark.parametrize(("lines", "expected"), [(10, OK), (1000, ("too_large", False, True))])
async def test_a_stream_may_be_compressed_and_has_a_length(lines: int, expected: Any) -> None:
    """What inflates to more than an answer at once is refused, not cut off in silence."""
    server = Server()

    async def chats(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        body = b"data: " + (ok(message, server.result).body or b"") + b"\n\n"  # type: ignore[operator]
        raw = gzip.compress(b": still here, and at work on it\n\n" * lines + body)
        return web.Response(body=raw, content_type="text/event-stream", headers={"Content-Encoding": "gzip"})

    server.first = chats
    async with asking(McpTransport(max_answer_bytes=10_000), server, "mcp", "/mcp", tool="judge") as ask:
        assert said(await ask()) == expected


@pytest.mark.parametrize("as_stream", [True, False])
async def test_a_server_that_writes_our_number_as_text_is_understood(as_stream: bool) -> None:
    """As the official clients do."""
    server = Server()

    async def answers(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        reply = ok(message | {"id": str(message["id"])}, server.result)
        if not as_stream:
            return reply
        return web.Response(body=b"data: " + reply.body + b"\n\n", content_type="text/event-stream")  # type: ignore[operator]

    server.first = answers
    async with asking(McpTransport(), server, "mcp", "/mcp", tool="judge") as ask:
        assert said(await ask()) == OK


async def test_a_secret_that_a_stream_repeats_is_in_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the tool's words nor in an answer that is none."""
    monkeypatch.setenv("TOKEN", "s3cret-token")
    server = Server()

    async def repeats(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        said = {"content": [{"type": "text", "text": f"you sent {request.headers['Authorization']}"}], "isError": True}
        body = ok(message, said).body
        return web.Response(body=b"data: " + body + b"\n\n", content_type="text/event-stream")  # type: ignore[operator]

    server.first = repeats
    async with asking(McpTransport(), server, "mcp", "/mcp", tool="judge") as ask:
        ask.agent = ask.agent.model_copy(update={"auth": SecretRef(env="TOKEN")})
        end = await ask()
        assert "withheld" in str(end)
        assert "s3cret" not in str(end)


@pytest.mark.parametrize("broken", [False, True], ids=["closed", "broken off"])
async def test_a_stream_that_ends_before_the_answer_is_resumed(broken: bool) -> None:
    """After its newest event, as often as need be; the tool runs once (MCP 2025-11-25, SEP-1699)."""
    server = Server()
    pending: list[dict[str, Any]] = []

    async def begins(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        pending.append(message)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"id: 1\nretry: 50\ndata: \n\n")
        if broken and request.transport is not None:
            request.transport.abort()
        return response

    async def resumed(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if len(server.gets) < 3:
            await response.write(b"id: %d\ndata: \n\n" % (len(server.gets) + 1))
        else:
            await response.write(b"id: 9\ndata: " + (ok(pending[0], ANSWER).body or b"") + b"\n\n")  # type: ignore[operator]
        return response

    server.first, server.resumed = begins, resumed
    async with asking(McpTransport(), server, "mcp", "/mcp", tool="judge") as ask:
        assert said(await ask()) == OK
        assert (server.gets, server.calls) == (["1", "2", "3"], 1)


async def test_a_stream_that_cannot_be_resumed_is_a_bad_response() -> None:
    """At once, not at the call's end."""
    server = Server()

    async def begins(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"id: 1\nretry: 50\ndata: \n\n")
        return response

    server.first = begins
    async with asking(McpTransport(), server, "mcp", "/mcp", tool="judge") as ask:
        end = await ask()
        assert said(end)[0] == "bad_response"
        assert "resumes none (405)" in str(end)


async def test_cookies_bind_a_session_to_its_server() -> None:
    """As a load balancer wants it; another agent does not get them."""
    async with asking(McpTransport(), Server(sticky=True), "mcp", "/mcp", tool="judge") as ask:
        assert said(await ask()) == OK
        assert said(await ask()) == OK


@pytest.mark.parametrize("version", ["2024-10-07", "2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
async def test_every_version_with_a_handshake(version: str) -> None:
    """Over streamable HTTP."""
    async with asking(McpTransport(), Server(version=version), "mcp", "/mcp", tool="judge") as ask:
        assert said(await ask()) == OK


@pytest.mark.parametrize(("status", "supported", "expected"), [
    (200, ["2024-11-05", "2025-03-26"], OK),
    (400, ["2024-11-05", "2025-03-26"], OK),
    (200, ["2023-01-01"], ("http_4xx", False, False)),
])  # fmt: skip
async def test_a_server_that_refuses_the_newest_version_is_asked_for_one_it_has(
    status: int, supported: list[str], expected: Any
) -> None:
    """As in the specification's example of an error; by its text a server answers with another version instead."""

    class Strict(Server):
        async def __call__(self, request: web.Request) -> web.StreamResponse:
            """One that is refused names those it has."""
            message = await request.json() if request.method == "POST" else {}
            if message.get("method") != "initialize" or message["params"]["protocolVersion"] in supported:
                return await super().__call__(request)
            data = {"supported": supported, "requested": message["params"]["protocolVersion"]}
            error = {"code": -32602, "message": "Unsupported protocol version", "data": data}
            return web.json_response({"jsonrpc": "2.0", "id": message["id"], "error": error}, status=status)

    async with asking(McpTransport(), Strict(version="2025-03-26"), "mcp", "/mcp", tool="judge") as ask:
        assert said(await ask()) == expected


async def test_an_answer_in_a_batch() -> None:
    """Servers of 2025-03-26 may send one."""
    server = Server()

    async def batch(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        return web.json_response([{"method": "x"}, {"jsonrpc": "2.0", "id": message["id"], "result": ANSWER}])

    server.first = batch
    async with asking(McpTransport(), server, "mcp", "/mcp", tool="judge") as ask:
        assert said(await ask()) == OK


@pytest.mark.parametrize("ends", [False, True], ids=["stays open", "ends at once"])
async def test_a_request_on_the_servers_own_stream_is_answered(ends: bool) -> None:
    """Where the official SDK sends its pings. It is opened before the call, and no more once it ended at once."""
    server = Server()
    own: list[web.StreamResponse] = []
    opened: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method != "GET":
            return await server(request)
        opened.append(request.headers["Mcp-Session-Id"])
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if not ends:
            own.append(response)
            await asyncio.sleep(30)
        return response

    async def asks(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        if not ends:
            await own[0].write(b'data: {"jsonrpc":"2.0","id":"srv1","method":"ping"}\n\n')
            await until(lambda: "response" in server.seen)
        return ok(message, server.result)

    server.first = asks
    async with asking(McpTransport(), handler, "mcp", "/mcp", tool="judge") as ask:
        for _ in range(3):
            assert said(await ask()) == OK
        assert len(opened) == 1


async def test_a_server_that_closes_after_each_answer_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not say so: the handshake is sent once more; a call whose connection was closing is no failure of the server."""
    monkeypatch.setattr("agents_io.http.connection.CLOSING_S", 10.0)
    server = Server()

    async def closing(request: web.Request) -> web.StreamResponse:
        answer = await server(request)
        if request.method == "POST" and request.transport is not None:
            asyncio.get_running_loop().call_soon(request.transport.close)
        return answer

    async with asking(McpTransport(), closing, "mcp", "/mcp", tool="judge") as ask:
        for _ in range(5):
            first = await ask()
            again = await ask(fresh=True) if isinstance(first, ConnectionWasClosing) else first
            assert said(again) == OK
            assert await is_well(ask.transport, ask.agent, 5.0)
