"""What models, A2A agents and HTTP agents of others were seen to do."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import orjson
import pytest
from aiohttp import web

from agents_io.errors import AgentError
from agents_io.protocols.a2a.agent import A2aAgent
from agents_io.protocols.a2a.transport import A2aTransport
from agents_io.protocols.http.transport import HttpTransport
from agents_io.protocols.openai.transport import OpenAiTransport
from agents_io.transport import Answer
from schemas.messages import AgentRegistration
from tests.support.health import is_well
from tests.support.served import Asked, Handler, asking, said, served
from tests.support.wait import until

GOOD = '{"value": "spam", "confidence": 0.93, "reasoning": "link"}'
DRAFT = '{"value": "ham", "confidence": 0.2}'
SPAM = ("spam", 0.93)
LIMITED = ("rate_limited", True, False)
REFUSED = ("refused", False, False)
FAILED = ("http_5xx", True, True)
NOT_TAKEN = ("http_4xx", False, False)
BAD = ("bad_response", True, True)
CUT_OFF = ("too_large", False, True)


def answers(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Handler:
    """Always the same."""
    raw = body if isinstance(body, bytes) else orjson.dumps(body)

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(body=raw, status=status, headers=headers, content_type="application/json")

    return handler


def chat(content: Any, finish: str | None = "stop", **message: Any) -> dict[str, Any]:
    """A completion."""
    told = {"role": "assistant", "content": content, **message}
    return {"choices": [{"index": 0, "finish_reason": finish, "message": told}], "model": "m-1"}


async def asked_model(body: Any, status: int = 200, headers: dict[str, str] | None = None, **metadata: Any) -> Any:
    """How one question to a model ends."""
    async with asking(OpenAiTransport(), answers(body, status, headers), "openai", model="m", **metadata) as ask:
        return await ask()


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        f"so it is\n</think>\n\n{GOOD}",
        f"<think>a {{b}} c</think>{GOOD}",
        f"<thinking>a</thinking>\n{GOOD}",
        f"Here it is:\n```json\n{GOOD}\n```\nDone.",
        f"[THINK]perhaps {DRAFT}[/THINK]{GOOD}",
        f"◁think▷perhaps {DRAFT}◁/think▷{GOOD}",
        f"<seed:think>perhaps {DRAFT}</seed:think>{GOOD}",
        f'<think time="3 s">perhaps {DRAFT}</think>{GOOD}',
        f"perhaps {DRAFT}[/THINK]{GOOD}",
        f"<|begin_of_thought|>perhaps {DRAFT}<|end_of_thought|>\n<|begin_of_solution|>{GOOD}<|end_of_solution|>",
        orjson.loads(GOOD),
        {"type": "text", "text": GOOD},
        f"```json {GOOD} ```",
        f"```\r\n{GOOD}\r\n```",
        f"Sure! {GOOD}",
        f"{GOOD}\n\nHope this helps {{really}}",
        f"<|channel|>analysis<|message|>hm {{}}<|channel|>final<|message|>{GOOD}",
        f'Like {{"a": 1}}, so: {GOOD}',
        [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": GOOD}],
        f"[{GOOD}]",
        f'{{"answer": {GOOD}}}',
        orjson.dumps(GOOD).decode(),
        '{"value": "spam", "confidence": "0.93"}',
        '{"value": "spam", "confidence": "93%"}',
        '{"value": "spam", "confidence": 93}',
        '{"Value": "spam", "Confidence": 0.93}',
    ],
)
async def test_the_one_json_object_of_an_answer_is_found(content: Any) -> None:
    """Wherever the model puts it."""
    assert said(await asked_model(chat(content))) == SPAM


@pytest.mark.parametrize(
    "content",
    [
        "it is spam",
        '{"value": "spam", "confidence": "high"}',
        '{"value": "spam", "confidence": 193}',
        '{"value": "spam", "confidence": 1.5}',
        '{"value": "spam", "confidence": -1}',
        f'{GOOD} or {{"value": "ham", "confidence": 0.5}}',
        "",
    ],
)
async def test_what_is_no_answer_stays_none(content: str) -> None:
    """Two different ones neither: nothing tells which is meant."""
    assert said(await asked_model(chat(content))) == BAD


@pytest.mark.parametrize(
    ("finish", "content", "expected"),
    [
        *((finish, GOOD[:20], CUT_OFF) for finish in ("length", "max_tokens", "MAX_TOKENS", "model_length")),
        *((finish, None, REFUSED) for finish in ("content_filter", "SAFETY", "safety", "RECITATION")),
        *((finish, "", FAILED) for finish in ("error", "abort", "insufficient_system_resource")),
        *((finish, GOOD, SPAM) for finish in ("STOP", "eos_token", "end_turn", None)),
    ],
)
async def test_every_spelling_of_why_it_stopped(finish: str | None, content: str | None, expected: Any) -> None:
    """As OpenAI, Gemini, Mistral, Anthropic and gateways write it."""
    assert said(await asked_model(chat(content, finish))) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"code": 429, "message": "slow down"}, LIMITED),
        ({"code": "429", "message": "slow down"}, LIMITED),
        ({"code": 502, "message": "upstream"}, FAILED),
        ({"code": 401, "message": "no key"}, NOT_TAKEN),
        ({"code": "rate_limit_exceeded"}, LIMITED),
        ({"type": "overloaded_error", "message": "busy"}, LIMITED),
        ({"code": "insufficient_quota"}, NOT_TAKEN),
        ({"code": "content_filter"}, REFUSED),
        ({"type": "invalid_request_error"}, NOT_TAKEN),
        ("it broke", FAILED),
    ],
)
async def test_an_error_in_a_200_is_what_it_says(error: Any, expected: Any) -> None:
    """Of the whole, or of the one choice."""
    assert said(await asked_model({"error": error})) == expected
    in_choice = chat("", "error")
    in_choice["choices"][0]["error"] = error
    assert said(await asked_model(in_choice)) == expected


AZURE = {
    "error": {
        "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy."
        * 3,
        "code": "content_filter",
        "innererror": {"code": "ResponsibleAIPolicyViolation"},
    }
}


async def test_a_filter_on_the_prompt_is_a_refusal() -> None:
    """Azure's 400: asking again gives the same, and the agent is well."""
    assert said(await asked_model(AZURE, 400)) == REFUSED


