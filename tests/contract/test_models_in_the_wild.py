"""What OpenAI-compatible servers and their models were seen to do."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import orjson
import pytest
from aiohttp import web

from agents_io.errors import AgentError
from agents_io.protocols.http.transport import HttpTransport
from agents_io.protocols.openai.transport import OpenAiTransport
from agents_io.transport import Answer
from tests.support.served import Handler, asking, said
from tests.support.wild import (
    BAD,
    CAFE,
    CUT_OFF,
    DRAFT,
    FAILED,
    GOOD,
    LIMITED,
    NOT_TAKEN,
    REFUSED,
    SPAM,
    answers,
    asked_model,
    chat,
)


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


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_an_answer_among_the_thoughts_is_found(name: str) -> None:
    """Where the content is empty: vLLM's reasoning parser takes all for thoughts, under a name that changed in 2025."""
    assert said(await asked_model(chat(None, **{name: GOOD}))) == SPAM
    assert said(await asked_model(chat(None, **{name: "it is spam"}))) == BAD


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
        ("content_filter: RECITATION", None, REFUSED),
        *((finish, "", FAILED) for finish in ("error", "abort", "insufficient_system_resource")),
        *((finish, GOOD, SPAM) for finish in ("STOP", "eos_token", "end_turn", None)),
    ],
)
async def test_every_spelling_of_why_it_stopped(finish: str | None, content: str | None, expected: Any) -> None:
    """As OpenAI, Gemini, Mistral, Anthropic and gateways write it."""
    assert said(await asked_model(chat(content, finish))) == expected


async def test_a_refusal_without_a_message() -> None:
    """Gemini's: a 200 with a choice that holds nothing else."""
    choice = {"index": 0, "finish_reason": "content_filter: PROHIBITED_CONTENT"}
    end = await asked_model({"choices": [choice]})
    assert said(end) == REFUSED
    assert "PROHIBITED_CONTENT" in end.message
    assert said(await asked_model({"choices": [choice | {"finish_reason": "stop"}]})) == BAD


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
        ({"code": "4" * 5000, "message": "no"}, FAILED),
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
        (("json_schema",), 400, "Unknown name \"additionalProperties\" at 'generation_config.response_schema'"),
        (("json_schema",), 400, "failed to parse grammar"),
    ],
)
async def test_a_format_that_is_refused_is_not_asked_for_again(refused: Any, status: int, words: str) -> None:
    """DeepSeek, LM Studio, older vLLM, Gemini: the next simpler one, remembered; one that was chosen is named in the error."""
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
