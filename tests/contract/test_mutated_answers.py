"""Every kind of JSON at each place of a valid answer, of every protocol over HTTP: an answer, or one error of the agent's.

The transports are the real ones, over a server that is a function. What they raise beside `AgentError` ends a task as `internal`.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from agents_io.errors import AgentError
from agents_io.protocols.a2a.transport import A2aTransport
from agents_io.protocols.http.transport import HttpTransport
from agents_io.protocols.mcp.transport import McpTransport
from agents_io.protocols.openai.transport import OpenAiTransport
from agents_io.transport import Call
from schemas.codec import Rejected
from schemas.codec import dumps as writable
from schemas.exact_json import dumps, loads
from schemas.messages import AgentRegistration, Protocol

pytestmark = pytest.mark.virtual_time

KINDS: list[Any] = [
    [],
    {},
    None,
    True,
    -1,
    0.1,
    2**70,
    1e308,
    "",
    "x",
    "\ud83d",
    [[]],
    ["x"],
    [None],
    {"a": {"b": [1]}},
]
ABSENT = object()
SAMPLE = 400
"""Of the mutations of one answer, which are up to a thousand."""

SAID = {"value": "yes", "confidence": 0.9, "usage": {"inputTokens": 3}, "reasoning": "r"}
TEXT = dumps(SAID).decode()
CARD_1: dict[str, Any] = {
    "name": "n",
    "capabilities": {"streaming": True},
    "skills": [{"id": "s", "tags": ["t"], "inputModes": ["text/plain"]}],
    "defaultInputModes": ["text/plain"],
    "supportedInterfaces": [
        {"url": "http://h/", "protocolBinding": "JSONRPC", "protocolVersion": "1.0", "tenant": "t"},
        {"url": "http://h/r", "protocolBinding": "HTTP+JSON", "protocolVersion": "1.0"},
    ],
}
REST = CARD_1 | {"supportedInterfaces": CARD_1["supportedInterfaces"][1:]}
CARD_03 = {
    "name": "n",
    "url": "http://h/",
    "protocolVersion": "0.3.0",
    "preferredTransport": "JSONRPC",
    "additionalInterfaces": [{"transport": "HTTP+JSON", "url": "http://h/r"}],
    "capabilities": {"streaming": True},
}
WORDS = {"messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": "hi"}]}
PARTS = [{"data": SAID, "metadata": {"k": 1}}, {"text": "t"}, {"raw": "AA==", "filename": "f"}]
ARTIFACT = {"artifactId": "a", "parts": PARTS, "metadata": {"confidence": 0.8}}
TASK_1 = {
    "task": {
        "id": "T1",
        "status": {"state": "TASK_STATE_COMPLETED", "message": WORDS},
        "artifacts": [ARTIFACT],
        "metadata": {"x": {"confidence": 1}},
    }
}
TASK_03 = {
    "kind": "task",
    "id": "T1",
    "status": {"state": "completed", "message": WORDS},
    "artifacts": [
        {"artifactId": "a", "parts": [{"kind": "data", "data": SAID}, {"kind": "file", "file": {"uri": "u"}}]}
    ],
}
EVENTS_1 = [
    {"task": {"id": "T1", "status": {"state": "TASK_STATE_SUBMITTED"}}},
    {"artifactUpdate": {"taskId": "T1", "artifact": {"artifactId": "a", "parts": [{"text": TEXT}]}, "append": False}},
    {"statusUpdate": {"taskId": "T1", "status": {"state": "TASK_STATE_COMPLETED"}}},
]
EVENTS_03 = [
    {"kind": "task", "id": "T1", "status": {"state": "submitted"}},
    {
        "kind": "artifact-update",
        "taskId": "T1",
        "artifact": {"artifactId": "a", "parts": [{"kind": "data", "data": SAID}]},
    },
    {"kind": "status-update", "taskId": "T1", "final": True, "status": {"state": "completed"}},
]
ERROR = {"code": -32603, "message": "m", "data": {"supported": ["x"], "reason": "r"}}
REFUSAL = {"error": {"code": 404, "message": "m", "details": [{"reason": "TASK_NOT_FOUND", "metadata": {}}]}}
MESSAGE = {"role": "assistant", "content": TEXT, "refusal": None, "tool_calls": None, "reasoning_content": "r"}
LOGPROBS = {"content": [{"token": "a", "logprob": -0.1}]}
CHAT = {
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": MESSAGE, "logprobs": LOGPROBS}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 1}},
    "error": None,
}
CHUNKS = [
    {"model": "m", "choices": [{"index": 0, "delta": {"content": TEXT[:9]}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {"content": TEXT[9:]}, "finish_reason": "stop", "logprobs": LOGPROBS}]},
    {"choices": [], "usage": {"prompt_tokens": 9}},
]
OUTPUT = {"type": "message", "content": [{"type": "output_text", "text": TEXT, "logprobs": [{"logprob": -0.1}]}]}
RESPONSE = {
    "status": "completed",
    "output": [{"type": "reasoning", "summary": [{"text": "hm"}]}, OUTPUT],
    "usage": {"input_tokens": 12},
    "incomplete_details": None,
    "error": None,
}
LIMITED = {"error": {"code": "insufficient_quota", "message": "try again in 2s", "details": [{"retryDelay": "2s"}]}}
TOOL = {
    "content": [{"type": "text", "text": TEXT}, {"type": "image", "data": "x"}],
    "structuredContent": {"result": SAID},
    "isError": False,
    "_meta": {"confidence": 0.5, "x-fastmcp-wrap-result": True},
}
WELCOME = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "n", "version": "1"}}

Serve = Callable[[httpx.Request, dict[str, Any]], httpx.Response]


class Case(NamedTuple):
    """An agent: `serve` makes its server of one answer, valid or not."""

    protocol: Protocol
    metadata: dict[str, Any]
    answer: Any
    serve: Callable[[Any], Serve]


def as_json(data: Any, status: int = 200, **headers: str) -> httpx.Response:
    """One document."""
    return httpx.Response(status, content=dumps(data), headers={"content-type": "application/json", **headers})


def as_events(rows: Any) -> httpx.Response:
    """One event for each row."""
    rows = rows if isinstance(rows, list) else [rows]
    content = b"".join(b"data: " + dumps(row) + b"\n\n" for row in rows)
    return httpx.Response(200, content=content, headers={"content-type": "text/event-stream"})


def result(message: dict[str, Any], data: Any) -> dict[str, Any]:
    """The response to a request of JSON-RPC."""
    return {"jsonrpc": "2.0", "id": message.get("id"), "result": data}


def plain(status: int = 200) -> Callable[[Any], Serve]:
    """The answer to each request."""
    return lambda data: lambda request, message: as_json(data, status)


def streamed(data: Any) -> Serve:
    """The answer as the rows of a stream."""
    return lambda request, message: as_events(data)


def a2a(place: str, card: Any, task: Any, events: Any, status: int = 200) -> Callable[[Any], Serve]:
    """An A2A agent whose `place` is the given one."""

    def serving(data: Any) -> Serve:
        parts = {"card": card, "task": task, "events": events, "envelope": None} | {place: data}

        def serve(request: httpx.Request, message: dict[str, Any]) -> httpx.Response:
            if request.method == "GET" and "agent-card" in request.url.path:
                return as_json(parts["card"])
            if place == "envelope":
                return as_json(parts["envelope"])
            method = message.get("method", request.url.path)
            if "tream" in method:
                return as_events(
                    [result(message, row) if "method" in message else row for row in rows_of(parts["events"])]
                )
            ended = parts["task"]
            if "et" in method.rpartition("/")[2][:4] and place != "task":
                ended = ended.get("task", ended)
            return as_json(result(message, ended) if "method" in message else ended, status)

        return serve

    return serving


def rows_of(data: Any) -> list[Any]:
    """A stream of any answer."""
    return data if isinstance(data, list) else [data]


def mcp(place: str, status: int = 200, as_stream: bool = False) -> Callable[[Any], Serve]:
    """A tool's server."""

    def serving(data: Any) -> Serve:
        def serve(request: httpx.Request, message: dict[str, Any]) -> httpx.Response:
            if request.method != "POST":
                return httpx.Response(405)
            if message.get("method") == "initialize":
                welcome = data if place == "first" else result(message, data if place == "welcome" else WELCOME)
                return as_json(welcome, **{"mcp-session-id": "s1"})
            if "id" not in message:
                return httpx.Response(202)
            reply = data if place == "envelope" else result(message, data if place == "tool" else TOOL)
            if place == "envelope" and isinstance(reply, dict) and reply.get("id") == 1:
                reply = reply | {"id": message["id"]}
            return as_events([reply]) if as_stream else as_json(reply, status)

        return serve

    return serving


