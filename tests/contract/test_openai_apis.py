"""The Responses API, and answers that are streamed: by the registration, or because the server offers nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from aiohttp import web

from agents_io.errors import AgentError, Unsupported
from agents_io.protocols.openai.rules.chat import answer_in
from agents_io.protocols.openai.rules.chat_stream import AnswerStream
from agents_io.protocols.openai.rules.config import chat_config
from agents_io.protocols.openai.transport import OpenAiTransport
from agents_io.rules.answer import Reading
from agents_io.transport import Answer
from tests.support.served import Handler, asking, said

GOOD = '{"value": "spam", "confidence": 0.93, "reasoning": "link"}'
SPAM = ("spam", 0.93)
CUT_OFF = ("too_large", False, True)
BAD = ("bad_response", True, True)


def response(text: str = GOOD, status: str = "completed", **members: Any) -> dict[str, Any]:
    """As the API returns one."""
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": [{"token": "a", "logprob": -0.5}]}
    output = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "web_search_call", "status": "completed"},
        {"type": "message", "role": "assistant", "content": [part]},
    ]
    usage = {"input_tokens": 12, "output_tokens": 5, "total_tokens": 17, "output_tokens_details": {"reasoning": 3}}
    return {"object": "response", "status": status, "model": "m-1", "output": output, "usage": usage} | members


class Server:
    """Answers by a function of the request; keeps the requests."""

    def __init__(self, reply: Callable[[dict[str, Any]], Any]) -> None:
        self.reply = reply
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """JSON, or the pieces of an event stream."""
        self.paths.append(request.path)
        self.requests.append(asked := await request.json())
        reply = self.reply(asked)
        if isinstance(reply, web.Response):
            return reply
        if not isinstance(reply, list):
            return web.json_response(body=orjson.dumps(reply))
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        for piece in reply:
            if piece is None:
                await asyncio.sleep(30)
            else:
                await stream.write(piece)
        return stream


def event(data: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + (data if isinstance(data, bytes) else orjson.dumps(data)) + b"\n\n"


def chunk(text: str | None = None, finish: str | None = None, **delta: Any) -> bytes:
    """One chunk of a chat completion."""
    told = delta | ({} if text is None else {"content": text})
    return event({"model": "m-1", "choices": [{"index": 0, "delta": told, "finish_reason": finish}]})


def chunks(text: str = GOOD) -> list[bytes]:
    """A whole stream of them, as OpenAI sends it."""
    usage = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}
    return [
        chunk(role="assistant"),
        *(chunk(text[n : n + 7]) for n in range(0, len(text), 7)),
        chunk(finish="stop"),
        event({"choices": [], "usage": usage}),
        event(b"[DONE]"),
    ]


async def ask(server: Handler, payload: Any = None, transport: Any = None, **metadata: Any) -> Any:
    """One question."""
    confidence = metadata.pop("source", None)
    async with asking(
        transport or OpenAiTransport(), server, "openai", model="m", confidence=confidence, **metadata
    ) as one:
        return await one() if payload is None else await one(payload)


async def test_the_responses_api() -> None:
    """Another path and shape; tokens, thoughts and model as for chat completions."""
    server = Server(lambda asked: response())
    end = await ask(
        server, api="responses", maxTokens=50, reasoningEffort="low", system="You add.", request={"user": "u"}
    )
    assert isinstance(end, Answer)
    assert (end.value, end.confidence) == SPAM
    usage = {"inputTokens": 12, "outputTokens": 5, "totalTokens": 17, "output_tokens_details": {"reasoning": 3}}
    assert end.metadata == {
        "reasoning": "link",
        "model": "m-1",
        "finishReason": "stop",
        "thoughts": "hm",
        "usage": usage,
    }
    [asked] = server.requests
    assert server.paths[0].endswith("/responses")
    assert (asked["max_output_tokens"], asked["reasoning"], asked["user"]) == (50, {"effort": "low"}, "u")
    assert (asked["store"], asked["stream"]) == (False, False)
    assert asked["text"]["format"]["type"] == "json_schema"
    assert asked["text"]["format"]["schema"]["required"] == ["value", "confidence", "reasoning"]
    assert asked["instructions"].startswith("You add.")
    assert not {"messages", "response_format", "max_tokens", "reasoning_effort"} & set(asked)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (response(status="incomplete", incomplete_details={"reason": "max_output_tokens"}), CUT_OFF),
        (response(status="incomplete", incomplete_details={"reason": "content_filter"}), ("refused", False, False)),
        (response(status="failed", error={"code": "server_error", "message": "x"}), ("http_5xx", True, True)),
        (
            response(status="failed", error={"code": "rate_limit_exceeded", "message": "x"}),
            ("rate_limited", True, False),
        ),
        (response(status="cancelled"), ("http_5xx", True, True)),
        (response(status="queued"), BAD),
        (response(output=[{"type": "function_call", "name": "f"}]), BAD),
        (
            response(output=[{"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}]),
            ("refused", False, False),
        ),
        (response(output=None), BAD),
        ({"object": "response"}, BAD),
        (response(error=None), SPAM),
    ],
)
async def test_how_a_response_ends(body: Any, expected: Any) -> None:
    """Each status and each kind of output."""
    assert said(await ask(Server(lambda asked: body), api="responses")) == expected


async def test_confidence_of_a_responses_tokens() -> None:
    """Asked for by `include`."""
    server = Server(lambda asked: response())
    end = await ask(server, api="responses", source={"from": "logprobs"})
    assert server.requests[0]["include"] == ["message.output_text.logprobs"]
    assert said(end) == ("spam", pytest.approx(0.6065, abs=1e-3))


async def test_a_responses_server_without_schemas_is_asked_by_a_simpler_form() -> None:
    """As for chat completions."""

    def reply(asked: dict[str, Any]) -> Any:
        if "text" in asked:
            return web.json_response({"error": {"message": "Unknown parameter: 'text.format'"}}, status=400)
        return response()

    server = Server(reply)
    assert said(await ask(server, api="responses")) == SPAM
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        ({"api": "assistants"}, "api"),
        ({"api": "responses", "seed": 1}, "seed"),
        ({"api": "responses", "stop": "x"}, "stop"),
        ({"api": "responses", "request": {"input": "x"}}, "request"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_what_cannot_work_is_said(metadata: dict[str, Any], name: str) -> None:
    """With the key."""
    with pytest.raises(Unsupported, match=rf"metadata\.{name}: "):
        chat_config({"model": "m"} | metadata)


async def test_a_streamed_chat_completion() -> None:
    """Put together, with its tokens."""
    server = Server(lambda asked: chunks())
    end = await ask(server, stream=True)
    assert (server.requests[0]["stream"], server.requests[0]["stream_options"]) == (True, {"include_usage": True})
    assert isinstance(end, Answer)
    assert (end.value, end.confidence) == SPAM
    assert end.metadata["usage"] == {"inputTokens": 12, "outputTokens": 5, "totalTokens": 17}
    assert (end.metadata["model"], end.metadata["finishReason"]) == ("m-1", "stop")


async def test_a_streamed_response() -> None:
    """Its last event holds all of it."""
    events = [
        event({"type": "response.created", "response": response(status="in_progress")}),
        event({"type": "response.output_text.delta", "delta": "{"}),
        event({"type": "response.completed", "response": response()}),
        None,
    ]
    assert said(await ask(Server(lambda asked: events), api="responses", stream=True)) == SPAM
    failed = [event({"type": "error", "code": "rate_limit_exceeded", "message": "x"})]
    end = await ask(Server(lambda asked: failed), api="responses", stream=True)
    assert said(end) == ("rate_limited", True, False)


async def test_a_server_that_only_streams_is_asked_for_that_from_then_on() -> None:
    """As Alibaba's API says it of some models. Who says `stream: false` gets the server's refusal."""
    refusal = {"error": {"message": "This model only support stream mode, please enable the stream parameter"}}

    def reply(asked: dict[str, Any]) -> Any:
        return chunks() if asked["stream"] else web.json_response(refusal, status=400)

    server = Server(reply)
    async with asking(OpenAiTransport(), server, "openai", model="m") as one:
        assert said(await one()) == SPAM
        assert said(await one()) == SPAM
    assert [asked["stream"] for asked in server.requests] == [False, True, True]
    assert said(await ask(Server(reply), stream=False)) == ("http_4xx", False, False)


@pytest.mark.parametrize(
    "refusal",
    [
        "Non-streaming requests are not supported; set stream=true",
        "stream must be true",
        "Streaming is required for operations that may take longer than 10 minutes",
    ],
)
async def test_every_way_to_say_that_only_streams_are_offered(refusal: str) -> None:
    """The next calls ask for a stream at once."""

    def reply(asked: dict[str, Any]) -> Any:
        return chunks() if asked["stream"] else web.json_response({"error": {"message": refusal}}, status=400)

    server = Server(reply)
    assert said(await ask(server)) == SPAM
    assert [asked["stream"] for asked in server.requests] == [False, True]


@pytest.mark.parametrize("stream", [None, False, True])
async def test_a_server_that_streams_though_it_was_not_asked_to(stream: bool | None) -> None:
    """Whatever is asked for; its chunks are put together."""
    metadata = {} if stream is None else {"stream": stream}
    server = Server(lambda asked: [b": alive\n\n", *chunks()])
    assert said(await ask(server, **metadata)) == SPAM
    assert [asked["stream"] for asked in server.requests] == [stream is True]
    empty = web.Response(status=200, content_type="application/json")
    end = await ask(Server(lambda asked: empty), **metadata)
    assert "the answer is empty" in str(end)


async def test_a_server_that_does_not_stream_though_it_was_asked_to() -> None:
    """Its answer is taken as it came."""
    whole = {"choices": [{"finish_reason": "stop", "message": {"content": GOOD}}]}
    assert said(await ask(Server(lambda asked: whole), stream=True)) == SPAM


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([*chunks()[:-3]], BAD),  # ended before it was done
        ([*chunks()[:-1]], SPAM),  # no [DONE]
        ([b": alive\n\n", *chunks(), None], SPAM),  # the connection stays open
        ([chunk(GOOD), event(b"[DONE]"), None], SPAM),  # no reason at all, as some gateways to Gemini
        ([chunk(GOOD, ""), event(b"[DONE]")], SPAM),
        (
            [chunk(GOOD), event({"object": "error", "message": "x", "code": 500}), event(b"[DONE]")],  # older vLLM
            ("http_5xx", True, True),
        ),
        ([chunk(GOOD[:20], "length"), event(b"[DONE]")], CUT_OFF),
        ([chunk(refusal="no"), chunk(finish="stop"), event(b"[DONE]")], ("refused", False, False)),
        ([chunk(tool_calls=[{}]), chunk(finish="tool_calls"), event(b"[DONE]")], BAD),
        ([chunk("{"), event({"error": {"code": 429, "message": "x"}}), None], ("rate_limited", True, False)),
        ([event(b"{not json"), None], BAD),
        ([b"".join(chunks()).replace(b"\n", b"\r\n")], SPAM),
        ([bytes([byte]) for byte in b"".join(chunks())], SPAM),
    ],
)
async def test_how_a_stream_ends(pieces: list[bytes], expected: Any) -> None:
    """Cut anywhere, and with what servers leave out."""
    assert said(await ask(Server(lambda asked: pieces), stream=True)) == expected


async def test_a_server_that_counts_no_tokens_of_a_stream_is_not_asked_to_again() -> None:
    """As Mistral's API refuses it."""
    words = {"loc": ["body", "stream_options", "include_usage"], "msg": "Extra inputs are not permitted"}

    def reply(asked: dict[str, Any]) -> Any:
        return web.json_response({"detail": [words]}, status=422) if "stream_options" in asked else chunks()

    server = Server(reply)
    async with asking(OpenAiTransport(), server, "openai", model="m", stream=True) as twice:
        assert [said(await twice()), said(await twice())] == [SPAM, SPAM]
    assert ["stream_options" in asked for asked in server.requests] == [True, False, False]


