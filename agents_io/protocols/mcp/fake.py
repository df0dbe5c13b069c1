"""A scripted MCP server over streamable HTTP: sessions or none, answers as JSON or as an event stream.

In: steps as for `FakeAgent`; a step's answer is what its one tool says. Out: `calls` of tools, and every `method` that came.
"""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

from agents_io.fakes.dress import text_of
from agents_io.fakes.http import FakeAgent
from agents_io.fakes.steps import ScriptStep


class FakeMcp(FakeAgent):
    """`async with FakeMcp(answer()) as server:` serves at `server.endpoint`, which ends in `/mcp`. Its tool is `analyze`."""

    version = "2025-06-18"
    modern = False
    """No handshake and no sessions: revision 2026-07-28."""
    stream = False
    structured = False
    """The answer as structured content in place of text."""
    keyless = False
    """Sessions without an id."""
    result: dict[str, Any] = {}
    """Members of the result beside its content."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.sessions: set[str] = set()
        self.opened = 0
        self.tools = ["analyze"]
        self.methods: list[str] = []
        self.heads: list[dict[str, str]] = []
        self.bodies: list[dict[str, Any]] = []

    @property
    def endpoint(self) -> str:
        return super().endpoint + "/mcp"

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/mcp", self._serve), web.delete("/mcp", self._end)]

    async def _end(self, request: web.Request) -> web.Response:
        self.sessions.discard(request.headers.get("Mcp-Session-Id", ""))
        return web.Response(status=204)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        message = orjson.loads(await request.read())
        method = message["method"]
        self.methods.append(method)
        self.heads.append(dict(request.headers))
        self.bodies.append(message)
        if not self.healthy:
            return web.Response(status=503)
        refused = self._modern(request, message) if self.modern else self._legacy(request, method)
        if refused is not None:
            return refused
        if method == "initialize":
            return self._initialize(message)
        if "id" not in message:
            return web.Response(status=202)
        if method == "tools/call":
            return await self.play(request)
        known: dict[str, Any] = {
            "ping": {},
            "tools/list": {"tools": [{"name": name, "inputSchema": {}} for name in self.tools]},
        }
        known["server/discover"] = {"supportedVersions": ["2026-07-28"]}
        return self._answer(message, {"result": known[method]})

    def _legacy(self, request: web.Request, method: str) -> web.Response | None:
        if method == "initialize" or self.keyless:
            return None
        return None if request.headers.get("Mcp-Session-Id") in self.sessions else web.Response(status=404)

    def _modern(self, request: web.Request, message: dict[str, Any]) -> web.Response | None:
        if message["method"] == "initialize":
            data = {"supported": ["2026-07-28"], "requested": message["params"]["protocolVersion"]}
            error = {"code": -32022, "message": "Unsupported protocol version", "data": data}
            return web.json_response({"jsonrpc": "2.0", "id": message["id"], "error": error}, status=400)
        meta = message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"]
        mirrored = (meta, message["method"], message["params"].get("name"))
        names = ("MCP-Protocol-Version", "Mcp-Method", "Mcp-Name")
        return None if mirrored == tuple(request.headers.get(name) for name in names) else web.Response(status=400)

    def _initialize(self, message: dict[str, Any]) -> web.Response:
        self.opened += 1
        result = {"protocolVersion": self.version, "capabilities": {"tools": {}}, "serverInfo": {"name": "fake"}}
        response = self._answer(message, {"result": result})
        if not self.keyless:
            key = f"session-{self.opened}"
            self.sessions.add(key)
            response.headers["Mcp-Session-Id"] = key
        return response

    def payload_of(self, raw: bytes) -> Any:
        """The arguments; an `input` alone is the payload itself."""
        arguments = orjson.loads(raw)["params"]["arguments"]
        return arguments["input"] if arguments.keys() == {"input"} else arguments

    def respond(self, step: ScriptStep, body: bytes, raw: bytes) -> web.Response:
        """A tool's result with the body as its text."""
        text = text_of(step, body)
        if text is None:
            return super().respond(step, body, raw)
        result: dict[str, Any] = {"content": [{"type": "text", "text": text}]}
        if self.structured:
            result = {"content": [], "structuredContent": orjson.loads(text)}
        return self._answer(orjson.loads(raw), {"result": result | self.result})

    def _answer(self, message: dict[str, Any], rest: dict[str, Any]) -> web.Response:
        reply = orjson.dumps({"jsonrpc": "2.0", "id": message["id"]} | rest)
        if not self.stream:
            return web.Response(body=reply, content_type="application/json")
        notice = b'{"jsonrpc":"2.0","method":"notifications/progress","params":{}}'
        body = b"id: 1\ndata:\n\n: alive\n\nevent: message\ndata: " + notice + b"\n\ndata: " + reply + b"\n\n"
        return web.Response(body=body, content_type="text/event-stream")