MODEL = {"model": "m"}
PATHS = {"valuePath": "value", "confidencePath": "usage.inputTokens || confidence", "defaultConfidence": 0.5}
ANSWERED = {"jsonrpc": "2.0", "id": 1, "error": None}
CASES: dict[str, Case] = {
    "http": Case("http", {}, SAID, plain()),
    "http, paths": Case("http", PATHS, SAID, plain()),
    "chat": Case("openai", MODEL, CHAT, plain()),
    "chat, words": Case("openai", MODEL | {"responseFormat": "none", "defaultConfidence": 0.5}, CHAT, plain()),
    "chat, streamed": Case("openai", MODEL | {"stream": True}, CHUNKS, streamed),
    "chat, error": Case("openai", MODEL, LIMITED, plain()),
    "chat, 429": Case("openai", MODEL, LIMITED, plain(429)),
    "responses": Case("openai", MODEL | {"api": "responses"}, RESPONSE, plain()),
    "responses, streamed": Case(
        "openai",
        MODEL | {"api": "responses", "stream": True},
        {"type": "response.completed", "response": RESPONSE},
        streamed,
    ),
}
for _name, _card, _task, _events in (("1.0", CARD_1, TASK_1, EVENTS_1), ("0.3", CARD_03, TASK_03, EVENTS_03)):
    for _metadata in ({}, {"stream": True}):
        _of = f"a2a {_name}{' streamed' if _metadata else ''}"
        for _place, _answer in (("card", _card), ("task", _task), ("events", _events)):
            CASES[f"{_of}, {_place}"] = Case("a2a", _metadata, _answer, a2a(_place, _card, _task, _events))
        for _what, _inner in (("result", {"result": _task}), ("error", {"error": ERROR})):
            CASES[f"{_of}, {_what}"] = Case("a2a", _metadata, ANSWERED | _inner, a2a("envelope", _card, _task, _events))
