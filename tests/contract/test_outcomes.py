"""What each protocol's own ways to fail mean: code, whether another try may help, whether the agent is blamed.

`TABLE` is the table of the docs. What all protocols over HTTP share (statuses, connections, sizes, JSON) is in
`test_every_transport.py`, which runs over each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from agents_io.errors import AgentError
from agents_io.fakes.http import FakeAgent
from agents_io.fakes.steps import ScriptStep, answer, raw, status
from agents_io.protocols.a2a.fake import FakeA2a
from agents_io.protocols.mcp.fake import FakeMcp
from agents_io.protocols.openai.fake import FakeChat
from agents_io.transport import Call
from tests.support import protocols

Effect = tuple[str, bool, bool]
NOT_TRIED_NOT_BLAMED: Effect = ("http_4xx", False, False)
FAILED: Effect = ("http_5xx", True, True)
REFUSED: Effect = ("refused", False, False)
BAD: Effect = ("bad_response", True, True)
LIMITED: Effect = ("rate_limited", True, False)

Set = Callable[[Any], None]


def chat(**members: Any) -> Set:
    """The fake model answers so."""

    def apply(fake: FakeChat) -> None:
        for name, value in members.items():
            setattr(fake, name, value)

    return apply


def a2a(state: str) -> Set:
    """The agent's task ends so."""

    def apply(fake: FakeA2a) -> None:
        fake.end = state

    return apply


def rpc(code: int) -> Set:
    """The agent answers with this error of JSON-RPC, in the form of its binding."""

    def apply(fake: FakeA2a) -> None:
        fake.error = {"code": code, "message": "no"}

    return apply


def tool(**result: Any) -> Set:
    """The tool's result has these members."""

    def apply(fake: FakeMcp) -> None:
        fake.result = result

    return apply


def raw_rpc(code: int) -> ScriptStep:
    """An MCP server's JSON-RPC error, by HTTP 200; its id is null."""
    body = b'{"jsonrpc":"2.0","id":null,"error":{"code":%d,"message":"no"}}' % code
    return raw(body, headers=(("Content-Encoding", "identity"),))


