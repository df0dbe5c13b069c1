"""What A2A agents of others were seen to do."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from aiohttp import web

from agents_io.protocols.a2a.transport import A2aTransport
from agents_io.transport import Answer
from tests.support.health import is_well
from tests.support.served import asking, said
from tests.support.wait import until
from tests.support.wild import FAILED, LIMITED, NOT_TAKEN, REFUSED


class A2a:
    """An agent with a card. `interface`: more members of its one interface."""

    def __init__(self, end: Any, *, card: dict[str, Any] | None = None, **interface: Any) -> None:
        self.end = end
        given = {"url": "http://h/", "protocolBinding": "JSONRPC", "protocolVersion": "1.0", **interface}
        row = {name: value for name, value in given.items() if value is not None}
        self.card = {"name": "n", "description": "d", "version": "1", "supportedInterfaces": [row], "skills": []} | (
            card or {}
        )
        self.sent: list[dict[str, Any]] = []
        self.urls: list[str] = []
        self.cancelled: list[str] = []
        self.methods: list[str] = []
        self.locked = False

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """All requests."""
        self.urls.append(str(request.rel_url))
        if request.method == "GET":
            return web.json_response(self.card) if "agent-card" in request.path else web.Response(status=404)
        if self.locked:
            return web.Response(status=401)
        message = await request.json()
        self.methods.append(message["method"])
        if message["method"] in ("CancelTask", "tasks/cancel"):
            self.cancelled.append(message["params"]["id"])
        if message["method"] in ("SendMessage", "message/send"):
            self.sent.append(message["params"])
        end = self.end(message) if callable(self.end) else self.end
        return web.json_response({"jsonrpc": "2.0", "id": message["id"], **end})


def parts(*given: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A message of 1.0 as the result."""
    return {"result": {"message": {"messageId": "1", "role": "ROLE_AGENT", "parts": list(given), **more}}}


DATA = parts({"data": {"value": 1, "confidence": 0.5}})


def task(state: str) -> dict[str, Any]:
    """A task of 1.0 as the result."""
    return {"result": {"task": {"id": "T1", "status": {"state": f"TASK_STATE_{state}"}}}}


async def test_an_interface_without_a_version() -> None:
    """The official SDK's default: 1.0, and 0.3 once it refuses that; remembered."""
    async with asking(A2aTransport(), A2a(DATA, protocolVersion=None), "a2a") as ask:
        assert said(await ask()) == (1, 0.5)

    def old(message: dict[str, Any]) -> dict[str, Any]:
        if message["method"] != "message/send":
            return {"error": {"code": -32601, "message": "Method not found"}}
        return {
            "result": {
                "kind": "message",
                "messageId": "1",
                "parts": [{"kind": "data", "data": {"value": 2, "confidence": 1}}],
            }
        }

    server = A2a(old, protocolVersion=None)
    async with asking(A2aTransport(), server, "a2a") as ask:
        assert said(await ask()) == (2, 1.0)
        assert said(await ask()) == (2, 1.0)
        assert server.methods == ["SendMessage", "message/send", "message/send"]


async def test_an_empty_list_of_interfaces_hides_nothing() -> None:
    """The fields of 0.3 stand beside it."""
    answer = {
        "result": {
            "kind": "message",
            "messageId": "1",
            "parts": [{"kind": "data", "data": {"value": 2, "confidence": 1}}],
        }
    }
    card = {"supportedInterfaces": [], "url": "http://h/", "protocolVersion": "0.3.0"}
    async with asking(A2aTransport(), A2a(answer, card=card), "a2a") as ask:
        assert said(await ask()) == (2, 1.0)


@pytest.mark.parametrize("version", ["0.3", 0.3])
async def test_a_version_that_became_a_number(version: Any) -> None:
    """On a command line or in a TOML file."""
    answer = {
        "result": {
            "kind": "message",
            "messageId": "1",
            "parts": [{"kind": "data", "data": {"value": 2, "confidence": 1}}],
        }
    }
    async with asking(A2aTransport(), A2a(answer), "a2a", a2aVersion=version) as ask:
        assert said(await ask()) == (2, 1.0)


