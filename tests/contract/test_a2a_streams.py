"""A2A agents that answer by a stream alone, of both versions: their task is put together from its events."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from aiohttp import web

from agents_io.protocols.a2a.transport import A2aTransport
from agents_io.transport import Answer
from tests.support.served import asking, said
from tests.support.wait import until

ANSWER = {"value": "yes", "confidence": 0.9}
TEXT = orjson.dumps(ANSWER).decode()
FAILED = ("http_5xx", True, True)
SENDS = ("message/send", "SendMessage")


class Streaming:
    """One agent. `events`: results of its stream; None: nothing more comes. `refuses`: the methods it does not offer."""

    def __init__(self, version: str, events: list[Any], refuses: tuple[str, ...] = SENDS, code: int = -32004) -> None:
        self.version, self.events, self.refuses, self.code = version, events, refuses, code
        self.methods: list[str] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Its card, or an answer."""
        if request.method == "GET":
            return web.json_response(self.card()) if "agent-card" in request.path else web.Response(status=404)
        message = await request.json()
        self.methods.append(message["method"])
        if message["method"] in self.refuses:
            return web.json_response(
                {"jsonrpc": "2.0", "id": message["id"], "error": {"code": self.code, "message": "not offered"}}
            )
        if message["method"] not in ("message/stream", "SendStreamingMessage"):
            return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": {}})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in self.events:
            if event is None:
                await asyncio.sleep(30)
            if event == "broken" and request.transport is not None:
                request.transport.abort()
                break
            data = {"jsonrpc": "2.0", "id": message["id"], "result": event}
            await response.write(event if isinstance(event, bytes) else b"data: " + orjson.dumps(data) + b"\n\n")
        return response

    def card(self) -> dict[str, Any]:
        """Of its version."""
        card = {"name": "n", "description": "d", "version": "1", "skills": [], "capabilities": {"streaming": True}}
        if self.version == "0.3":
            return card | {"url": "http://h/", "protocolVersion": "0.3.0"}
        interface = {"url": "http://h/", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}
        return card | {"supportedInterfaces": [interface]}


def new(member: str, **fields: Any) -> dict[str, Any]:
    """An event of 1.0."""
    return {member: fields}


def old(kind: str, **fields: Any) -> dict[str, Any]:
    """An event of 0.3."""
    return {"kind": kind, **fields}


def artifact(parts: list[Any], name: str = "a1", **fields: Any) -> dict[str, Any]:
    """What both versions call an artifact."""
    return {"taskId": "T1", "artifact": {"artifactId": name, "parts": parts}, **fields}


NEW = [
    new("task", id="T1", status={"state": "TASK_STATE_SUBMITTED"}),
    new("statusUpdate", taskId="T1", status={"state": "TASK_STATE_WORKING"}),
    new("artifactUpdate", **artifact([{"text": TEXT[:9]}])),
    *(new("artifactUpdate", **artifact([{"text": char}], append=True)) for char in TEXT[9:]),
    new("statusUpdate", taskId="T1", status={"state": "TASK_STATE_COMPLETED"}),
    None,
]
OLD = [
    old("task", id="T1", status={"state": "submitted"}),
    old("artifact-update", **artifact([{"kind": "data", "data": ANSWER}], lastChunk=True)),
    old("status-update", taskId="T1", status={"state": "completed"}, final=True),
    None,
]


@pytest.mark.parametrize(("version", "events"), [("1.0", NEW), ("0.3", OLD)])
@pytest.mark.parametrize("code", [-32004, -32601])
async def test_an_agent_that_only_streams_is_asked_for_that_from_then_on(
    version: str, events: list[Any], code: int
) -> None:
    """Neither sends nor gets are offered; texts of an artifact are put together."""
    server = Streaming(version, events, (*SENDS, "tasks/get", "GetTask"), code)
    async with asking(A2aTransport(), server, "a2a") as ask:
        assert said(await ask(timeout_s=5.0)) == ("yes", 0.9)
        server.methods.clear()
        assert said(await ask(timeout_s=5.0)) == ("yes", 0.9)
    assert server.methods == ["SendStreamingMessage" if version == "1.0" else "message/stream"]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([new("message", messageId="1", parts=[{"data": ANSWER}]), None], ("yes", 0.9)),
        ([new("task", id="T1", status={"state": "TASK_STATE_COMPLETED"}, artifacts=[{"parts": [{"data": ANSWER}]}])],
         ("yes", 0.9)),
        ([*NEW[:-2], new("statusUpdate", taskId="T1", status={"state": "TASK_STATE_FAILED"}), None], FAILED),
        ([new("artifactUpdate", **artifact([{"text": "no"}])), *NEW[2:]], ("yes", 0.9)),  # replaced
        ([*NEW[:3], "broken"], FAILED),
        (["broken"], ("connection", True, True)),
        (NEW[:-2], FAILED),  # ended before its task did, and the task cannot be asked for
        ([], ("bad_response", True, True)),
        ([b"data: {no json\n\n", None], ("bad_response", True, True)),
        ([new("artifactUpdate", **artifact(True)), NEW[-2]], ("bad_response", True, True)),  # type: ignore[arg-type]
        ([new("task", id="T1", status={"state": "TASK_STATE_COMPLETED"}, artifacts=7)], ("bad_response", True, True)),
    ],
)  # fmt: skip
async def test_how_a_stream_ends(events: list[Any], expected: Any) -> None:
    """The registration asks for it: `stream: true` changes nothing else."""
    server = Streaming("1.0", events, (*SENDS, "GetTask"))
    async with asking(A2aTransport(), server, "a2a", stream=True) as ask:
        assert said(await ask(timeout_s=5.0)) == expected
    assert "SendMessage" not in server.methods


