"""What is told of an address: by agents of every kind, by strangers, by nobody."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from aiohttp import web

from agents_io import agent
from agents_io.fakes.http import FakeAgent
from agents_io.fakes.steps import answer
from agents_io.protocols.a2a.fake import FakeA2a
from agents_io.protocols.discovery import discover, investigate
from agents_io.protocols.mcp.fake import FakeMcp
from agents_io.protocols.openai.fake import FakeChat
from agents_io.protocols.probing import Found, count_in
from agents_io.serving.http import HttpAgent
from agents_io.transport import Call
from schemas.messages import AgentRegistration, SecretRef
from streams.agents.transports import to_addresses
from streams.settings import Settings
from tests.support.served import served


@pytest.mark.parametrize(
    ("fake", "protocol", "capabilities", "metadata", "said"),
    [
        (FakeA2a(answer()), "a2a", ("sum", "maths"), {}, "an A2A 1.0 agent 'Fake', skills sum, maths"),
        (FakeMcp(answer()), "mcp", ("analyze",), {"tool": "analyze"}, "an MCP server with tool analyze"),
        (FakeChat(answer()), "openai", (), {"model": "m"}, "an OpenAI-compatible API with model m"),
        (
            FakeAgent(answer(), capabilities=["text", "maths"]),
            "http",
            ("text", "maths"),
            {},
            "an agent over HTTP that is healthy, capabilities text, maths",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, FakeAgent) else "",
)
async def test_each_kind_is_told_and_can_be_called_as_found(
    fake: FakeAgent, protocol: str, capabilities: tuple[str, ...], metadata: dict[str, Any], said: str
) -> None:
    """The registration made of it works."""
    async with fake:
        found = await discover(fake.endpoint)
        assert found is not None
        assert (found.protocol, found.capabilities, found.metadata, found.description) == (
            protocol,
            capabilities,
            metadata,
            said,
        )
        if protocol != "http":
            transport = to_addresses(Settings())[protocol]
            agent = AgentRegistration(
                id="a", endpoint=fake.endpoint, protocol=found.protocol, metadata=found.metadata or None
            )
            try:
                assert (await transport.call(agent, Call("t", "t", b"{}", 10.0))).value == "ok"
            finally:
                await transport.close()
        assert len(fake.calls) == (protocol != "http")


async def serve(handler: Any) -> tuple[web.AppRunner, str]:
    """Something that answers everything the same."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


async def page(request: web.Request) -> web.Response:
    """A web site that knows no 404."""
    return web.Response(text="<html>hello</html>", content_type="text/html")


async def missing(request: web.Request) -> web.Response:
    """A server with nothing."""
    return web.Response(status=404)


async def silent(request: web.Request) -> web.Response:
    """It takes the request and says nothing."""
    await asyncio.Event().wait()
    raise AssertionError("nobody sets this event")


async def odd(request: web.Request) -> web.Response:
    """JSON of the wrong shape, everywhere."""
    return web.json_response({"url": [1], "data": [None, {"id": 3}], "capabilities": {"a": 1}, "result": [], "id": 1})


@pytest.mark.parametrize(("handler", "protocol"), [(page, "http"), (missing, None), (silent, None), (odd, "http")])
async def test_strangers_are_no_agents_and_never_an_error(handler: Any, protocol: str | None) -> None:
    """At most something that says 200 to /health; and it is over in time."""
    runner, endpoint = await serve(handler)
    try:
        begun = time.monotonic()
        found = await discover(endpoint, timeout_s=0.5)
        assert time.monotonic() - begun < 10
        assert (found.protocol if found else None) == protocol
        assert found is None or found.capabilities == ()
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("path", "body", "protocol"),
    [
        ("/v1/models", b'\xef\xbb\xbf{"data":[{"id":"m"}]}', "openai"),
        ("/v1/models", b'{"data":[{"id":"m","note":"cut \\ud83d"}]}', "openai"),
        (
            "/.well-known/agent-card.json",
            b'\xef\xbb\xbf{"url":"http://h/","protocolVersion":"0.3.0","name":"n"}',
            "a2a",
        ),
    ],
)
async def test_json_is_read_as_leniently_as_answers_are(path: str, body: bytes, protocol: str) -> None:
    """With a byte order mark, and text that was cut within a character."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "GET" and request.path == path:
            return web.Response(body=body, content_type="application/json")
        return web.Response(status=404)

    async with served(handler) as url:
        found = await discover(url)
    assert found is not None
    assert found.protocol == protocol


async def test_the_concurrency_of_an_agent_function_is_found() -> None:
    """It answers 429 to more calls at once; another server's odd number is none."""

    @agent("five", concurrency=5)
    async def five(payload: Any) -> str:
        return "ok"

    async with HttpAgent(agent=five, host="127.0.0.1", port=0) as server:
        found = await discover(server.endpoint)
    assert found is not None
    assert found.concurrency == 5
    assert [count_in(odd) for odd in (0, -1, True, 2.0, "5", None)] == [None] * 6