async def test_tenant_and_query_go_along() -> None:
    """The card's, else the registration's; on every request."""
    server = A2a(DATA, tenant="acme", url="http://h/rpc?v=1%262")
    async with asking(A2aTransport(), server, "a2a", "/?key=a%26b") as ask:
        assert said(await ask()) == (1, 0.5)
    assert server.sent[0]["tenant"] == "acme"
    assert server.urls[0] == "/.well-known/agent-card.json?key=a%26b"
    assert server.urls[-1] == "/rpc?v=1%262"
    server = A2a(DATA)
    async with asking(A2aTransport(), server, "a2a", "/?key=a%26b", tenant="mine") as ask:
        await ask()
    assert (server.sent[0]["tenant"], server.urls[-1]) == ("mine", "/?key=a%26b")


@pytest.mark.parametrize(
    ("card", "metadata", "kinds"),
    [
        ({"defaultInputModes": ["text/plain"]}, {}, ["text"]),
        ({"defaultInputModes": ["text"]}, {}, ["text"]),
        ({"defaultInputModes": ["text/plain"]}, {"textOnly": False}, ["text", "data"]),
        ({"defaultInputModes": ["application/json"]}, {}, ["text", "data"]),
        (
            {"defaultInputModes": ["text/plain"], "skills": [{"id": "s", "inputModes": ["application/json"]}]},
            {},
            ["text", "data"],
        ),
        ({}, {}, ["text", "data"]),
        ({}, {"textOnly": True}, ["text"]),
    ],
)
async def test_parts_are_what_the_card_says_the_agent_takes(card: Any, metadata: Any, kinds: list[str]) -> None:
    """The registration stands above it."""
    server = A2a(DATA, card=card)
    async with asking(A2aTransport(), server, "a2a", **metadata) as ask:
        assert said(await ask({"task": "x", "data": {"n": 1}})) == (1, 0.5)
    assert [next(iter(part)) for part in server.sent[0]["message"]["parts"]] == kinds


async def test_a_framework_that_takes_text_alone_and_does_not_say_so() -> None:
    """It fails without a word: text is tried once and kept. With a reason, or after data worked, it is the agent's failure."""

    def text_only(message: dict[str, Any]) -> dict[str, Any]:
        has_data = any("data" in part for part in message["params"]["message"]["parts"])
        return task("FAILED") if has_data else DATA

    server = A2a(text_only)
    async with asking(A2aTransport(), server, "a2a") as ask:
        assert said(await ask()) == (1, 0.5)
        assert said(await ask()) == (1, 0.5)
        assert len(server.sent) == 3
    server = A2a(task("FAILED"))
    async with asking(A2aTransport(), server, "a2a") as ask:
        for _ in range(3):
            assert said(await ask()) == FAILED
        assert len(server.sent) == 4
        assert [len(sent["message"]["parts"]) for sent in server.sent] == [2, 1, 2, 2]


@pytest.mark.parametrize(("state", "expected"), [("AUTH_REQUIRED", NOT_TAKEN), ("INPUT_REQUIRED", REFUSED)])
async def test_a_task_that_waits_is_cancelled_at_the_agent(state: str, expected: Any) -> None:
    """Nobody will come for it."""
    server = A2a(task(state))
    async with asking(A2aTransport(), server, "a2a") as ask:
        assert said(await ask()) == expected
        await until(lambda: server.cancelled == ["T1"])


