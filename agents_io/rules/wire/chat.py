"""Chat completions as OpenAI, vLLM, Ollama and gateways serve them: request and response, as data. Pure.

In: a registration's metadata and a payload; the body of a 2xx; the headers and body of a 429. Out: a request body; an
`Answer` or the `AgentError` it means; seconds to wait. Source: the public reference of `POST /v1/chat/completions` (fields
`response_format`, `choices[].finish_reason`, `message.refusal`, `usage`) and its rate limit headers. Nothing is streamed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agents_io.errors import AgentError, AnswerTooLarge, BadResponse, ClientError, Refused, Unsupported
from agents_io.rules.answer import Reading, excerpt, load_json, parse_answer
from agents_io.rules.wire.prompts import as_text
from agents_io.transport import Answer
from schemas.exact_json import dumps, loads

FORMATS = ("json_schema", "json_object", "none")
ASK = (
    "Answer with one JSON object and nothing else. It has these members: `value`, your answer; `confidence`, a number "
    "from 0 to 1 that tells how likely the answer is right; `reasoning`, one or two sentences on why."
)
_OURS = ("model", "messages", "stream", "n", "response_format")
_NAMED = {
    "temperature": "temperature",
    "topP": "top_p",
    "maxTokens": "max_tokens",
    "maxCompletionTokens": "max_completion_tokens",
    "seed": "seed",
    "stop": "stop",
    "reasoningEffort": "reasoning_effort",
}
_FENCE = re.compile(r"\A\s*```[a-zA-Z]*\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)
_THOUGHT = re.compile(r"\A\s*<think>.*?</think>\s*", re.DOTALL)
_SPAN = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)", re.ASCII)
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_SPENT = frozenset({"insufficient_quota", "billing_hard_limit_reached"})


@dataclass(frozen=True, slots=True)
class ChatConfig:
    """How a model is asked. `template`: the request without its user message."""

    form: str
    template: dict[str, Any] = field(default_factory=dict)
    system: str = ASK


def chat_config(metadata: Mapping[str, Any] | None) -> ChatConfig:
    """From a registration's metadata. Raises `Unsupported` that names what does not fit.

    `model` (needed); `system`: what the model is, said before how to answer; `temperature`, `topP`, `maxTokens`,
    `maxCompletionTokens`, `seed`, `stop`, `reasoningEffort`: as the API has them; `request`: further members of the request;
    `responseFormat`: `json_schema` (default), `json_object` or `none`; `valueSchema`: the JSON Schema of the value (default: a
    string); `strict`: whether the server must hold to the schema (default true).

    >>> chat_config({"model": "m", "temperature": 0}).template["temperature"]
    0
    """
    given = metadata or {}
    model = given.get("model")
    if not isinstance(model, str) or not model:
        raise Unsupported("metadata.model: an agent of protocol openai needs the name of its model")
    form = given.get("responseFormat", "json_schema")
    if form not in FORMATS:
        raise Unsupported(f"metadata.responseFormat: must be one of {', '.join(FORMATS)}")
    more = given.get("request", {})
    if not isinstance(more, dict) or any(name in more for name in _OURS):
        raise Unsupported(f"metadata.request: must be an object without {', '.join(_OURS)}")
    template = {**more, "model": model} | {wire: given[name] for name, wire in _NAMED.items() if name in given}
    if form == "json_object":
        template["response_format"] = {"type": "json_object"}
    elif form == "json_schema":
        template["response_format"] = {"type": "json_schema", "json_schema": _schema(given)}
    return ChatConfig(form, template, _system(given, form))


def _schema(given: Mapping[str, Any]) -> dict[str, Any]:
    value, strict = given.get("valueSchema", {"type": "string"}), given.get("strict", True)
    if not isinstance(value, dict):
        raise Unsupported("metadata.valueSchema: must be a JSON Schema")
    if not isinstance(strict, bool):
        raise Unsupported("metadata.strict: must be true or false")
    members = {
        "value": value,
        "confidence": {"type": "number", "description": "from 0 to 1: how likely the value is right"},
        "reasoning": {"type": "string", "description": "one or two sentences on why"},
    }
    schema = {"type": "object", "properties": members, "required": list(members), "additionalProperties": False}
    return {"name": "answer", "strict": strict, "schema": schema}


def _system(given: Mapping[str, Any], form: str) -> str:
    system = given.get("system")
    if system is None:
        return ASK
    if not isinstance(system, str):
        raise Unsupported("metadata.system: must be a text")
    # Without a format the agent's own prompt may say how to answer; a JSON format must be spoken of, or servers refuse it.
    return system if form == "none" else f"{system}\n\n{ASK}"


def chat_request(config: ChatConfig, payload: Any) -> bytes:
    """The request's body."""
    messages = [{"role": "system", "content": config.system}, {"role": "user", "content": as_text(payload)}]
    return dumps({**config.template, "messages": messages, "stream": False})