TABLE: list[tuple[str, str, ScriptStep, Set | None, Effect]] = [
    ("openai", "refusal", answer(), chat(message={"refusal": "I cannot"}), REFUSED),
    ("openai", "content filter", answer(), chat(finish="content_filter"), REFUSED),
    ("openai", "cut off at the token limit", answer(), chat(finish="length"), ("too_large", False, True)),
    ("openai", "tool call", answer(), chat(finish="tool_calls"), BAD),
    ("openai", "no choices", answer(), chat(choices=[]), BAD),
    ("openai", "no content", answer(), chat(message={"content": None}), BAD),
    ("openai", "text that is not JSON", raw(b"it is 4"), None, BAD),
    ("openai", "rate limit", status(429), None, LIMITED),
    ("openai", "quota spent", status(429, body={"error": {"code": "insufficient_quota"}}), None, NOT_TRIED_NOT_BLAMED),
    ("openai", "wrong key", status(401), None, NOT_TRIED_NOT_BLAMED),
    ("a2a", "failed", answer(), a2a("failed"), FAILED),
    ("a2a", "rejected", answer(), a2a("rejected"), REFUSED),
    ("a2a", "canceled by the agent", answer(), a2a("canceled"), REFUSED),
    ("a2a", "input-required", answer(), a2a("input-required"), REFUSED),
    ("a2a", "auth-required", answer(), a2a("auth-required"), NOT_TRIED_NOT_BLAMED),
    ("a2a", "unknown state", answer(), a2a("dreaming"), BAD),
    ("a2a", "JSON-RPC -32602", answer(), rpc(-32602), NOT_TRIED_NOT_BLAMED),
    ("a2a", "JSON-RPC -32603", answer(), rpc(-32603), FAILED),
    ("a2a", "task lost (-32001)", answer(), rpc(-32001), FAILED),
    ("a2a", "not supported (-32004)", answer(), rpc(-32004), NOT_TRIED_NOT_BLAMED),
    ("a2a over HTTP+JSON", "failed", answer(), a2a("failed"), FAILED),
    ("a2a over HTTP+JSON", "rejected", answer(), a2a("rejected"), REFUSED),
    ("a2a over HTTP+JSON", "canceled by the agent", answer(), a2a("canceled"), REFUSED),
    ("a2a over HTTP+JSON", "input-required", answer(), a2a("input-required"), REFUSED),
    ("a2a over HTTP+JSON", "auth-required", answer(), a2a("auth-required"), NOT_TRIED_NOT_BLAMED),
    ("a2a over HTTP+JSON", "unknown state", answer(), a2a("dreaming"), BAD),
    ("a2a over HTTP+JSON", "wrong parameters", answer(), rpc(-32602), NOT_TRIED_NOT_BLAMED),
    ("a2a over HTTP+JSON", "internal error", answer(), rpc(-32603), FAILED),
    ("a2a over HTTP+JSON", "not supported", answer(), rpc(-32004), NOT_TRIED_NOT_BLAMED),
    ("a2a over HTTP+JSON", "parts of another kind", answer(), rpc(-32005), NOT_TRIED_NOT_BLAMED),
    ("a2a over HTTP+JSON", "another version", answer(), rpc(-32009), NOT_TRIED_NOT_BLAMED),
    ("a2a over HTTP+JSON", "no such path", answer(), rpc(-32601), NOT_TRIED_NOT_BLAMED),
    ("a2a over HTTP+JSON", "rate limit", status(429), None, LIMITED),
    ("a2a over HTTP+JSON", "wrong token", status(401), None, NOT_TRIED_NOT_BLAMED),
    ("mcp", "isError", answer(), tool(isError=True), FAILED),
    ("mcp", "input required", answer(), tool(resultType="input_required"), REFUSED),
    ("mcp", "empty result", answer(), tool(content=[]), BAD),
    ("mcp", "unknown tool (-32602)", raw_rpc(-32602), None, NOT_TRIED_NOT_BLAMED),
    ("mcp", "JSON-RPC -32603", raw_rpc(-32603), None, FAILED),
]


@pytest.mark.parametrize(
    ("protocol", "step", "change", "effect"),
    [(protocol, step, change, effect) for protocol, _, step, change, effect in TABLE],
    ids=[f"{protocol}: {name}" for protocol, name, *_ in TABLE],
)
@pytest.mark.parametrize("variant", [0, 1])
async def test_table_of_outcomes(
    protocol: str, step: ScriptStep, change: Set | None, effect: Effect, variant: int
) -> None:
    """Row by row, in both versions of the protocol where there are two; the call after it is answered."""
    makers: dict[str, tuple[Callable[..., AbstractAsyncContextManager[protocols.Opened]], ...]] = {
        "openai": (protocols.openai, protocols.openai),
        "a2a": (protocols.a2a, protocols.a2a_03),
        "a2a over HTTP+JSON": (protocols.a2a_rest, protocols.a2a_rest_03),
        "mcp": (protocols.mcp, protocols.mcp_stream),
    }
    async with makers[protocol][variant](step) as (fake, agent, transport):
        if change is not None:
            change(fake)
        with pytest.raises(AgentError) as caught:
            await transport.call(agent, Call("t", "t", b"{}", 10.0))
        error = caught.value
        assert (error.code, error.retryable, error.counts_against_agent) == effect
        assert 10 < len(error.message) < 300
        _heal(fake)
        assert (await transport.call(agent, Call("t2", "t2", b"{}", 10.0))).value == "ok"


def _heal(fake: FakeAgent) -> None:
    fake.script(answer())
    for name in ("finish", "message", "choices", "end", "error", "result"):
        fake.__dict__.pop(name, None)
