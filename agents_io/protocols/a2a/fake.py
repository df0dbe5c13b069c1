"""A scripted A2A agent, 1.0 or 0.3: card, send, get and cancel over JSON-RPC or HTTP+JSON.

In: steps as for `FakeAgent`; a step's answer becomes the task's artifact. `states`: what a task is in before it ends, one for
each look at it, the first for the send; `end`: the state it ends in. Out: `calls` of sends, and what was asked and cancelled;
requests by HTTP+JSON are listed under the method that JSON-RPC has for them.
"""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import unquote

import orjson
from aiohttp import web

from agents_io.fakes.dress import text_of
from agents_io.fakes.http import FakeAgent
from agents_io.fakes.steps import ScriptStep

_NAMES = {"1.0": ("SendMessage", "GetTask", "CancelTask"), "0.3": ("message/send", "tasks/get", "tasks/cancel")}
_REFUSALS = {
    -32601: (404, 404, "METHOD_NOT_FOUND"),
    -32602: (400, 422, "INVALID_PARAMS"),
    -32603: (500, 500, "INTERNAL_ERROR"),
    -32001: (404, 404, "TASK_NOT_FOUND"),
    -32004: (400, 501, "UNSUPPORTED_OPERATION"),
    -32005: (400, 415, "CONTENT_TYPE_NOT_SUPPORTED"),
    -32009: (400, 400, "VERSION_NOT_SUPPORTED"),
}
"""JSON-RPC's codes in HTTP+JSON: the status in 1.0 and in 0.3, and the reason in 1.0."""


