"""Chat completions as OpenAI, vLLM, Ollama and gateways serve them: request and response, as data. Pure.

In: how a model is asked (`config.py`) and a payload; the body of a 2xx; the headers and body of a 429. Out: a request body;
an `Answer` or the `AgentError` it means; seconds to wait. Source: the public reference of `POST /v1/chat/completions` (fields
`response_format`, `choices[].finish_reason`, `message.refusal`, `usage`) and its rate limit headers. With `metadata.api`
`responses` the request and the answer have the shape of `responses.py`; a streamed answer is put together by `chat_stream.py`.
"""

from __future__ import annotations

from dataclasses import replace
from math import exp, isfinite
from typing import Any

from agents_io.errors import (
    AgentError,
    AnswerTooLarge,
    BadResponse,
    ClientError,
    RateLimited,
    Refused,
    ServerError,
    Unsupported,
)
from agents_io.protocols.openai.rules import responses
from agents_io.protocols.openai.rules.config import ChatConfig
from agents_io.rules.answer import ROUNDING, Reading, excerpt, load_json, parse_answer, read_answer
from agents_io.rules.prompts import as_text
from agents_io.rules.statuses import error_of
from agents_io.rules.text_answer import NOTHING, find_json, without_thoughts
from agents_io.transport import Answer
from schemas.exact_json import dumps, loads

_CUT_OFF = frozenset(
    ("length", "max_tokens", "model_length", "max_output_tokens", "max_completion_tokens", "token_limit")
)
_FILTERED = frozenset(
    (
        "content_filter",
        "content_filtered",
        "safety",
        "image_safety",
        "image_prohibited_content",
        "image_recitation",
        "recitation",
        "blocklist",
        "prohibited_content",
        "spii",
        "sensitive",
        "refusal",
        "guardrail_intervened",
    )
)
_BROKEN = frozenset(
    ("error", "abort", "aborted", "cancelled", "insufficient_system_resource", "malformed_function_call")
)
_ERROR_WORDS: tuple[tuple[type[AgentError], tuple[str, ...]], ...] = (
    (Refused, ("content_filter", "content_policy", "moderation")),
    (
        ClientError,
        ("insufficient_quota", "billing", "invalid", "not_found", "authentication", "permission", "unsupported"),
    ),
    (RateLimited, ("rate_limit", "overloaded", "too_many", "resource_exhausted")),
)
_SPENT = frozenset({"insufficient_quota", "billing_hard_limit_reached"})


def chat_request(config: ChatConfig, payload: Any, logprobs: bool = False) -> bytes:
    """The request's body. `logprobs`: ask for the tokens' log-probabilities."""
    text = as_text(payload)
    if config.api == "responses":
        return responses.request_body(config.template, config.system, text, logprobs=logprobs, stream=config.stream)
    messages = [{"role": "system", "content": config.system}, {"role": "user", "content": text}]
    more: dict[str, Any] = {"logprobs": True} if logprobs else {}
    if config.stream and config.stream_usage and "stream_options" not in config.template:
        more["stream_options"] = {"include_usage": True}
    return dumps({**config.template, **more, "messages": messages, "stream": config.stream})