class Away(A2a):
    """Its task takes a while, and these statuses answer the polls for it; 0: the connection is cut."""

    def __init__(self, *statuses: int, wait: str = "0") -> None:
        super().__init__(lambda message: task("WORKING") if message["method"] == "SendMessage" else FINISHED)
        self.statuses = [*statuses]
        self.wait = wait

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Polls fail first."""
        is_poll = request.method == "POST" and (await request.json())["method"] == "GetTask"
        if not is_poll or not self.statuses:
            return await super().__call__(request)
        self.methods.append("GetTask")
        if (status := self.statuses.pop(0)) == 0 and request.transport is not None:
            request.transport.abort()
        return web.Response(status=status or 500, headers={"Retry-After": self.wait})


FINISHED = {
    "result": {
        "id": "T1",
        "status": {"state": "TASK_STATE_COMPLETED"},
        "artifacts": [{"artifactId": "a", "parts": [{"data": {"value": 1, "confidence": 0.5}}]}],
    }
}


@pytest.mark.parametrize(
    ("statuses", "wait", "expected"),
    [
        ((503,), "0", (1, 0.5)),
        ((429, 0), "0", (1, 0.5)),
        ((0, 500), "0", (1, 0.5)),
        ((0, 0, 0), "0", ("connection", True, True)),
        ((429,), "60", LIMITED),
        ((503, 429, 503), "0", FAILED),
        ((401,), "0", NOT_TAKEN),
    ],
)
async def test_a_server_that_is_away_while_its_task_runs(
    statuses: tuple[int, ...], wait: str, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task goes on there, so it is asked for again; one that is given up is cancelled."""
    monkeypatch.setattr("agents_io.protocols.a2a.transport.POLL_MAX_S", 0.01)
    monkeypatch.setattr("agents_io.http.connection.CLOSING_S", -1.0)  # each cut connection is a failed poll
    server = Away(*statuses, wait=wait)
    async with asking(A2aTransport(), server, "a2a") as ask:
        assert said(await ask(timeout_s=20.0)) == expected
        if expected != (1, 0.5):
            await until(lambda: server.cancelled == ["T1"])
    assert server.methods.count("SendMessage") == 1
    assert server.cancelled == ([] if expected == (1, 0.5) else ["T1"])