for _status in (200, 400, 404, 415, 500):
    CASES[f"a2a rest, {_status}"] = Case(
        "a2a", {}, TASK_1 if _status == 200 else REFUSAL, a2a("task", REST, None, None, _status)
    )
for _status in (200, 400, 404, 500):
    for _place, _answer in (
        ("tool", TOOL),
        ("welcome", WELCOME),
        ("first", ANSWERED | {"result": WELCOME}),
        ("first", ANSWERED | {"error": ERROR}),
        ("envelope", ANSWERED | {"result": TOOL}),
        ("envelope", ANSWERED | {"error": ERROR}),
    ):
        _kind = "error" if _answer.get("error") else "result"
        CASES[f"mcp {_status}, {_place} {_kind}"] = Case("mcp", {"tool": "judge"}, _answer, mcp(_place, _status))
        if _status == 200:
            CASES[f"mcp streamed, {_place} {_kind}"] = Case("mcp", {"tool": "judge"}, _answer, mcp(_place, 200, True))
TRANSPORTS: dict[str, Any] = {
    "http": HttpTransport,
    "openai": OpenAiTransport,
    "a2a": A2aTransport,
    "mcp": McpTransport,
}


class Wire(httpx.AsyncBaseTransport):
    """Calls the server."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """What it returns."""
        body = await request.aread()
        found = self._serve(request, loads(body) if body else {})
        return httpx.Response(found.status_code, headers=found.headers, stream=httpx.ByteStream(found.content))


def places(data: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of every value within it, its own among them."""
    yield before
    rows = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in rows:
        yield from places(value, (*before, key))


def changed(data: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value, or none, at that place."""
    if not place:
        return value
    data = copy.deepcopy(data)
    holder = data
    for key in place[:-1]:
        holder = holder[key]
    if value is ABSENT:
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    return data


@pytest.mark.parametrize("name", CASES)
async def test_any_json_is_an_answer_or_one_error_of_the_agents(name: str) -> None:
    """Whatever stands where."""
    case = CASES[name]
    mutations = [
        (place, value) for place in places(case.answer) for value in (*KINDS, ABSENT) if place or value is not ABSENT
    ]
    chosen = random.Random(name).sample(mutations, min(SAMPLE, len(mutations)))
    agent = AgentRegistration(id="a", endpoint="http://h/", protocol=case.protocol, metadata=case.metadata or None)
    codes: set[str] = set()
    for place, value in [((), case.answer), *chosen]:
        transport = TRANSPORTS[case.protocol](Wire(case.serve(changed(case.answer, place, value))))
        said = f"{value!r:.40} at {place}"
        try:
            answer = await transport.call(agent, Call("t", "k", b'{"task":"ok"}', 5.0))
            writable([answer.value, answer.metadata])
        except (AgentError, Rejected) as error:  # what is nested too deep to be written is a bad response
            codes.add(getattr(error, "code", "bad_response"))
        except Exception as error:
            raise AssertionError(said) from error
        finally:
            await transport.close()
    assert "internal" not in codes
