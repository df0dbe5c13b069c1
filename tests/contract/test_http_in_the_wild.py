"""What HTTP agents of others were seen to do; and what holds for all protocols over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from agents_io.protocols.a2a.agent import A2aAgent
from agents_io.protocols.a2a.transport import A2aTransport
from agents_io.protocols.http.transport import HttpTransport
from agents_io.protocols.openai.transport import OpenAiTransport
from agents_io.transport import Answer
from schemas.messages import AgentRegistration
from tests.support.health import is_well
from tests.support.served import Asked, asking, said, served
from tests.support.wild import BAD, CAFE, answers, said_text

ONE = b'{"value": 1, "confidence": 1}'


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (ONE, {"X-Big": "a" * 30_000}, (1, 1.0)),
        (b"\xef\xbb\xbf" + ONE, {}, (1, 1.0)),
        (ONE, {"Content-Encoding": "utf-8"}, (1, 1.0)),
        (b'{"value": 1, "confidence": 1.0000001192092896}', {}, (1, 1.0)),
        (b'{"value": 1, "confidence": 1.01}', {}, BAD),
        (b'{"value": 1, "confidence": "0.93"}', {}, BAD),
    ],
)
async def test_forms_of_an_http_answer(body: bytes, headers: dict[str, str], expected: Any) -> None:
    """What a mesh, a Windows editor and a softmax in single precision make of it."""
    async with asking(HttpTransport(), answers(body, headers=headers), "http") as ask:
        assert said(await ask()) == expected


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        (CAFE.encode("latin-1"), "application/json; charset=ISO-8859-1", ("caf\u00e9", 1.0)),
        (CAFE.encode("cp1252"), 'application/json;charset="windows-1252"', ("caf\u00e9", 1.0)),
        (CAFE.encode("utf-16"), "application/json; charset=utf-16", ("caf\u00e9", 1.0)),
        (CAFE.encode("utf-16-be"), "application/json; charset=UTF-16BE", ("caf\u00e9", 1.0)),
        (
            CAFE.encode(),
            "application/json; charset=iso-8859-1",
            ("caf\u00e9", 1.0),
        ),  # named by default, written otherwise
        (CAFE.encode("latin-1"), "application/json", BAD),
        (CAFE.encode("latin-1"), "application/json; charset=utf-8", BAD),
        (CAFE.encode("latin-1"), "application/json; charset=idna", BAD),
    ],
)
async def test_a_charset_other_than_utf_8(body: bytes, kind: str, expected: Any) -> None:
    """JSON has none, but some servers write one and say so."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, headers={"Content-Type": kind})

    async with asking(HttpTransport(), handler, "http") as ask:
        assert said(await ask()) == expected


@pytest.mark.parametrize(
    ("status", "body", "attempt", "again"),
    [
        (409, b"exists", 1, False),
        (409, b"exists", 2, True),
        (423, b"locked", 2, True),
        (409, b'{"title":"a request with this Idempotency-Key is still being processed"}', 1, True),
        (404, b"", 2, False),
    ],
)
async def test_a_repeat_of_our_own_key_is_tried_again(status: int, body: bytes, attempt: int, again: bool) -> None:
    """An earlier attempt may still be worked on: not the agent's fault, nor the task's end."""
    async with asking(HttpTransport(), answers(body, status), "http") as ask:
        assert said(await ask(attempt=attempt)) == ("http_4xx", again, False)


@pytest.mark.parametrize("status", [307, 308])
async def test_a_redirect_within_the_origin_is_followed(status: int) -> None:
    """With method, body and token; not for ever, and not to another origin, which the error names without its query."""
    posted: list[bytes] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path == "/analyze":
            return web.Response(status=status, headers={"Location": "/v2/analyze/"})
        if request.path == "/loop/analyze":
            return web.Response(status=status, headers={"Location": "/loop/analyze"})
        if request.path == "/away/analyze":
            return web.Response(status=status, headers={"Location": "https://other.example/x?token=1"})
        posted.append(await request.read())
        return web.Response(body=ONE, content_type="application/json")

    async with served(handler) as url:
        transport = HttpTransport()
        ends = {}
        for path in ("", "/loop", "/away"):
            agent = AgentRegistration(id=f"a{path}", endpoint=url + path)
            ends[path] = said_text(await Asked(transport, agent)())
        await transport.close()
    assert ends[""] == (1, 1.0)
    assert posted == [b'{"task":"ok"}']
    assert ends["/loop"][0] == "bad_response"
    assert ends["/away"][0] == "bad_response"
    assert "'https://other.example/x'" in ends["/away"][1]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_pages_of_an_agent_may_have_moved(status: int) -> None:
    """Health, card and models are read where they are now, as a framework that wants a slash at the end says; calls follow
    307 and 308 alone. A 302 or 303 may lead to a login page, which says nothing of the agent.
    """
    card = {"url": "http://h/", "protocolVersion": "0.3.0", "name": "n"}
    pages = {"/health/": {}, "/v1/models/": {"data": [{"id": "m"}]}, "/.well-known/agent-card.json/": card}
    posted: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            posted.append(request.path)
        if not request.path.endswith("/"):
            return web.Response(status=status, headers={"Location": request.path + "/"})
        found = pages.get(request.path)
        return web.json_response(found) if found is not None else web.Response(status=404)

    async with asking(HttpTransport(), handler, "http") as ask:
        assert await is_well(ask.transport, ask.agent, 5.0) is (status not in (302, 303))
        await ask()
    assert posted == (["/analyze", "/analyze/"] if status in (307, 308) else ["/analyze"])
    if status in (302, 303):
        return
    async with asking(OpenAiTransport(), handler, "openai", "/v1", model="m") as ask:
        assert await is_well(ask.transport, ask.agent, 5.0)
    async with asking(A2aTransport(), handler, "a2a") as ask:
        assert (await ask.transport.card(A2aAgent(ask.agent))).name == "n"  # type: ignore[attr-defined]


