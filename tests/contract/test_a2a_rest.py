"""What only A2A over HTTP+JSON has: paths, its own form of messages and errors, and the choice between two bindings."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import orjson
import pytest
from aiohttp import web

from agents_io.errors import AgentError, ClientError, ServerError, Unsupported
from agents_io.fakes.steps import ScriptStep, answer
from agents_io.protocols.a2a.transport import A2aTransport
from schemas.messages import SecretRef
from tests.contract.test_a2a_transport import rigged
from tests.support.health import is_well
from tests.support.served import asking, said
from tests.support.wait import until

Version = Literal["1.0", "0.3"]
both = pytest.mark.parametrize("version", ["1.0", "0.3"])
ANSWER = {"value": "yes", "confidence": 0.9}
REST = "HTTP+JSON"


@both
async def test_paths_headers_and_parts_are_those_of_the_version(
    version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card's host is wrong; the token, the key and the version go along."""
    monkeypatch.setenv("A2A_TOKEN", "s3cret")
    async with rigged(version, answer(7), binding=REST, states=("working",)) as rig:
        assert (await rig.call(auth=SecretRef(env="A2A_TOKEN"))).value == 7
        sent, got = rig.fake.requests
        root = "/rest" if version == "1.0" else "/rest/v1"
        assert [sent["path"], got["path"]] == [f"{root}/message:send", f"{root}/tasks/task-0"]
        for request in (sent, got):
            assert (request["headers"]["A2A-Version"], request["headers"]["Authorization"]) == (
                version,
                "Bearer s3cret",
            )
        assert sent["headers"]["Idempotency-Key"] == "key-1"
        message, configuration = sent["params"]["message"], sent["params"]["configuration"]
        assert (message["messageId"], message["contextId"], message["role"]) == ("key-1", "c1", "ROLE_USER")
        if version == "1.0":
            assert message["parts"] == [{"data": {"n": 1}}]
            assert configuration["returnImmediately"] is True
        else:  # a2a.proto 0.3 knows neither `kind` nor `parts`, and its parsers refuse what they do not know
            assert message["content"] == [{"data": {"data": {"n": 1}}}]
            assert message.keys() == {"messageId", "contextId", "role", "content"}
            assert configuration["blocking"] is False


@both
async def test_blocking_is_said_as_over_json_rpc(version: Version) -> None:
    """One request, and its answer."""
    async with rigged(version, binding=REST) as rig:
        await rig.call(metadata={"blocking": True, "textOnly": True})
        sent = rig.fake.requests[0]["params"]
        expected = {"returnImmediately": False} if version == "1.0" else {"blocking": True}
        assert expected.items() <= sent["configuration"].items()
        assert sent["message"]["parts" if version == "1.0" else "content"] == [{"text": '{"n":1}'}]


async def test_the_tenant_stands_in_each_path() -> None:
    """Of the registration; escaped."""
    async with rigged("1.0", binding=REST, states=("working",)) as rig:
        await rig.call(metadata={"tenant": "a&b"})
        assert [request["path"] for request in rig.fake.requests] == [
            "/rest/a%26b/message:send",
            "/rest/a%26b/tasks/task-0",
        ]
        assert rig.fake.requests[0]["params"]["tenant"] == "a&b"


@both
async def test_health_is_an_answer_for_a_task_that_does_not_exist(version: Version) -> None:
    """With a card or, where the registration names the version, without; another server's 404 is none."""
    async with rigged(version, binding=REST) as rig:
        assert await is_well(rig.transport, rig.agent, 5.0)
        fixed = {"a2aVersion": version, "a2aBinding": REST}
        at_rest = rig.agent.model_copy(update={"endpoint": rig.fake.endpoint + "/rest", "metadata": fixed})
        assert await is_well(rig.transport, at_rest, 5.0)
        rig.fake.healthy = False
        assert (await rig.call(endpoint=at_rest.endpoint, metadata=fixed)).value == "ok"
        elsewhere = at_rest.model_copy(update={"endpoint": rig.fake.endpoint + "/other"})
        assert not await is_well(rig.transport, elsewhere, 5.0)