async def test_nobody_there() -> None:
    """Nothing is found, at once."""
    async with FakeAgent() as fake:
        pass
    assert await discover(fake.endpoint) is None
    assert await discover("http://[") is None
    assert await discover("grpc://h:1") is None


async def test_token_is_sent_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that only the worker has is left out, and the reason is reported."""
    monkeypatch.setenv("A_TOKEN", "s3cret")
    async with FakeMcp() as fake:
        assert isinstance(await discover(fake.endpoint, SecretRef(env="A_TOKEN")), Found)
        assert fake.heads[0]["Authorization"] == "Bearer s3cret"
        seen = await investigate(fake.endpoint, SecretRef(env="NO_SUCH_TOKEN"))
        assert seen.found is not None
        assert "Authorization" not in fake.heads[-1]
        assert "NO_SUCH_TOKEN is not set here" in (seen.note or "")


async def test_strange_names_are_printable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal obeys some characters."""
    async with FakeA2a() as fake:
        card = fake.card() | {"name": "a\x1b[31mred\n"}
        monkeypatch.setattr(fake, "card", lambda: card)
        found = await discover(fake.endpoint)
        assert found is not None
        assert found.description.isprintable()


async def test_the_most_specific_sign_wins() -> None:
    """A health page is the weakest: model servers have one too, beside the base of their API as well."""

    async def llama(request: web.Request) -> web.Response:
        if request.path in ("/health", "/v1/health"):
            return web.json_response({"status": "ok"})
        if request.path == "/v1/models":
            return web.json_response({"data": [{"id": "m"}]})
        return web.Response(status=404)

    runner, endpoint = await serve(llama)
    try:
        for asked, called in ((endpoint, endpoint + "/v1"), (endpoint + "/v1", None)):
            found = await discover(asked)
            assert found is not None
            assert (found.protocol, found.metadata, found.endpoint) == ("openai", {"model": "m"}, called)
    finally:
        await runner.cleanup()


async def test_an_agent_is_one_tool_of_its_server() -> None:
    """What the other tools can do is no capability of it."""
    async with FakeMcp() as fake:
        fake.tools = ["judge", "delete_all"]
        found = await discover(fake.endpoint)
        assert found is not None
        assert (found.capabilities, found.metadata, found.choices) == ((), {}, ("judge", "delete_all"))


@pytest.mark.parametrize(
    ("status", "headers", "reason"),
    [
        (401, {"WWW-Authenticate": "Bearer"}, "answered 401"),
        (307, {"Location": "https://elsewhere.example/agent?token=x"}, "leads to 'https://elsewhere.example/agent'"),
        (404, {}, "answered 404"),
    ],
)
async def test_reasons_are_kept_for_each_protocol(status: int, headers: dict[str, str], reason: str) -> None:
    """Something answered, and nothing is guessed."""

    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=status, headers=headers)

    runner, endpoint = await serve(handler)
    try:
        seen = await investigate(endpoint)
        assert (seen.found, seen.answered) == (None, True)
        assert [protocol for protocol, _ in seen.reasons] == ["a2a", "mcp", "openai", "http"]
        assert all(reason in text for _, text in seen.reasons)
        assert "token=x" not in str(seen.reasons)
    finally:
        await runner.cleanup()


async def test_a_card_that_cannot_be_used_is_a_reason() -> None:
    """An unknown version, and one that is no card."""
    for card, reason in (
        ({"supportedInterfaces": [{"url": "http://h", "protocolBinding": "JSONRPC", "protocolVersion": "9.0"}]}, "9.0"),
        ({"supportedInterfaces": [{"url": "http://h", "protocolBinding": "GRPC"}]}, "GRPC"),
        ({"hello": 1}, "the response is not an agent card"),
    ):

        async def handler(request: web.Request, card: Any = card) -> web.Response:
            return web.json_response(card) if "agent-card" in request.path else web.Response(status=404)

        runner, endpoint = await serve(handler)
        try:
            seen = await investigate(endpoint)
            assert seen.found is None
            assert reason in dict(seen.reasons)["a2a"]
        finally:
            await runner.cleanup()


async def test_an_agent_without_a_health_page_is_found_by_where_it_takes_tasks() -> None:
    """405 to a GET: there is something to post to."""

    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=405 if request.path == "/analyze" else 404)

    runner, endpoint = await serve(handler)
    try:
        found = await discover(endpoint)
        assert found is not None
        assert found.protocol == "http"
    finally:
        await runner.cleanup()
