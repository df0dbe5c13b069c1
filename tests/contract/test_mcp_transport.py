"""What only MCP has: sessions, versions, event streams, tools."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from aiohttp import web

from agents_io.errors import AgentError, BadResponse, CallTimeout, ClientError, Unsupported
from agents_io.fakes.steps import ScriptStep, answer, hang, raw
from agents_io.protocols.mcp.fake import FakeMcp
from agents_io.protocols.mcp.transport import McpTransport
from agents_io.transport import Call
from schemas.messages import SecretRef
from tests.support.health import is_well
from tests.support.transport_rig import TransportRig, running
from tests.support.wait import until

CALL = Call("t", "t", b'{"n":1}', 10.0)


def rigged(*steps: ScriptStep, **members: Any) -> AbstractAsyncContextManager[TransportRig]:
    """A fake with these members set."""
    fake = FakeMcp(steps)
    for name, value in members.items():
        setattr(fake, name, value)
    return running(fake, McpTransport(), CALL, protocol="mcp", metadata={"tool": "analyze"})


async def test_session_is_opened_once_and_every_request_names_it() -> None:
    """Also when many calls come at once."""
    async with rigged() as rig:
        await asyncio.gather(*(rig.call() for _ in range(10)))
        assert rig.fake.methods[:2] == ["initialize", "notifications/initialized"]
        assert rig.fake.methods[2:] == ["tools/call"] * 10
        assert rig.fake.bodies[0]["params"]["protocolVersion"] == "2025-11-25"
        for head in rig.fake.heads[1:]:
            assert (head["Mcp-Session-Id"], head["MCP-Protocol-Version"]) == ("session-1", "2025-06-18")
        assert rig.fake.heads[2]["Accept"] == "application/json, text/event-stream"
        assert rig.fake.bodies[2]["params"] == {"name": "analyze", "arguments": {"n": 1}}


async def test_session_the_server_forgot_is_opened_again_once() -> None:
    """The call that finds out is answered, and it counts as one call."""
    async with rigged() as rig:
        await rig.call()
        rig.fake.sessions.clear()
        assert (await rig.call()).value == "ok"
        assert rig.fake.opened == 2
        assert len(rig.fake.calls) == 2


async def test_server_that_forgets_every_session_is_an_error_and_no_loop() -> None:
    """Two sessions at most for one call."""
    async with rigged() as rig:
        rig.fake.script(ScriptStep("status", code=404))
        with pytest.raises(ClientError, match="404"):
            await rig.call()
        assert rig.fake.opened == 2


async def test_server_without_session_ids() -> None:
    """None is sent."""
    async with rigged(keyless=True) as rig:
        assert (await rig.call()).value == "ok"
        assert "Mcp-Session-Id" not in rig.fake.heads[-1]


@pytest.mark.parametrize("version", ["2025-11-25", "2025-06-18", "2025-03-26"])
async def test_versions_with_a_handshake(version: str) -> None:
    """The server chooses."""
    async with rigged(version=version) as rig:
        assert (await rig.call()).value == "ok"
        assert rig.fake.heads[-1]["MCP-Protocol-Version"] == version


async def test_version_we_do_not_speak_makes_no_call() -> None:
    """It is the registration's fault, not the agent's."""
    async with rigged(version="2031-01-01") as rig:
        with pytest.raises(Unsupported, match="2031-01-01"):
            await rig.call()
        assert len(rig.fake.calls) == 0


async def test_version_without_a_handshake() -> None:
    """Each request says version, method and tool in its headers and for itself; the proof is asked for once."""
    async with rigged(modern=True) as rig:
        for _ in range(2):
            assert (await rig.call()).value == "ok"
        assert rig.fake.methods == ["initialize", "server/discover", "tools/call", "tools/call"]
        assert rig.fake.heads[-1]["Mcp-Name"] == "analyze"
        assert "Mcp-Session-Id" not in rig.fake.heads[-1]


@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_text_or_structured_as_json_or_as_a_stream(stream: bool, structured: bool) -> None:
    """Four ways to say the same; notices in the stream are passed over."""
    async with rigged(answer({"a": 1}, 0.5), stream=stream, structured=structured) as rig:
        found = await rig.call()
        assert (found.value, found.confidence) == ({"a": 1}, 0.5)


async def test_stream_is_left_once_the_answer_is_there() -> None:
    """Servers should end it; one that does not must not hold the call."""
    async with rigged(stream=True) as rig:
        await rig.call()
        line = b'data: {"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"x"}],"_meta":{"confidence":1}}}\n\n'

        async def endless(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            number = rig.fake.bodies[-1]["id"]
            await response.write(line % number)
            await asyncio.Event().wait()
            raise AssertionError("nobody sets this event")

        rig.fake.play = endless  # type: ignore[method-assign]
        assert (await rig.call(timeout_s=5.0)).value == "x"


async def test_stream_that_ends_without_an_answer() -> None:
    """A bad answer, not a hang."""
    stream = ScriptStep("raw", body=b"data: {}\n\n", headers=(("Content-Type", "text/event-stream"),))
    async with rigged(stream) as rig:
        with pytest.raises(BadResponse, match="ended without an answer"):
            await rig.call()


@pytest.mark.parametrize(
    ("metadata", "result", "value", "confidence"),
    [
        ({}, {"_meta": {"acme.org/confidence": 0.25}}, "ok", 0.25),
        ({"confidencePath": "_meta.p"}, {"_meta": {"p": 0.5}}, "ok", 0.5),
        ({"valuePath": "structuredContent.x"}, {"structuredContent": {"x": 7, "confidence": 0.75}}, 7, 0.75),
    ],
)
async def test_where_value_and_confidence_are_found(
    metadata: dict[str, Any], result: dict[str, Any], value: Any, confidence: float
) -> None:
    """Paths look into the whole result."""
    async with rigged(result=result) as rig:
        found = await rig.call(metadata={"tool": "analyze"} | metadata)
        assert (found.value, found.confidence) == (value, confidence)


async def test_text_without_confidence_needs_a_default() -> None:
    """None is invented."""
    async with rigged(raw(b"sunny")) as rig:
        with pytest.raises(BadResponse, match="no confidence"):
            await rig.call()
        found = await rig.call(metadata={"tool": "analyze", "defaultConfidence": 0.6})
        assert (found.value, found.confidence) == ("sunny", 0.6)


async def test_cancelled_call_is_told_to_servers_with_a_handshake() -> None:
    """With the number of its request; newer ones take the closed connection for it."""
    for modern in (False, True):
        async with rigged(hang(), modern=modern) as rig:
            task = asyncio.create_task(rig.call(timeout_s=60))
            await until(lambda: rig.fake.in_flight == 1)
            number = rig.fake.bodies[-1]["id"]
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: rig.fake.calls[0].ended == "closed")
            if modern:
                assert rig.fake.methods[-1] == "tools/call"
            else:
                await until(lambda: rig.fake.methods[-1] == "notifications/cancelled")
                assert rig.fake.bodies[-1]["params"]["requestId"] == number


async def test_timeout_covers_handshake_and_call() -> None:
    """One budget."""
    async with rigged(hang()) as rig:
        with pytest.raises(CallTimeout):
            await rig.call(timeout_s=0.5)


@pytest.mark.parametrize("metadata", [None, {}, {"tool": ""}, {"tool": 3}, {"tool": "t", "argumentsPath": "["}])
async def test_registration_without_a_tool_makes_no_call(metadata: Any) -> None:
    """The sentence names the member."""
    async with rigged() as rig:
        with pytest.raises(Unsupported, match=r"metadata\.(tool|argumentsPath)"):
            await rig.call(metadata=metadata)
        assert rig.fake.methods == []


async def test_arguments_by_path_and_for_payloads_that_are_no_object() -> None:
    """What is no object becomes `input`."""
    async with rigged() as rig:
        await rig.call(body=b'{"data":{"q":1}}', metadata={"tool": "analyze", "argumentsPath": "data"})
        await rig.call(body=b'"hello"')
        said = [body["params"]["arguments"] for body in rig.fake.bodies if body["method"] == "tools/call"]
        assert said == [{"q": 1}, {"input": "hello"}]


async def test_secret_in_a_json_rpc_error_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one in a stream that is no JSON."""
    monkeypatch.setenv("MCP_TOKEN", "canary/7")
    body = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"bad token canary\\/7"}}'
    plain = (("Content-Encoding", "identity"),)
    for step in (raw(body, headers=plain), raw(b"data: canary/7\n\n", content_type="text/event-stream")):
        async with rigged(step) as rig:
            with pytest.raises(AgentError) as caught:
                await rig.call(auth=SecretRef(env="MCP_TOKEN"))
            assert "canary" not in caught.value.message
            assert rig.fake.heads[-1]["Authorization"] == "Bearer canary/7"


async def test_health_opens_a_session_then_pings() -> None:
    """503 and nobody there are not healthy; a forgotten session is opened again."""
    async with rigged() as rig:
        assert await is_well(rig.transport, rig.agent, 5.0)
        assert await is_well(rig.transport, rig.agent, 5.0)
        assert rig.fake.methods == ["initialize", "notifications/initialized", "ping"]
        rig.fake.sessions.clear()
        assert await is_well(rig.transport, rig.agent, 5.0)
        assert rig.fake.opened == 2
        rig.fake.healthy = False
        assert not await is_well(rig.transport, rig.agent, 5.0)
    transport = McpTransport()
    assert not await is_well(transport, rig.agent, 1.0)
    await transport.close()


async def test_close_ends_the_sessions() -> None:
    """The server need not keep them."""
    async with rigged() as rig:
        await rig.call()
        assert rig.fake.sessions == {"session-1"}
        await rig.transport.close()
        assert rig.fake.sessions == set()


async def test_names_of_the_tools() -> None:
    """For whoever registers the server."""
    async with rigged() as rig:
        assert await rig.transport.tools(rig.agent, 5.0) == ["analyze"]