@both
async def test_a_task_that_the_agent_lost_is_its_failure(version: Version) -> None:
    """404 to a `get`, while 404 to a `send` means that nothing is there."""
    async with rigged(version, binding=REST, states=("working",) * 100) as rig:
        call = asyncio.create_task(rig.call())
        await until(lambda: len(rig.fake.requests) >= 2)
        rig.fake.error = {"code": -32001, "message": "not found"}
        with pytest.raises(ServerError, match="not found"):
            await call
        rig.fake.error = None
        rig.fake.script(ScriptStep("status", code=404))
        with pytest.raises(ClientError, match="404"):
            await rig.call()


class Server:
    """A card with these interfaces; `replies`: by method and path, a status with JSON, or the events of a stream."""

    def __init__(self, card: dict[str, Any], replies: dict[str, Any]) -> None:
        self.card = {"name": "n", "description": "d", "version": "1", "skills": []} | card
        self.replies = replies
        self.asked: list[str] = []
        self.waits: asyncio.Event | None = None

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """All requests."""
        if "well-known" in request.path:
            return web.json_response(self.card) if "agent-card" in request.path else web.Response(status=404)
        name = f"{request.method} {request.rel_url.raw_path}"
        self.asked.append(name)
        if self.waits is not None and len(self.asked) == 1:
            await self.waits.wait()
        reply = self.replies.get(name, (404, {"detail": "Not Found"}))
        if isinstance(reply, list):
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            for event in reply:
                await response.write(
                    b"data: " + orjson.dumps(event, option=orjson.OPT_INDENT_2).replace(b"\n", b"\ndata: ")
                )
                await response.write(b"\n\n")
            return response
        status, body = reply
        return web.json_response(body, status=status)


def interface(binding: str, path: str, version: str = "1.0", **more: Any) -> dict[str, Any]:
    """A row of a card."""
    return {"url": f"http://h{path}", "protocolBinding": binding, "protocolVersion": version, **more}


def refused(status: int, reason: str) -> tuple[int, dict[str, Any]]:
    """An error of 1.0."""
    detail = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "a2a-protocol.org"}
    return status, {"error": {"code": status, "status": "X", "message": "no", "details": [detail]}}


MESSAGE = {"message": {"messageId": "1", "role": "ROLE_AGENT", "parts": [{"data": ANSWER}]}}
OVER_RPC = (200, {"jsonrpc": "2.0", "id": 1, "result": MESSAGE})
BOTH = [interface(REST, "/rest"), interface("JSONRPC", "/rpc")]