def token_confidence(choice: dict[str, Any]) -> float:
    """The geometric mean of the tokens' probabilities. Raises `Unsupported`: the server gives none.

    >>> token_confidence({"logprobs": {"content": [{"logprob": 0.0}, {"logprob": -1.3862943611198906}]}})
    0.5
    """
    logprobs = choice.get("logprobs")
    rows = logprobs.get("content") if isinstance(logprobs, dict) else None
    found = [row.get("logprob") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    numbers = [number for number in found if isinstance(number, (int, float)) and not isinstance(number, bool)]
    if not numbers or any(not isfinite(number) or number > ROUNDING for number in numbers):
        raise Unsupported("confidence.from: the server gives no log-probabilities (logprobs) of its tokens")
    return min(1.0, exp(sum(numbers) / len(numbers)))


def chat_answer(body: bytes, form: str, reading: Reading, api: str = "chat") -> Answer:
    """The answer in a 2xx body. Raises `AgentError`: the error within the body, `Refused`, `AnswerTooLarge`,
    `BadResponse`.

    >>> shown = b'{"choices":[{"finish_reason":"stop","message":{"content":"{\\\\"value\\\\":1,\\\\"confidence\\\\":1}"}}]}'
    >>> chat_answer(shown, "json_schema", Reading()).value
    1
    """
    return answer_in(load_json(_without_comments(body)), form, reading, api, body)


def answer_in(data: Any, form: str, reading: Reading, api: str = "chat", body: bytes = b"") -> Answer:
    """As `chat_answer`, for parsed JSON. `body`: quoted in an error."""
    check_error(data)
    if api == "responses":
        data = responses.as_completion(data, body)
    choices = data.get("choices") if isinstance(data, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise BadResponse(f"the answer has no choices: {excerpt(body)}")
    choice = choices[0]
    check_error(choice)
    message, why = choice.get("message"), choice.get("finish_reason")
    _check_end(message if isinstance(message, dict) else {}, why)  # Gemini's refusals have no message
    if not isinstance(message, dict):
        raise BadResponse(f"the answer's choice has no message: {excerpt(body)}")
    if reading.logprobs:
        reading = replace(reading, constant=token_confidence(choice))
    answer = _content(message, form, reading)
    answer.metadata.update(_about(data, message, why))
    return answer


def _check_end(message: dict[str, Any], why: Any) -> None:
    """Check why the model stopped, in each server's spelling."""
    if message.get("refusal"):
        raise Refused(f"the model refused: {excerpt(str(message['refusal']).encode('utf-8', 'replace'))}")
    end = why.partition(":")[0].strip().lower().replace("-", "_") if isinstance(why, str) else ""
    if end in _FILTERED:
        raise Refused(f"the answer was withheld by a content filter ({excerpt(str(why).encode('utf-8', 'replace'))})")
    if end in _CUT_OFF:
        raise AnswerTooLarge("the answer was cut off at the model's limit of tokens")
    if end in _BROKEN:
        raise ServerError(f"the model's server broke off the answer ({end})")
    if message.get("tool_calls") or message.get("function_call") or end in ("tool_calls", "function_call", "tool_use"):
        raise BadResponse("the model called a tool although none was offered")


def _content(message: dict[str, Any], form: str, reading: Reading) -> Answer:
    text = _text(message.get("content"))
    if not text.strip():  # some servers put the whole answer of a reasoning model there
        text = _text(message.get("reasoning_content") or message.get("reasoning"))
        if not isinstance(find_json(text), dict):
            raise BadResponse("the answer's message has no content")
    text = without_thoughts(text)
    sure = reading.default if reading.constant is None else reading.constant
    plain = form == "none" and sure is not None and reading.confidence is None
    if plain and text[:1] not in ("{", "`"):
        return Answer(text, sure or 0.0)
    found = find_json(text)
    if found is NOTHING:
        if plain:
            return Answer(text, sure or 0.0)
        return parse_answer(text.encode("utf-8", "replace"), reading)  # raises the reason
    if isinstance(found, str) and (inner := find_json(found)) is not NOTHING:
        found = inner
    if reading.confidence is None and reading.value is None:
        found = _plain_object(found)
    if not isinstance(found, dict) and reading.confidence is None and sure is None:
        raise BadResponse(f"the answer must be a JSON object with confidence, not {excerpt(text.encode())}")
    return read_answer(found, reading)


def _text(content: Any) -> str:
    if isinstance(content, dict):  # some servers parse what the model wrote
        return content["text"] if isinstance(content.get("text"), str) else dumps(content).decode()
    if isinstance(content, list):  # some servers answer in parts
        return "".join(part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
    return content if isinstance(content, str) else ""


def _plain_object(found: Any) -> Any:
    """The object itself: models put it into a list or another object, or capitalise its names."""
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    if isinstance(found, dict) and len(found) == 1 and isinstance(inner := next(iter(found.values())), dict):
        found = inner if any(name.lower() == "confidence" for name in inner) else found
    if not isinstance(found, dict):
        return found
    names = {name.lower(): name for name in found}
    for ours in ("value", "confidence"):
        if ours not in found and ours in names:
            found = {ours if name == names[ours] else name: value for name, value in found.items()}
    return found


def _without_comments(body: bytes) -> bytes:
    """The body without leading comments of an event stream: a gateway keeps a connection open with them, also before
    JSON.
    """
    if body.lstrip()[:1] != b":":
        return body
    return b"\n".join(line for line in body.split(b"\n") if not line.startswith(b":"))


def check_error(data: Any) -> None:
    """Raises the error that an error object in a 2xx means; returns without one."""
    error = data.get("error") if isinstance(data, dict) else None
    if not error:
        return
    code, text = None, error
    if isinstance(error, dict):
        code = error.get("code") if error.get("code") is not None else error.get("type")
        text = error.get("message", error)
    shown = excerpt(str(text).encode("utf-8", "replace"))
    if isinstance(code, str) and code.isascii() and code.isdigit() and len(code) < 10:
        code = int(code)
    if type(code) is int and 400 <= code < 600:
        raise error_of(code, f"{shown} (within a 200)", body=str(error).replace("'", '"').encode("utf-8", "replace"))
    word = str(code or "").lower()
    text = f"the agent answered an error within a 200: {shown}"
    for kind, words in _ERROR_WORDS:
        if any(part in word for part in words):
            raise kind(text)
    raise ServerError(text)


def _about(data: dict[str, Any], message: dict[str, Any], why: Any) -> dict[str, Any]:
    """Model, tokens, thoughts and stop reason, for the result's metadata."""
    about: dict[str, Any] = {}
    if isinstance(data.get("model"), str):
        about["model"] = data["model"][:256]
    if isinstance(why, str):
        about["finishReason"] = why[:64]
    thoughts = next((message[name] for name in ("reasoning_content", "reasoning") if message.get(name)), None)
    if isinstance(thoughts, str):
        about["thoughts"] = thoughts
    usage = data.get("usage")
    if isinstance(usage, dict):
        names = {"inputTokens": "prompt_tokens", "outputTokens": "completion_tokens", "totalTokens": "total_tokens"}
        tokens = {ours: usage[theirs] for ours, theirs in names.items() if type(usage.get(theirs)) is int}
        if tokens:
            about["usage"] = tokens | {
                name: value for name, value in usage.items() if name not in names.values() and value is not None
            }
    return about


def spent(status: int, body: bytes) -> AgentError | None:
    """Whether a 402, 403 or 429 means that the account has no money left: waiting does not help."""
    try:
        data = loads(body)
    except ValueError:
        return None
    error = data.get("error") if isinstance(data, dict) else None
    code = error.get("code") or error.get("type") if isinstance(error, dict) else None
    return ClientError(f"the agent answered {status}: {code}") if isinstance(code, str) and code in _SPENT else None


def refuses_form(status: int, body: bytes) -> bool:
    """Whether the server refuses the `response_format` of the request.

    >>> refuses_form(400, b'{"error":"This response_format type is unavailable now"}'), refuses_form(400, b"no")
    (True, False)
    """
    if status not in (400, 404, 415, 422, 501):
        return False
    low = body.lower()
    return any(
        word in low
        for word in (
            b"response_format", b"response format", b"text.format", b"json_schema", b"json schema",
            b"structured output", b"response_schema", b"parse grammar",
        )
    )  # fmt: skip


def refuses_usage(status: int, body: bytes) -> bool:
    """Whether the server refuses the `stream_options` of the request, as Mistral's does.

    >>> refuses_usage(422, b'{"detail":[{"loc":["body","stream_options"]}]}'), refuses_usage(422, b"no")
    (True, False)
    """
    return status in (400, 422) and b"stream_options" in body


def wants_stream(status: int, body: bytes) -> bool:
    """Whether the server refuses an answer at once and would stream it.

    >>> wants_stream(400, b'{"error":"This model only support stream mode"}'), wants_stream(400, b"bad stream")
    (True, False)
    """
    low = body.lower()
    words = (
        b"only",
        b"must be",
        b"enable",
        b"non-stream",
        b"non stream",
        b"require",
        b"stream=true",
        b"stream to true",
    )
    return status in (400, 422) and b"stream" in low and any(word in low for word in words)