async def test_a_stream_has_the_same_caps_as_an_answer() -> None:
    """What is put together counts, and one event; not what chunks repeat."""
    transport = OpenAiTransport(max_answer_bytes=500)
    assert said(await ask(Server(lambda asked: chunks()), transport=transport, stream=True)) == SPAM
    many = [chunk("x" * 10) for _ in range(100)]
    end = await ask(Server(lambda asked: [*many, None]), transport=OpenAiTransport(max_answer_bytes=500), stream=True)
    assert said(end) == CUT_OFF
    huge = [b"data: " + b"x" * 1000, None]
    end = await ask(Server(lambda asked: huge), transport=OpenAiTransport(max_answer_bytes=500), stream=True)
    assert said(end) == CUT_OFF


async def test_a_stream_has_the_time_of_an_attempt() -> None:
    """However often a piece comes."""
    async with asking(
        OpenAiTransport(), Server(lambda asked: [chunk("x"), None]), "openai", model="m", stream=True
    ) as one:
        end = await one(timeout_s=0.3)
    assert isinstance(end, AgentError)
    assert end.code == "timeout"


def test_confidence_of_a_streams_tokens() -> None:
    """Each chunk has those of its tokens."""
    stream = AnswerStream(10_000)
    for text in (GOOD[:10], GOOD[10:]):
        logprobs = {"content": [{"token": text, "logprob": -0.5}]}
        choice = {"delta": {"content": text}, "logprobs": logprobs, "finish_reason": None}
        assert not stream.feed(event({"choices": [choice]}))
    assert stream.feed(chunk(finish="stop") + event(b"[DONE]"))
    end = answer_in(stream.whole(), "json_schema", Reading(logprobs=True))
    assert end.confidence == pytest.approx(0.6065, abs=1e-3)