async def test_who_wants_no_stream_gets_none() -> None:
    """`stream: false`: the refusal is the end."""
    async with asking(A2aTransport(), Streaming("1.0", NEW), "a2a", stream=False) as ask:
        assert said(await ask(timeout_s=5.0)) == ("http_4xx", False, False)


async def test_a_stream_has_the_cap_of_an_answer_and_the_time_of_an_attempt() -> None:
    """In both cases the agent's task is cancelled."""
    begin = NEW[0]
    many = [new("artifactUpdate", **artifact([{"text": "x" * 50}], append=True)) for _ in range(50)]
    for events, code in (([begin, *many, None], "too_large"), ([begin, None], "timeout")):
        server = Streaming("1.0", events)
        async with asking(A2aTransport(max_answer_bytes=1000), server, "a2a", stream=True) as ask:
            assert said(await ask(timeout_s=0.5))[0] == code
            await until(lambda server=server: "CancelTask" in server.methods)  # type: ignore[misc]


async def test_an_artifact_that_is_sent_again_and_again_counts_once() -> None:
    """An agent may send all of its text so far with each event. What is beside the parts counts too."""
    again = [new("artifactUpdate", **artifact([{"text": TEXT}])) for _ in range(50)]
    async with asking(
        A2aTransport(max_answer_bytes=1000), Streaming("1.0", [*again, NEW[-2]]), "a2a", stream=True
    ) as ask:
        assert said(await ask(timeout_s=5.0)) == ("yes", 0.9)
    named = [
        new("artifactUpdate", artifact={"artifactId": f"a{n}", "parts": [], "description": "x" * 50}) for n in range(50)
    ]
    async with asking(A2aTransport(max_answer_bytes=1000), Streaming("1.0", [*named, None]), "a2a", stream=True) as ask:
        assert said(await ask(timeout_s=5.0)) == ("too_large", False, True)


class Unfinished(Streaming):
    """Its stream ends at once, and its task never."""

    def __init__(self) -> None:
        super().__init__("0.3", [OLD[0]], ())

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """The task, when it is asked for."""
        message = await request.json() if request.method == "POST" else {}
        if message.get("method") != "tasks/get":
            return await super().__call__(request)
        return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": OLD[0]})


@pytest.mark.parametrize("metadata", [{}, {"stream": True}])
async def test_a_task_whose_stream_ended_first_is_cancelled_with_its_call(metadata: dict[str, Any]) -> None:
    """No caller waits for it any more."""
    server = Unfinished()
    async with asking(A2aTransport(), server, "a2a", **metadata) as ask:
        assert said(await ask(timeout_s=0.3))[0] == "timeout"
        await until(lambda: "tasks/cancel" in server.methods)


async def test_words_and_data_of_several_artifacts_stay_apart() -> None:
    """As they would in a task that came at once."""
    events = [
        new("artifactUpdate", **artifact([{"text": "he"}], "a1")),
        new("artifactUpdate", **artifact([{"text": "re"}, {"data": ANSWER}, {"text": "!"}], "a1", append=True)),
        new("artifactUpdate", **artifact([{"text": "more"}], "a2")),
        NEW[-2],
    ]
    async with asking(A2aTransport(), Streaming("1.0", events), "a2a", stream=True) as ask:
        end = await ask(timeout_s=5.0)
    assert end == Answer("yes", 0.9, {"text": "here\n!\nmore"})


@pytest.mark.parametrize(("size", "expected"), [(50, ("yes", 0.9)), (2_000_000, ("too_large", False, True))])
async def test_how_a_task_goes_is_no_part_of_its_answer(size: int, expected: Any) -> None:
    """An agent of 0.3 that streams each word: its answer is what the task has in the end. One event has a cap all the same."""
    begin = OLD[0]
    word = old("artifact-update", **artifact([{"kind": "text", "text": "x" * size}], append=True))
    words = [word] * (50 if size < 1000 else 1)
    task = {"kind": "task", "id": "T1", "status": {"state": "completed"}, "artifacts": [OLD[1]["artifact"]]}

    class Agent(Streaming):
        async def __call__(self, request: web.Request) -> web.StreamResponse:
            """The task, once it is asked for."""
            message = await request.json() if request.method == "POST" else {}
            if message.get("method") == "tasks/get":
                return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": task})
            return await super().__call__(request)

    server = Agent("0.3", [begin, *words, OLD[2]])
    async with asking(A2aTransport(max_answer_bytes=1000), server, "a2a") as ask:
        assert said(await ask(timeout_s=5.0)) == expected