@pytest.mark.parametrize(
    ("errors", "expected", "polls"),
    [((-32603,), (1, 0.5), 2), ((-32603, -32000), (1, 0.5), 3), ((-32603,) * 3, FAILED, 3), ((-32602,), NOT_TAKEN, 1)],
)
async def test_an_error_in_answer_to_a_poll_is_no_end_of_the_task(
    errors: tuple[int, ...], expected: Any, polls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON-RPC has it in a 200: the server's store failed for a moment. A task that is given up is cancelled."""
    monkeypatch.setattr("agents_io.protocols.a2a.transport.POLL_MAX_S", 0.01)
    left = [*errors]

    def end(message: dict[str, Any]) -> dict[str, Any]:
        if message["method"] == "SendMessage":
            return task("WORKING")
        return {"error": {"code": left.pop(0), "message": "oh"}} if left else FINISHED

    server = A2a(end)
    async with asking(A2aTransport(), server, "a2a") as ask:
        assert said(await ask()) == expected
        if expected != (1, 0.5):
            await until(lambda: server.cancelled == ["T1"])
    assert server.methods.count("GetTask") == polls


async def test_a_task_that_the_agent_lost_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not come back: the next attempt sends it once more, as another message."""
    monkeypatch.setattr("agents_io.protocols.a2a.transport.POLL_MAX_S", 0.01)
    lost = {"error": {"code": -32001, "message": "Task not found"}}
    server = A2a(lambda message: task("WORKING") if message["method"] == "SendMessage" else lost)
    async with asking(A2aTransport(), server, "a2a") as ask:
        for _ in range(2):
            assert said(await ask()) == FAILED
    assert server.methods.count("GetTask") == 2
    assert [sent["message"]["messageId"] for sent in server.sent] == ["k", "k/2"]


async def test_nothing_of_an_a2a_answer_is_lost() -> None:
    """The words beside a data part, other members, and all metadata."""
    answer = parts(
        {"text": "look:"},
        {"data": {"value": 1, "n": 7}, "metadata": {"lang": "en"}},
        metadata={"confidence": 0.5, "model": "m"},
    )
    async with asking(A2aTransport(), A2a(answer), "a2a") as ask:
        end = await ask()
    assert isinstance(end, Answer)
    assert (end.value, end.confidence) == (1, 0.5)
    assert end.metadata == {"n": 7, "text": "look:", "lang": "en", "model": "m"}


async def test_what_pydantic_ai_wraps_is_unwrapped() -> None:
    """Its data part is `{"result": ...}`, marked by the schema in its metadata."""
    inner = {"value": "st", "confidence": 0.7}
    for answer in (
        parts({"data": {"result": inner}, "metadata": {"json_schema": {}}}),
        parts({"data": {"result": inner}}),
        parts({"data": {"result": orjson.dumps(inner).decode()}, "metadata": {"json_schema": {}}}),
        parts({"text": f"Here:\n```json\n{orjson.dumps(inner).decode()}\n```"}),
    ):
        async with asking(A2aTransport(), A2a(answer), "a2a") as ask:
            assert said(await ask()) == ("st", 0.7)


async def test_a_public_card_is_not_health() -> None:
    """Calls that are refused by 401 are."""
    server = A2a({"error": {"code": -32001, "message": "no such task"}})
    async with asking(A2aTransport(), server, "a2a") as ask:
        assert await is_well(ask.transport, ask.agent, 5.0)
        server.locked = True
        assert not await is_well(ask.transport, ask.agent, 5.0)


def events(*given: Any) -> bytes:
    """An event stream of JSON-RPC results."""
    return b"".join(b"data: " + orjson.dumps({"jsonrpc": "2.0", "id": 1, "result": one}) + b"\n\n" for one in given)


BEGUN = {"kind": "task", "id": "T1", "status": {"state": "submitted"}}


ENDED = {"kind": "status-update", "taskId": "T1", "final": True, "status": {"state": "completed"}}


DONE = {
    "kind": "task",
    "id": "T1",
    "status": {"state": "completed"},
    "artifacts": [{"parts": [{"kind": "data", "data": {"value": 1, "confidence": 0.5}}]}],
}


SAID = {"kind": "message", "messageId": "1", "parts": [{"kind": "data", "data": {"value": 1, "confidence": 0.5}}]}


@pytest.mark.parametrize("broken", [False, True], ids=["closed", "broken off"])
@pytest.mark.parametrize(
    ("stream", "task", "expected"),
    [
        (events(BEGUN, ENDED), DONE, (1, 0.5)),
        (events(SAID), None, (1, 0.5)),
        (events(BEGUN), DONE, (1, 0.5)),
        (events(BEGUN), BEGUN, FAILED),
        (b"", None, FAILED),
        (b'data: {"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"boom"}}\n\n', None, FAILED),
        (None, DONE, (1, 0.5)),
    ],
    ids=["to its end", "a message", "ends early", "executor raised", "raised at once", "error", "streams nothing"],
)
async def test_a_task_of_0_3_whose_executor_raises_is_no_timeout(
    stream: bytes | None, task: Any, expected: Any, broken: bool
) -> None:
    """a2a-sdk 0.3 leaves such a task as it is; only its stream tells that nobody works on it."""
    sent: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            card = {"name": "n", "url": "http://h/", "protocolVersion": "0.3.0", "capabilities": {"streaming": True}}
            return web.json_response(card) if "agent-card" in request.path else web.Response(status=404)
        message = await request.json()
        sent.append(message["method"])
        if message["method"] == "message/stream" and stream is not None:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            await response.write(stream)
            if broken and request.transport is not None:
                request.transport.abort()
            return response
        if message["method"] == "message/stream":
            error = {"code": -32004, "message": "This operation is not supported"}
            return web.json_response({"jsonrpc": "2.0", "id": message["id"], "error": error})
        return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": task})

    async with asking(A2aTransport(), handler, "a2a") as ask:
        end = said(await ask(timeout_s=30.0))
        assert end == expected or (broken and stream == b"" and end == ("connection", True, True))
        if stream is None:
            await ask()
            assert sent == ["message/stream", "message/send", "message/send"]
