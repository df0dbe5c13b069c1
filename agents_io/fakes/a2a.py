"""A scripted A2A agent, 1.0 or 0.3: card, send, get and cancel over JSON-RPC.

In: steps as for `FakeAgent`; a step's answer becomes the task's artifact. `states`: what a task is in before it ends, one for
each look at it, the first for the send; `end`: the state it ends in. Out: `calls` of sends, and what was asked and cancelled.
"""

from __future__ import annotations

from typing import Any, Literal

import orjson
from aiohttp import web

from agents_io.fakes.dress import text_of
from agents_io.fakes.http import FakeAgent
from agents_io.fakes.steps import Step

_NAMES = {"1.0": ("SendMessage", "GetTask", "CancelTask"), "0.3": ("message/send", "tasks/get", "tasks/cancel")}


class FakeA2a(FakeAgent):
    """`async with FakeA2a(answer()) as agent:` has its card below `agent.endpoint` and is called at `/rpc`."""

    version: Literal["1.0", "0.3"] = "1.0"
    states: tuple[str, ...] = ()
    end: str = "completed"
    as_message = False
    """Answer a send with a message in place of a task."""
    old_card_path = False
    error: dict[str, Any] | None = None
    """A JSON-RPC error in place of every result."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.requests: list[dict[str, Any]] = []
        self.cancelled: list[str] = []
        self.cards_read = 0
        self._texts: dict[str, str] = {}
        self._looks: dict[str, int] = {}

    def routes(self) -> list[web.RouteDef]:
        """Card and JSON-RPC."""
        name = "agent.json" if self.old_card_path else "agent-card.json"
        return [web.get(f"/.well-known/{name}", self._card), web.post("/rpc", self._rpc)]

    def card(self) -> dict[str, Any]:
        """Its card. The host in it is wrong, as it is behind many a proxy."""
        url = "http://nowhere.invalid:9/rpc"
        rest = {"name": "Fake", "skills": [{"id": "sum", "tags": ["maths", "sum"]}], "capabilities": {}}
        if self.version == "1.0":
            return rest | {
                "supportedInterfaces": [{"url": url, "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}]
            }
        return rest | {"url": url, "preferredTransport": "JSONRPC", "protocolVersion": "0.3.0"}

    async def _card(self, request: web.Request) -> web.Response:
        self.cards_read += 1
        return web.json_response(self.card(), status=200 if self.healthy else 503)

    async def _rpc(self, request: web.Request) -> web.StreamResponse:
        send, get, cancel = _NAMES[self.version]
        message = orjson.loads(await request.read())
        self.requests.append(message | {"headers": dict(request.headers)})
        if self.error is not None:
            return _rpc_response(message, {"error": self.error})
        task_id = message["params"].get("id")
        if message["method"] == send:
            return await self.play(request)
        if message["method"] == cancel:
            self.cancelled.append(task_id)
            return _rpc_response(message, {"result": self._task(task_id, "canceled")})
        if message["method"] != get or task_id not in self._texts:
            code = -32001 if message["method"] == get else -32601
            return _rpc_response(message, {"error": {"code": code, "message": "not found"}})
        return _rpc_response(message, {"result": self._look(task_id)})

    def payload_of(self, raw: bytes) -> Any:
        """The data part, else the text."""
        parts = orjson.loads(raw)["params"]["message"]["parts"]
        for part in parts:
            if "data" in part:
                return part["data"]
        try:
            return orjson.loads(parts[0]["text"])
        except orjson.JSONDecodeError:
            return parts[0]["text"]

    def respond(self, step: Step, body: bytes, raw: bytes) -> web.Response:
        """A task with the body as its artifact, or a message."""
        text = text_of(step, body)
        if text is None:
            return super().respond(step, body, raw)
        message = orjson.loads(raw)
        if self.as_message:
            result: dict[str, Any] = {"messageId": "m", "role": self._role(), "parts": self._parts(text)}
            name = "message"
        else:
            task_id = f"task-{len(self._texts)}"
            self._texts[task_id] = text
            result, name = self._look(task_id), "task"
        result = {name: result} if self.version == "1.0" else result | {"kind": name}
        return _rpc_response(message, {"result": result})

    def _look(self, task_id: str) -> dict[str, Any]:
        look = self._looks.get(task_id, 0)
        self._looks[task_id] = look + 1
        return self._task(task_id, self.states[look] if look < len(self.states) else self.end)

    def _task(self, task_id: str, state: str) -> dict[str, Any]:
        named = state if self.version == "0.3" else f"TASK_STATE_{state.upper().replace('-', '_')}"
        status = {
            "state": named,
            "message": {"messageId": "s", "role": self._role(), "parts": self._parts(f"it is {state}")},
        }
        task: dict[str, Any] = {"id": task_id, "contextId": "c", "status": status}
        if state == "completed":
            task["artifacts"] = [{"artifactId": "a", "parts": self._parts(self._texts[task_id])}]
        return task

    def _parts(self, text: str) -> list[dict[str, Any]]:
        return [{"text": text} if self.version == "1.0" else {"kind": "text", "text": text}]

    def _role(self) -> str:
        return "ROLE_AGENT" if self.version == "1.0" else "agent"


def _rpc_response(message: dict[str, Any], rest: dict[str, Any]) -> web.Response:
    return web.json_response(body=orjson.dumps({"jsonrpc": "2.0", "id": message["id"]} | rest))