def chat_answer(body: bytes, form: str, reading: Reading) -> Answer:
    """The answer in a 2xx body. Raises `BadResponse`, `Refused`, `AnswerTooLarge`.

    >>> said = b'{"choices":[{"finish_reason":"stop","message":{"content":"{\\\\"value\\\\":1,\\\\"confidence\\\\":1}"}}]}'
    >>> chat_answer(said, "json_schema", Reading()).value
    1
    """
    data = load_json(body)
    choices = data.get("choices") if isinstance(data, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise BadResponse(f"the answer has no choices: {excerpt(body)}")
    choice = choices[0]
    message, why = choice.get("message"), choice.get("finish_reason")
    if not isinstance(message, dict):
        raise BadResponse(f"the answer's choice has no message: {excerpt(body)}")
    _check_end(message, why)
    answer = _content(message.get("content"), form, reading)
    answer.metadata.update(_about(data, why))
    return answer


def _check_end(message: dict[str, Any], why: Any) -> None:
    if message.get("refusal"):
        raise Refused(f"the model refused: {excerpt(str(message['refusal']).encode())}")
    if why == "content_filter":
        raise Refused("the answer was withheld by a content filter")
    if why == "length":
        raise AnswerTooLarge("the answer was cut off at the model's limit of tokens")
    if message.get("tool_calls") or message.get("function_call") or why in ("tool_calls", "function_call"):
        raise BadResponse("the model called a tool although none was offered")


def _content(content: Any, form: str, reading: Reading) -> Answer:
    if isinstance(content, list):  # some servers answer in parts
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if not isinstance(content, str) or not content.strip():
        raise BadResponse("the answer's message has no content")
    text = _THOUGHT.sub("", content)
    if (fenced := _FENCE.match(text)) is not None:
        text = fenced[1]
    if form == "none" and reading.default is not None and reading.confidence is None and text.lstrip()[:1] != "{":
        return Answer(text.strip(), reading.default)
    return parse_answer(text.encode(), reading)


def _about(data: dict[str, Any], why: Any) -> dict[str, Any]:
    """Model, tokens and why it stopped, for the result's metadata."""
    about: dict[str, Any] = {}
    if isinstance(data.get("model"), str):
        about["model"] = data["model"][:256]
    if isinstance(why, str):
        about["finishReason"] = why[:64]
    usage = data.get("usage")
    if isinstance(usage, dict):
        names = {"inputTokens": "prompt_tokens", "outputTokens": "completion_tokens", "totalTokens": "total_tokens"}
        tokens = {ours: usage[theirs] for ours, theirs in names.items() if type(usage.get(theirs)) is int}
        if tokens:
            about["usage"] = tokens
    return about


def reset_s(headers: Mapping[str, str]) -> float | None:
    """Seconds until the limits that are used up are open again, from `retry-after-ms` and the `x-ratelimit-*` headers.

    >>> reset_s({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"})
    360.0
    >>> reset_s({"x-ratelimit-remaining-tokens": "17", "x-ratelimit-reset-tokens": "20ms"}) is None
    True
    """
    exact = headers.get("retry-after-ms", "")
    if exact.isascii() and exact.isdigit() and len(exact) < 12:
        return int(exact) / 1000
    waits = [
        span_s(headers.get(f"x-ratelimit-reset-{kind}", ""))
        for kind in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{kind}", "").strip() == "0"
    ]
    return max((wait for wait in waits if wait is not None), default=None)


def span_s(text: str) -> float | None:
    """A span such as `1s`, `6m0s` or `20ms` in seconds; a bare number is seconds; None if it is neither.

    >>> span_s("1m2.5s"), span_s("7"), span_s("soon")
    (62.5, 7.0, None)
    """
    text = text.strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text, re.ASCII):
        return float(text)
    if not text or len(text) > 64 or _SPAN.sub("", text):
        return None
    return sum(float(number) * _UNIT_S[unit] for number, unit in _SPAN.findall(text))


def spent(body: bytes) -> AgentError | None:
    """A 429 that no waiting mends: the account has no money left."""
    try:
        data = loads(body)
    except ValueError:
        return None
    error = data.get("error") if isinstance(data, dict) else None
    code = error.get("code") or error.get("type") if isinstance(error, dict) else None
    return ClientError(f"the agent answered 429: {code}") if isinstance(code, str) and code in _SPENT else None