def in_100_s() -> str:
    """RFC 3339. Called when the test runs: between that and its collection minutes may pass."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 100))


def epoch_in_100_s() -> str:
    """In seconds."""
    return str(int(time.time()) + 100)


def epoch_ms_in_100_s() -> str:
    """In milliseconds."""
    return str(int(time.time() + 100) * 1000)


def in_an_hour(and_s: int) -> Callable[[], str]:
    """An HTTP date, by a clock that is an hour ahead."""
    return lambda: formatdate(time.time() + 3600 + and_s, usegmt=True)


@pytest.mark.parametrize(
    ("status", "headers", "body", "low", "high"),
    [
        (429, {"Date": in_an_hour(0), "Retry-After": in_an_hour(30)}, {}, 29, 31),
        (529, {"Retry-After": "3"}, {}, 3, 3),
        (502, {"Retry-After": "3"}, {}, 3, 3),
        (429, {"retry-after-ms": "2200.5"}, {}, 2.2005, 2.2005),
        (429, {"retry-after-ms": "2200", "Retry-After": "3"}, {}, 2.2, 2.2),
        (429, {"x-ratelimit-reset-requests": "2s"}, {}, 2, 2),
        (429, {"x-ratelimit-reset": epoch_in_100_s}, {}, 50, 101),
        (429, {"X-RateLimit-Reset": epoch_ms_in_100_s}, {}, 50, 101),
        (
            429,
            {"anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": in_100_s},
            {},
            50,
            101,
        ),
        (429, {"x-ratelimit-remaining-tokens": "9", "x-ratelimit-reset-tokens": "9s"}, {}, None, None),
        (429, {}, {"error": {"message": "Please try again in 2.5s."}}, 2.5, 2.5),
        (429, {}, {"error": {"details": [{"retryDelay": "2s"}]}}, 2, 2),
        (503, {}, {"error": "loading", "estimated_time": 3.5}, 3.5, 3.5),
        (500, {"Retry-After": "3"}, {}, None, None),
    ],
)
async def test_every_spelling_of_how_long_to_wait(
    status: int, headers: dict[str, str | Callable[[], str]], body: Any, low: float | None, high: float | None
) -> None:
    """Of models and of HTTP agents."""
    sent = {name: value() if callable(value) else value for name, value in headers.items()}
    ends = [await asked_model(body, status, sent)]
    async with asking(HttpTransport(), answers(body, status, sent), "http") as ask:
        ends.append(await ask())
    for end in ends:
        assert isinstance(end, AgentError)
        assert end.counts_against_agent == (status in (500, 502, 503))
        if low is None or high is None:
            assert end.retry_after_s is None
        else:
            assert end.retry_after_s is not None
            assert low <= end.retry_after_s <= high


@pytest.mark.parametrize(
    ("refused", "status", "words"),
    [
        (("json_schema",), 400, "This response_format type is unavailable now"),
        (("json_schema", "json_object"), 400, "'response_format' is not supported by this model"),
        (("json_schema",), 422, '{"detail":[{"loc":["body","response_format","type"]}]}'),
    ],
)
async def test_a_format_that_is_refused_is_not_asked_for_again(refused: Any, status: int, words: str) -> None:
    """DeepSeek, LM Studio, older vLLM: the next simpler one, remembered; one that was chosen is named in the error."""
    forms: list[str | None] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        form = ((await request.json()).get("response_format") or {}).get("type")
        forms.append(form)
        if form in refused:
            return web.json_response({"error": words}, status=status)
        return web.json_response(chat(GOOD))

    async with asking(OpenAiTransport(), handler, "openai", model="m") as ask:
        assert said(await ask()) == SPAM
        tried = len(forms)
        assert said(await ask()) == SPAM
        assert (tried, len(forms)) == (len(refused) + 1, len(refused) + 2)
    async with asking(OpenAiTransport(), handler, "openai", model="m", responseFormat="json_schema") as ask:
        end = await ask()
        assert said(end) == NOT_TAKEN
        assert "metadata.responseFormat" in str(end)


async def test_all_of_a_models_answer_is_kept() -> None:
    """Model, tokens, why it stopped, its reasons and its thoughts."""
    usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14, "cost": 0.1}
    end = await asked_model(chat(GOOD, reasoning_content="hm") | {"usage": usage})
    assert isinstance(end, Answer)
    assert end.metadata == {
        "reasoning": "link",
        "model": "m-1",
        "finishReason": "stop",
        "thoughts": "hm",
        "usage": {"inputTokens": 9, "outputTokens": 5, "totalTokens": 14, "cost": 0.1},
    }


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


CAFE = '{"value": "caf\u00e9", "confidence": 1}'


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


async def test_a_model_server_may_have_a_charset_too() -> None:
    """And its errors."""
    for body, status, expected in ((chat(CAFE), 200, ("caf\u00e9", 1.0)), ({"error": "caf\u00e9"}, 400, NOT_TAKEN)):
        raw = orjson.dumps(body).decode().encode("latin-1")

        async def handler(request: web.Request, raw: bytes = raw, status: int = status) -> web.StreamResponse:
            return web.Response(body=raw, status=status, headers={"Content-Type": "application/json;charset=latin1"})

        async with asking(OpenAiTransport(), handler, "openai", model="m") as ask:
            end = await ask()
        assert said(end) == expected
        assert "caf\u00e9" in str(end)


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


def said_text(end: Answer | AgentError) -> tuple[Any, Any]:
    """An answer's value and confidence, or an error's code and message."""
    return (end.value, end.confidence) if isinstance(end, Answer) else (end.code, end.message)


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


async def test_confidence_from_the_tokens_of_a_model() -> None:
    """They are asked for; the mean of their log-probabilities counts, also for plain text. Without them nothing is blamed."""
    asked: list[Any] = []
    rows = [{"token": "a", "logprob": 0.0}, {"token": "b", "logprob": -1.3862943611198906}]

    def handler(logprobs: Any, content: str) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            asked.append((await request.json()).get("logprobs"))
            body = chat(content)
            body["choices"][0]["logprobs"] = logprobs
            return web.json_response(body)

        return answer

    source = {"from": "logprobs"}
    async with asking(
        OpenAiTransport(), handler({"content": rows}, GOOD), "openai", confidence=source, model="m"
    ) as ask:
        end = await ask()
        assert said(end) == ("spam", 0.5)
        assert isinstance(end, Answer)
        assert end.metadata["statedConfidence"] == 0.93
    async with asking(
        OpenAiTransport(),
        handler({"content": rows}, "hello"),
        "openai",
        confidence=source,
        model="m",
        responseFormat="none",
    ) as ask:
        assert said(await ask()) == ("hello", 0.5)
    for missing in (None, {"content": []}, {"content": [{"logprob": None}]}, {"content": [{"logprob": 3}]}):
        async with asking(OpenAiTransport(), handler(missing, GOOD), "openai", confidence=source, model="m") as ask:
            assert said(await ask()) == ("unsupported", False, False)
    assert set(asked) == {True}


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
