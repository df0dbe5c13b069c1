"""An answer keeps every digit and every member, whichever protocol carries it: the real transports, over a socket."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web

from agents_io.protocols.a2a.transport import A2aTransport
from agents_io.protocols.http.transport import HttpTransport
from agents_io.protocols.mcp.transport import McpTransport
from agents_io.protocols.openai.transport import OpenAiTransport
from agents_io.transport import Answer
from schemas.exact_json import dumps
from tests.support.served import Handler, asking
from tests.unit.test_exact_numbers import NUMBERS, exact

CARD = {"name": "n", "description": "d", "version": "1", "skills": [], "capabilities": {"streaming": True}}
CARDS: dict[str, Any] = {
    "0.3": {"url": "http://h/", "protocolVersion": "0.3.0"},
    "1.0": {"supportedInterfaces": [{"url": "http://h/", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}]},
    "rest": {"supportedInterfaces": [{"url": "http://h/", "protocolBinding": "HTTP+JSON", "protocolVersion": "1.0"}]},
}
NEW = '{"message":{"messageId":"1","role":"ROLE_AGENT","parts":[{"data":%s}]}}'
OLD = '{"kind":"message","messageId":"1","role":"agent","parts":[{"kind":"data","data":%s}]}'
TASK = '{"task":{"id":"T","status":{"state":"TASK_STATE_COMPLETED"},"artifacts":[{"artifactId":"a","parts":[{"data":%s}]}]}}'
TOOL = '{"structuredContent":%s,"content":[]}'


def json_reply(body: str, as_stream: bool = False) -> web.Response:
    """As JSON, or as the one event of a stream."""
    if as_stream:
        return web.Response(text=f"data: {body}\n\n", content_type="text/event-stream")
    return web.Response(text=body, content_type="application/json")


def a2a(card: str, result: str, as_stream: bool = False) -> Any:
    """An A2A agent."""

    def serving(answer: str) -> Handler:
        async def handler(request: web.Request) -> web.StreamResponse:
            if request.method == "GET":
                return web.json_response(CARD | CARDS[card])
            message = await request.json()
            text = result % answer
            if card != "rest":
                text = f'{{"jsonrpc":"2.0","id":{json.dumps(message["id"])},"result":{text}}}'
            return json_reply(text, as_stream)

        return handler

    return A2aTransport, "a2a", serving, {"stream": True} if as_stream else {}


def mcp(as_stream: bool = False) -> Any:
    """A tool of an MCP server."""

    def serving(answer: str) -> Handler:
        async def handler(request: web.Request) -> web.StreamResponse:
            message = await request.json() if request.method == "POST" else {}
            if message.get("method") == "initialize":
                about = {
                    "protocolVersion": "2025-11-25",
                    "capabilities": {},
                    "serverInfo": {"name": "n", "version": "1"},
                }
                return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": about})
            if message.get("method") != "tools/call":
                return web.Response(status=202)
            return json_reply(f'{{"jsonrpc":"2.0","id":{message["id"]},"result":{TOOL % answer}}}', as_stream)

        return handler

    return McpTransport, "mcp", serving, {"tool": "judge"}


def model(as_stream: bool = False) -> Any:
    """A model."""

    def serving(answer: str) -> Handler:
        member = "delta" if as_stream else "message"
        text = json.dumps({"choices": [{"index": 0, "finish_reason": "stop", member: {"content": answer}}]})

        async def handler(request: web.Request) -> web.StreamResponse:
            return json_reply(text, as_stream)

        return handler

    return OpenAiTransport, "openai", serving, {"model": "m"} | ({"stream": True} if as_stream else {})


def plain() -> Any:
    """An HTTP agent."""

    def serving(answer: str) -> Handler:
        async def handler(request: web.Request) -> web.StreamResponse:
            return json_reply(answer)

        return handler

    return HttpTransport, "http", serving, {}


AGENTS = {
    "http": plain(),
    "openai": model(),
    "openai, streamed": model(True),
    "mcp": mcp(),
    "mcp, streamed": mcp(True),
    "a2a 0.3": a2a("0.3", OLD),
    "a2a 0.3, streamed": a2a("0.3", OLD, True),
    "a2a 1.0": a2a("1.0", NEW),
    "a2a 1.0, a task": a2a("1.0", TASK),
    "a2a 1.0, streamed": a2a("1.0", TASK, True),
    "a2a 1.0 by HTTP+JSON": a2a("rest", NEW),
}


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", AGENTS)
async def test_a_number_keeps_its_digits(kind: str, number: str) -> None:
    """In the value and beside it, whatever a double makes of it."""
    transport, protocol, serving, metadata = AGENTS[kind]
    answer = f'{{"value":{{"n":[{number}]}},"confidence":0.9,"beside":{number}}}'
    async with asking(transport(), serving(answer), protocol, **metadata) as ask:
        got = await ask()
    assert isinstance(got, Answer), got
    assert exact(dumps(got.value)) == exact(f'{{"n":[{number}]}}')
    assert exact(dumps(got.metadata["beside"])) == exact(number)


@pytest.mark.parametrize("kind", AGENTS)
async def test_text_that_was_cut_within_a_character_is_text(kind: str) -> None:
    """Half of an emoji, as JavaScript cuts it, becomes U+FFFD; of two equal names the last one counts; a NUL stays."""
    transport, protocol, serving, metadata = AGENTS[kind]
    answer = '{"value":"no","value":"good day \\ud83d \\u0000","confidence":0.1,"confidence":0.9}'
    async with asking(transport(), serving(answer), protocol, **metadata) as ask:
        got = await ask()
    assert isinstance(got, Answer), got
    assert (got.value, got.confidence) == ("good day \ufffd \x00", 0.9)


@pytest.mark.parametrize("kind", AGENTS)
@pytest.mark.parametrize("depth", [200, 600])
async def test_what_is_nested_too_deep_is_a_bad_response(kind: str, depth: int) -> None:
    """Not an error of our own."""
    transport, protocol, serving, metadata = AGENTS[kind]
    answer = f'{{"value":{"[" * depth}{"]" * depth},"confidence":0.9}}'
    async with asking(transport(), serving(answer), protocol, **metadata) as ask:
        got = await ask()
    assert not isinstance(got, Answer)
    assert got.code == "bad_response", got
