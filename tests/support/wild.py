"""What scripted agents answer in the tests of what was seen in the wild."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

from agents_io.errors import AgentError
from agents_io.protocols.openai.transport import OpenAiTransport
from agents_io.transport import Answer
from tests.support.served import Handler, asking

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


CAFE = '{"value": "caf\u00e9", "confidence": 1}'


def said_text(end: Answer | AgentError) -> tuple[Any, Any]:
    """An answer's value and confidence, or an error's code and message."""
    return (end.value, end.confidence) if isinstance(end, Answer) else (end.code, end.message)
