"""How the worker's pages answer: JSON, and errors as one sentence. A 503 says when to ask again (`Retry-After`)."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from schemas.exact_json import dumps

RETRY_AFTER_S = 2


def json_answer(data: Any, status: int = 200) -> web.Response:
    """JSON; `data` may hold `orjson.Fragment`s."""
    return web.Response(body=dumps(data), status=status, content_type="application/json")


def error_answer(status: int, why: str) -> web.Response:
    """`{"error": why}`, with `Retry-After` on a 503."""
    return handed_on(status, dumps({"error": why}))


def handed_on(status: int, body: bytes) -> web.Response:
    """The response of another process, unchanged."""
    answer = web.Response(status=status, body=body, content_type="application/json")
    if status == 503:
        answer.headers["Retry-After"] = str(RETRY_AFTER_S)
    return answer