@pytest.mark.parametrize("version", ["1.0", "0.3"])
async def test_a_lost_task_is_not_asked_for_again(version: Version, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 404 that is no error of A2A may be a proxy's: then it is."""
    monkeypatch.setattr("agents_io.protocols.a2a.transport.POLL_MAX_S", 0.01)
    root, begun = "/rest" if version == "1.0" else "/rest/v1", {"task": {"id": "T1", "status": {"state": "working"}}}
    error = refused(404, "TASK_NOT_FOUND") if version == "1.0" else (404, {"message": "Task not found"})
    for reply, polls in ((error, 1), ((404, "nothing here"), 3)):
        replies = {f"POST {root}/message:send": (200, begun), f"GET {root}/tasks/T1": reply}
        server = Server({"supportedInterfaces": [interface(REST, "/rest", version)]}, replies)
        async with asking(A2aTransport(), server, "a2a") as ask:
            assert said(await ask()) == ("http_5xx", True, True)
        assert server.asked.count(f"GET {root}/tasks/T1") == polls


async def test_the_cards_first_interface_is_called() -> None:
    """Of those we speak."""
    rows = [interface("GRPC", ":9"), *BOTH]
    server = Server({"supportedInterfaces": rows}, {"POST /rest/message:send": (200, MESSAGE)})
    async with asking(A2aTransport(), server, "a2a") as ask:
        assert said(await ask()) == ("yes", 0.9)
    server = Server({"supportedInterfaces": BOTH[::-1]}, {"POST /rpc": OVER_RPC})
    async with asking(A2aTransport(), server, "a2a") as ask:
        assert said(await ask()) == ("yes", 0.9)
    assert server.asked == ["POST /rpc"]


async def test_the_registration_chooses_the_binding() -> None:
    """Whatever the card prefers; a binding that the card does not have is said."""
    replies = {"POST /rest/message:send": (200, MESSAGE), "POST /rpc": OVER_RPC}
    server = Server({"supportedInterfaces": BOTH}, replies)
    for binding, asked in (("JSONRPC", "POST /rpc"), ("http+json", "POST /rest/message:send")):
        async with asking(A2aTransport(), server, "a2a", a2aBinding=binding) as ask:
            assert said(await ask()) == ("yes", 0.9)
        assert server.asked.pop() == asked
    server.card["supportedInterfaces"] = BOTH[1:]
    async with asking(A2aTransport(), server, "a2a", a2aBinding=REST) as ask:
        end = await ask()
        assert isinstance(end, Unsupported)
        assert end.message == "the agent card names no HTTP+JSON interface of A2A 1.0 or 0.3, only 'JSONRPC 1.0'"
    async with asking(A2aTransport(), server, "a2a", a2aBinding="GRPC") as ask:
        end = await ask()
        assert isinstance(end, Unsupported)
        assert end.message == "metadata.a2aBinding: must be one of JSONRPC, HTTP+JSON"


@pytest.mark.parametrize(
    "refusal", [(404, {"detail": "Not Found"}), (405, None), refused(400, "VERSION_NOT_SUPPORTED")]
)
async def test_an_interface_that_is_not_there_is_passed_over(refusal: Any) -> None:
    """And remembered: the next task goes to the other one at once."""
    server = Server({"supportedInterfaces": BOTH}, {"POST /rest/message:send": refusal, "POST /rpc": OVER_RPC})
    async with asking(A2aTransport(), server, "a2a") as ask:
        for _ in range(2):
            assert said(await ask()) == ("yes", 0.9)
    assert server.asked == ["POST /rest/message:send", "POST /rpc", "POST /rpc"]


@pytest.mark.parametrize("status", [400, 422])
async def test_a_server_of_0_3_that_wants_the_objects_of_json_rpc(status: int) -> None:
    """The second form is tried once and remembered; a task that is refused later is not tried in the other one."""
    bodies: list[dict[str, Any]] = []
    refuses_all = False

    async def serve(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            card = {"url": "http://h/", "preferredTransport": REST, "protocolVersion": "0.3.0", "skills": []}
            return web.json_response(card) if "agent-card" in request.path else web.Response(status=404)
        message = (await request.json())["message"]
        bodies.append(message)
        if "parts" not in message or refuses_all:
            return web.json_response({"title": "Bad Request"}, status=status)
        parts = [{"kind": "data", "data": ANSWER}]
        return web.json_response({"kind": "message", "messageId": "1", "role": "agent", "parts": parts})

    async with asking(A2aTransport(), serve, "a2a") as ask:
        for _ in range(2):
            assert said(await ask()) == ("yes", 0.9)
        assert ["parts" in body for body in bodies] == [False, True, True]
        assert bodies[1]["parts"][0] == {"kind": "text", "text": "ok"}
        refuses_all = True
        assert said(await ask()) == ("http_4xx", False, False)
        refuses_all = False
        assert said(await ask()) == ("yes", 0.9)
    assert ["parts" in body for body in bodies] == [False, True, True, True, True]


async def test_a_task_that_0_3_refuses_in_both_forms() -> None:
    """Its first refusal counts, though the official SDK answers 500 to the other form; the next task is sent as before."""
    async with rigged("0.3", binding=REST) as rig:
        rig.fake.script([ScriptStep("status", code=422, times=1), answer()])
        with pytest.raises(ClientError, match="422"):
            await rig.call()
        assert (await rig.call()).value == "ok"
        assert [request["path"] for request in rig.fake.requests] == ["/rest/v1/message:send"] * 2


async def test_calls_at_once_turn_from_a_refused_interface_once() -> None:
    """A late refusal of the first interface does not bring it back."""
    server = Server({"supportedInterfaces": BOTH}, {"POST /rpc": OVER_RPC})
    server.waits = asyncio.Event()
    async with asking(A2aTransport(), server, "a2a") as ask:
        first = asyncio.create_task(ask(key="1"))
        await until(lambda: bool(server.asked))
        assert said(await ask(key="2")) == ("yes", 0.9)
        server.waits.set()
        assert said(await first) == ("yes", 0.9)
        assert said(await ask(key="3")) == ("yes", 0.9)
    assert server.asked == ["POST /rest/message:send"] * 2 + ["POST /rpc"] * 3


async def test_nothing_of_the_card_is_there() -> None:
    """The first refusal is the error, and each interface was tried once."""
    server = Server({"supportedInterfaces": BOTH}, {})
    async with asking(A2aTransport(), server, "a2a") as ask:
        end = await ask()
        assert isinstance(end, ClientError)
        assert end.message == 'the agent answered 404: \'{"detail": "Not Found"}\''
    assert server.asked == ["POST /rest/message:send", "POST /rpc"]


NEW_EVENTS = [
    {"task": {"id": "T/1", "status": {"state": "TASK_STATE_WORKING"}}},
    {"artifactUpdate": {"taskId": "T/1", "artifact": {"artifactId": "a", "parts": [{"data": ANSWER}]}}},
    {"statusUpdate": {"taskId": "T/1", "status": {"state": "TASK_STATE_COMPLETED"}}},
]
OLD_EVENTS = [
    {"task": {"id": "T/1", "status": {"state": "TASK_STATE_WORKING"}}},
    {"artifactUpdate": {"taskId": "T/1", "artifact": {"artifactId": "a", "parts": [{"data": {"data": ANSWER}}]}}},
    {"statusUpdate": {"taskId": "T/1", "status": {"state": "TASK_STATE_COMPLETED"}, "final": True}},
]
STREAMING = {"capabilities": {"streaming": True}}
NEW_CARD = STREAMING | {"supportedInterfaces": [interface(REST, "/")]}
OLD_CARD = STREAMING | {"url": "http://h/", "preferredTransport": REST, "protocolVersion": "0.3.0"}
TASK = {
    "id": "T/1",
    "status": {"state": "TASK_STATE_COMPLETED"},
    "artifacts": [{"artifactId": "a", "parts": [{"data": {"data": ANSWER}}]}],
}


@pytest.mark.parametrize(("card", "events", "root"), [(NEW_CARD, NEW_EVENTS, ""), (OLD_CARD, OLD_EVENTS, "/v1")])
@pytest.mark.parametrize("status", [400, 501])
async def test_an_agent_that_only_streams(card: dict[str, Any], events: list[Any], root: str, status: int) -> None:
    """It refuses a send as 1.0 or as 0.3 does; after that its stream is asked for at once."""
    replies = {
        f"POST {root}/message:send": refused(status, "UNSUPPORTED_OPERATION")
        if status == 400
        else (501, {"message": "no"}),
        f"POST {root}/message:stream": events,
    }
    metadata = {} if root == "" else {"blocking": True}  # else 0.3 is watched by a stream anyway
    server = Server(card, replies)
    async with asking(A2aTransport(), server, "a2a", **metadata) as ask:
        for _ in range(2):
            assert said(await ask(timeout_s=5.0)) == ("yes", 0.9)
    assert server.asked == [f"POST {root}/message:send", *[f"POST {root}/message:stream"] * 2]


async def test_a_task_of_0_3_is_watched_by_a_stream_and_then_fetched() -> None:
    """As over JSON-RPC; the id of the task is escaped."""
    server = Server(OLD_CARD, {"POST /v1/message:stream": OLD_EVENTS, "GET /v1/tasks/T%2F1": (200, TASK)})
    async with asking(A2aTransport(), server, "a2a") as ask:
        assert said(await ask(timeout_s=5.0)) == ("yes", 0.9)
    assert server.asked == ["POST /v1/message:stream", "GET /v1/tasks/T%2F1"]


async def test_a_task_of_0_3_that_is_refused_says_nothing_about_streams() -> None:
    """The next task is watched by a stream as before."""
    server = Server(OLD_CARD, {"POST /v1/message:stream": (422, {"message": "no"})})
    async with asking(A2aTransport(), server, "a2a") as ask:
        assert said(await ask()) == ("http_4xx", False, False)
        server.asked.clear()
        server.replies = {"POST /v1/message:stream": OLD_EVENTS, "GET /v1/tasks/T%2F1": (200, TASK)}
        assert said(await ask(timeout_s=5.0)) == ("yes", 0.9)
    assert server.asked == ["POST /v1/message:stream", "GET /v1/tasks/T%2F1"]


async def test_an_agent_of_0_3_that_streams_nothing_after_all() -> None:
    """Its card says that it does."""
    replies = {"POST /v1/message:send": (200, {"task": TASK}), "POST /v1/message:stream": (501, {"message": "no"})}
    server = Server(OLD_CARD, replies)
    async with asking(A2aTransport(), server, "a2a") as ask:
        for _ in range(2):
            assert said(await ask(timeout_s=5.0)) == ("yes", 0.9)
    assert server.asked == ["POST /v1/message:stream", *["POST /v1/message:send"] * 2]


async def test_a_stream_that_fails_after_it_began() -> None:
    """The official SDK sends the error as an event."""
    events = [NEW_EVENTS[0], refused(500, "INTERNAL_ERROR")[1]]
    server = Server(NEW_CARD, {"POST /message:stream": events})
    async with asking(A2aTransport(), server, "a2a", stream=True) as ask:
        end = await ask(timeout_s=5.0)
        assert isinstance(end, ServerError)
        assert end.message == "the agent answered INTERNAL_ERROR: 'no'"


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_token_makes_the_agent_unhealthy(status: int) -> None:
    """A public card does not hide it."""
    server = Server(NEW_CARD, {"POST /message:send": (status, None), "GET /tasks/parallax-health": (status, None)})
    async with asking(A2aTransport(), server, "a2a") as ask:
        end = await ask()
        assert isinstance(end, AgentError)
        assert (end.code, end.status) == ("http_4xx", status)
        assert not await is_well(ask.transport, ask.agent, 5.0)


@pytest.mark.parametrize("status", [404, 405])
@both
async def test_nothing_at_the_path_of_json_rpc_means_the_other_interface(version: Version, status: int) -> None:
    """A card may name more than its server offers. What answers is remembered; with no other interface the status stands."""
    paths: list[str] = []
    card: dict[str, Any] = {"name": "n", "description": "d", "version": "1", "skills": []}
    rows = [("JSONRPC", "http://h/rpc"), (REST, "http://h/rest")]
    if version == "1.0":
        keys = ("protocolBinding", "url", "protocolVersion")
        full = card | {"supportedInterfaces": [dict(zip(keys, (*row, version), strict=True)) for row in rows]}
    else:
        more = [{"transport": binding, "url": url} for binding, url in rows]
        full = card | {"protocolVersion": "0.3.0", "url": rows[0][1], "additionalInterfaces": more}
    alone = card | {"protocolVersion": "0.3.0", "url": rows[0][1]}

    async def handler(request: web.Request, card: Any = full) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response(card) if "agent-card" in request.path else web.Response(status=404)
        paths.append(request.path)
        if request.path == "/rpc":
            return web.Response(status=status, text="nothing here")
        part = {"data": ANSWER} if version == "1.0" else {"data": {"data": ANSWER}}
        return web.json_response(
            {"message": {"messageId": "1", "role": "ROLE_AGENT", "parts" if version == "1.0" else "content": [part]}}
        )

    async with asking(A2aTransport(), handler, "a2a") as ask:
        assert said(await ask()) == ("yes", 0.9)
        assert said(await ask()) == ("yes", 0.9)
    sends = "/rest/message:send" if version == "1.0" else "/rest/v1/message:send"
    assert paths == ["/rpc", sends, sends]
    async with asking(A2aTransport(), lambda request: handler(request, alone), "a2a") as ask:
        end = await ask()
    assert said(end) == ("http_4xx", False, False)
    assert "nothing here" in str(end)
