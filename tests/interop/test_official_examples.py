"""Servers exactly as their authors ship them: server-everything and the examples of the TypeScript SDK."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import orjson
import pytest

from agents_io.errors import AgentError
from agents_io.protocols.discovery import investigate
from agents_io.protocols.mcp.transport import McpTransport
from agents_io.transport import Answer, Call
from schemas.messages import AgentRegistration, SecretRef
from tests.interop.conftest import TOKEN
from tests.interop.processes import Running

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]

EVERYTHING = "node_modules/@modelcontextprotocol/server-everything/dist/index.js"
EXAMPLES = "node_modules/@modelcontextprotocol/sdk/dist/esm/examples/server"
NAME = "{name: task}"


@pytest.fixture
async def transport(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[McpTransport]:
    """With the token at hand."""
    monkeypatch.setenv("INTEROP_TOKEN", TOKEN)
    one = McpTransport()
    yield one
    await one.close()


@pytest.fixture(scope="module")
def everything() -> Iterator[Running]:
    """Every feature of the protocol; its tools state no confidence."""
    with Running("node", EVERYTHING, ("streamableHttp",), TOKEN) as running:
        yield running


async def ask(
    transport: McpTransport, server: Running, tool: str, payload: Any, timeout_s: float = 20.0, **metadata: Any
) -> Answer | AgentError:
    """How one call ends."""
    agent = AgentRegistration.model_validate(
        {
            "id": "a",
            "endpoint": f"http://127.0.0.1:{server.port}/mcp",
            "protocol": "mcp",
            "metadata": {"tool": tool, **metadata},
            "auth": {"env": "INTEROP_TOKEN"},
            "confidence": {"from": "constant", "value": 0.5},
        }
    )
    try:
        return await transport.call(agent, Call("t", "t", orjson.dumps(payload), timeout_s))
    except AgentError as error:
        return error


async def test_everything_answers_and_survives_a_restart(transport: McpTransport, everything: Running) -> None:
    """Its answer to a session of yesterday is a 400."""
    arguments = {"argumentsPath": "{message: task}"}
    assert await ask(transport, everything, "echo", {"task": "hi"}, **arguments) == Answer("Echo: hi", 0.5)
    await asyncio.to_thread(everything.restart)
    assert await ask(transport, everything, "echo", {"task": "hi"}, **arguments) == Answer("Echo: hi", 0.5)


async def test_everything_structured_content(transport: McpTransport, everything: Running) -> None:
    """An object, as it is."""
    end = await ask(transport, everything, "get-structured-content", {"location": "Chicago"})
    assert isinstance(end, Answer)
    assert end.value == {"temperature": 36, "conditions": "Light rain / drizzle", "humidity": 82}


async def test_everything_refuses(transport: McpTransport, everything: Running) -> None:
    """Wrong arguments and unknown tools do not count against the agent."""
    for tool, payload in (("echo", {"wrong": 1}), ("nosuch", {})):
        end = await ask(transport, everything, tool, payload)
        assert isinstance(end, AgentError)
        assert (end.code, end.counts_against_agent) == ("http_4xx", False), end.message


async def test_everything_in_time_or_not(transport: McpTransport, everything: Running) -> None:
    """Progress is passed over; a timeout leaves the server usable."""
    tool = "trigger-long-running-operation"
    end = await ask(transport, everything, tool, {"duration": 0.5, "steps": 5})
    assert isinstance(end, Answer)
    assert "completed" in end.value
    end = await ask(transport, everything, tool, {"duration": 30, "steps": 3}, 0.5)
    assert isinstance(end, AgentError)
    assert end.code == "timeout"
    assert isinstance(await ask(transport, everything, "get-sum", {"a": 1, "b": 2}), Answer)


async def test_everything_is_found_by_its_address(transport: McpTransport, everything: Running) -> None:
    """With all its tools to choose from."""
    seen = await investigate(f"http://127.0.0.1:{everything.port}/mcp", SecretRef(env="INTEROP_TOKEN"), 10.0)
    assert seen.found is not None, seen.reasons
    assert seen.found.protocol == "mcp"
    assert "echo" in seen.found.choices


@pytest.mark.parametrize(
    ("example", "tool", "value", "metadata"),
    [
        ("simpleStreamableHttp", "greet", "Hello, you!", {"argumentsPath": NAME}),
        ("jsonResponseStreamableHttp", "greet", "Hello, you!", {"argumentsPath": NAME}),
        ("simpleStatelessStreamableHttp", "start-notification-stream", None, {"argumentsPath": "{interval: `10`, count: `3`}"}),
        ("sseAndStreamableHttpCompatibleServer", "start-notification-stream", None,
         {"argumentsPath": "{interval: `10`, count: `3`}"}),
        ("standaloneSseWithGetStreamableHttp", None, None, {}),
        ("ssePollingExample", "long-task", "Long task completed successfully!", {"argumentsPath": "`{}`"}),
    ],
)  # fmt: skip
async def test_examples_of_the_typescript_sdk(
    transport: McpTransport, example: str, tool: str | None, value: str | None, metadata: dict[str, Any]
) -> None:
    """With sessions, without, as JSON, with the old transport beside, and with a stream that the server closes (SEP-1699)."""
    with Running("node", f"{EXAMPLES}/{example}.js", (), TOKEN) as server:
        if tool is None:  # it has resources alone: an agent of it cannot be found
            url = f"http://127.0.0.1:{server.port}/mcp"
            seen = await investigate(url, SecretRef(env="INTEROP_TOKEN"), 10.0)
            assert seen.found is None or not seen.found.choices
            return
        for _ in range(2):
            end = await ask(transport, server, tool, {"task": "you"}, **metadata)
            assert isinstance(end, Answer), (end, server.log())
            assert value is None or end.value == value