class FakeA2a(FakeAgent):
    """`async with FakeA2a(answer()) as agent:` has its card below `agent.endpoint`; it is called at `/rpc`, or below `/rest`."""

    version: Literal["1.0", "0.3"] = "1.0"
    binding: Literal["JSONRPC", "HTTP+JSON"] = "JSONRPC"
    states: tuple[str, ...] = ()
    end: str = "completed"
    as_message = False
    """Answer a send with a message in place of a task."""
    old_card_path = False
    error: dict[str, Any] | None = None
    """An error in place of every result, as JSON-RPC has it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.requests: list[dict[str, Any]] = []
        self.cancelled: list[str] = []
        self.cards_read = 0
        self._texts: dict[str, str] = {}
        self._polls: dict[str, int] = {}

    def routes(self) -> list[web.RouteDef]:
        name = "agent.json" if self.old_card_path else "agent-card.json"
        card = web.get(f"/.well-known/{name}", self._card)
        if self.binding == "JSONRPC":
            return [card, web.post("/rpc", self._rpc)]
        root = "/rest/v1" if self.version == "0.3" else "/rest"
        calls = [("POST", "/message:{what}"), ("GET", "/tasks/{id}"), ("POST", "/tasks/{id}:{what}")]
        tenants = ("", "/{tenant}") if self.version == "1.0" else ("",)
        return [
            card,
            *(web.route(verb, root + tenant + path, self._rest) for tenant in tenants for verb, path in calls),
        ]

    def card(self) -> dict[str, Any]:
        """Its card. The host in it is wrong, as behind many proxies."""
        url = "http://nowhere.invalid:9/" + ("rpc" if self.binding == "JSONRPC" else "rest/")
        rest = {"name": "Fake", "skills": [{"id": "sum", "tags": ["maths", "sum"]}], "capabilities": {}}
        if self.version == "1.0":
            row = {"url": url, "protocolBinding": self.binding, "protocolVersion": "1.0"}
            return rest | {"supportedInterfaces": [row]}
        return rest | {"url": url, "preferredTransport": self.binding, "protocolVersion": "0.3.0"}

    async def _card(self, request: web.Request) -> web.Response:
        self.cards_read += 1
        return web.json_response(self.card(), status=200 if self.healthy else 503)

    async def _rpc(self, request: web.Request) -> web.StreamResponse:
        message = orjson.loads(await request.read())
        return await self._answer(request, message)

    async def _rest(self, request: web.Request) -> web.StreamResponse:
        send, get, cancel = _NAMES[self.version]
        raw, what = await request.read(), request.match_info.get("what")
        method = get if request.method == "GET" else {"send": send, "cancel": cancel}.get(str(what), "unknown")
        params = orjson.loads(raw) if method == send else {"id": unquote(request.match_info.get("id", ""))}
        if method == send and self._is_proto() and "content" not in params["message"]:
            return web.json_response({"message": "unknown exception"}, status=500)  # as a2a-sdk 0.3 does
        return await self._answer(request, {"method": method, "params": params, "path": request.raw_path})

    async def _answer(self, request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        send, get, cancel = _NAMES[self.version]
        self.requests.append(message | {"headers": dict(request.headers)})
        if self.error is not None:
            return self._reply(message, {"error": self.error})
        task_id = message["params"].get("id")
        if message["method"] == send:
            return await self.play(request)
        if message["method"] == cancel:
            self.cancelled.append(task_id)
            return self._reply(message, {"result": self._task(task_id, "canceled")})
        if message["method"] != get or task_id not in self._texts:
            code = -32001 if message["method"] == get else -32601
            return self._reply(message, {"error": {"code": code, "message": "not found"}})
        return self._reply(message, {"result": self._poll(task_id)})

    def _reply(self, message: dict[str, Any], rest: dict[str, Any]) -> web.Response:
        """A result or an error, in the form of the binding."""
        if self.binding == "JSONRPC":
            return web.json_response(body=orjson.dumps({"jsonrpc": "2.0", "id": message["id"]} | rest))
        error = rest.get("error")
        if error is None:
            return web.json_response(rest["result"])
        new, old, reason = _REFUSALS[error["code"]]
        if self.version == "0.3":
            return web.json_response({"message": error["message"]}, status=old)
        info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "a2a-protocol.org"}
        refusal = {"code": new, "status": "SOME", "message": error["message"], "details": [info]}
        return web.json_response({"error": refusal}, status=new)

    def payload_of(self, raw: bytes) -> Any:
        """The data part, else the text."""
        message = orjson.loads(raw)
        message = message["params"]["message"] if self.binding == "JSONRPC" else message["message"]
        parts = message["content" if self._is_proto() else "parts"]
        for part in parts:
            if "data" in part:
                return part["data"]["data"] if self._is_proto() else part["data"]
        try:
            return orjson.loads(parts[0]["text"])
        except orjson.JSONDecodeError:
            return parts[0]["text"]

    def respond(self, step: ScriptStep, body: bytes, raw: bytes) -> web.Response:
        """A task with the body as its artifact, or a message."""
        text = text_of(step, body)
        if text is None:
            return super().respond(step, body, raw)
        message = orjson.loads(raw)
        if self.as_message:
            result = self._message(text)
            name = "message"
        else:
            task_id = f"task-{len(self._texts)}"
            self._texts[task_id] = text
            result, name = self._poll(task_id), "task"
        is_plain = self.version == "0.3" and not self._is_proto()
        return self._reply(message, {"result": result | {"kind": name} if is_plain else {name: result}})

    def _poll(self, task_id: str) -> dict[str, Any]:
        poll = self._polls.get(task_id, 0)
        self._polls[task_id] = poll + 1
        return self._task(task_id, self.states[poll] if poll < len(self.states) else self.end)

    def _task(self, task_id: str, state: str) -> dict[str, Any]:
        status = {"state": self._state(state), "message": self._message(f"it is {state}")}
        task: dict[str, Any] = {"id": task_id, "contextId": "c", "status": status}
        if state == "completed":
            task["artifacts"] = [{"artifactId": "a", "parts": self._parts(self._texts[task_id])}]
        return task

    def _is_proto(self) -> bool:
        """Whether it uses the JSON of a2a.proto 0.3, which differs from that of 0.3's JSON-RPC."""
        return self.version == "0.3" and self.binding == "HTTP+JSON"

    def _state(self, state: str) -> str:
        if self._is_proto() and state == "canceled":
            return "TASK_STATE_CANCELLED"
        is_plain = self.version == "0.3" and not self._is_proto()
        return state if is_plain else f"TASK_STATE_{state.upper().replace('-', '_')}"

    def _message(self, text: str) -> dict[str, Any]:
        role = "agent" if self.version == "0.3" and not self._is_proto() else "ROLE_AGENT"
        return {"messageId": "m", "role": role, "content" if self._is_proto() else "parts": self._parts(text)}

    def _parts(self, text: str) -> list[dict[str, Any]]:
        return [{"kind": "text", "text": text} if self.version == "0.3" and not self._is_proto() else {"text": text}]