async def test_a_health_page_says_nothing_of_calls_that_are_refused() -> None:
    """It is public, the calls are not: 401 at the place itself, or at the newest call."""

    async def locked(request: web.Request) -> web.StreamResponse:
        return web.Response(status=200 if request.path in ("/health", "/models") else 401)

    async def posts_locked(request: web.Request) -> web.StreamResponse:
        return web.Response(status=401 if request.method == "POST" else 200)

    async with asking(HttpTransport(), locked, "http") as ask:
        assert not await is_well(ask.transport, ask.agent, 5.0)
    async with asking(OpenAiTransport(), locked, "openai", model="m") as ask:
        assert not await is_well(ask.transport, ask.agent, 5.0)
    async with asking(HttpTransport(), posts_locked, "http") as ask:
        assert await is_well(ask.transport, ask.agent, 5.0)
        await ask()
        assert not await is_well(ask.transport, ask.agent, 5.0)


async def test_a_refused_call_makes_no_agent_unhealthy_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is unhealthy gets no calls: it could never show that the token is right now, or that one payload was refused."""
    refuses: set[str] = set()

    async def agent(request: web.Request) -> web.StreamResponse:
        if request.path == "/.well-known/agent-card.json":
            return web.json_response({"name": "n", "url": "http://h/", "protocolVersion": "0.3.0"})
        if request.path == "/" and request.method == "POST" and (await request.json())["method"] == "tasks/get":
            return web.json_response({"jsonrpc": "2.0", "id": 1, "error": {"code": -32001, "message": "no such task"}})
        return web.Response(status=403 if request.method in refuses else 200)

    def after(seconds: float) -> None:
        monkeypatch.setattr("agents_io.http.exchange.REFUSED_FOR_S", seconds)

    for transport, protocol in ((HttpTransport(), "http"), (OpenAiTransport(), "openai"), (A2aTransport(), "a2a")):
        async with asking(transport, agent, protocol, model="m") as ask:  # type: ignore[arg-type]
            refuses.add("POST")
            assert said(await ask())[0] == "http_4xx"
            after(300.0)
            assert not await is_well(ask.transport, ask.agent, 5.0)
            after(0.0)
            assert await is_well(ask.transport, ask.agent, 5.0)
            refuses.clear()


async def test_a_403_to_a_get_may_refuse_the_method_alone() -> None:
    """API gateways of AWS answer so where only POST is known. To a call it refuses the credentials."""

    posts = {"status": 200}

    async def gateway(request: web.Request) -> web.StreamResponse:
        if request.path in ("/health", "/models"):
            return web.Response()
        status = posts["status"] if request.method == "POST" else 403
        return web.json_response({"message": "Missing Authentication Token"}, status=status)

    for transport, protocol in ((HttpTransport(), "http"), (OpenAiTransport(), "openai")):
        async with asking(transport, gateway, protocol, model="m") as ask:  # type: ignore[arg-type]
            for posts["status"] in (200, 403):
                assert await is_well(ask.transport, ask.agent, 5.0)
                await ask()
                assert await is_well(ask.transport, ask.agent, 5.0) is (posts["status"] == 200)


@pytest.mark.parametrize(
    ("confidence", "expected", "rest"),
    [
        (None, ("spam", 0.9), {"score": 0.25}),
        ({"from": "stated"}, ("spam", 0.9), {"score": 0.25}),
        ({"from": "path", "path": "score"}, ("spam", 0.25), {"confidence": 0.9}),
        ({"from": "constant", "value": 0.5}, ("spam", 0.5), {"score": 0.25, "statedConfidence": 0.9}),
    ],
)
async def test_where_the_confidence_comes_from(confidence: Any, expected: Any, rest: dict[str, Any]) -> None:
    """What the answer states beside it is kept."""
    body = {"value": "spam", "confidence": 0.9, "score": 0.25}
    async with asking(HttpTransport(), answers(body), "http", confidence=confidence) as ask:
        end = await ask()
    assert isinstance(end, Answer)
    assert (end.value, end.confidence) == expected
    assert end.metadata == rest


@pytest.mark.parametrize("confidence", [{"from": "agreement"}, {"from": "judge", "agent": "j"}])
async def test_an_answer_whose_confidence_comes_from_others_needs_none(confidence: Any) -> None:
    """A text, an object; what it states is kept apart."""
    for body, end in (
        (b'"hi"', Answer("hi", 0.0)),
        (b'{"label": "spam"}', Answer({"label": "spam"}, 0.0)),
        (b'{"value": 1, "confidence": 0.9}', Answer(1, 0.0, {"statedConfidence": 0.9})),
    ):
        async with asking(HttpTransport(), answers(body), "http", confidence=confidence) as ask:
            assert await ask() == end


async def test_a_constant_is_enough_for_answers_that_state_none() -> None:
    """A text, too."""
    for body, value in ((b'"hi"', "hi"), (b'{"label": "spam"}', {"label": "spam"})):
        async with asking(HttpTransport(), answers(body), "http", confidence={"from": "constant", "value": 0.5}) as ask:
            assert said(await ask()) == (value, 0.5)
