"""The request of an http task, and its reply as an answer. Pure.

In: the task's method, headers and query, as JSON that dispatch wrote; the reply's body and type. Out: an `Order` to
carry out, an `Answer`, or an `AgentError` that names the invalid part. Headers that control the connection, that the
pipeline sets itself, or that could end a header line are refused. It opens no connection; `targets.py` checks
addresses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isfinite
from typing import Any

from agents_io.errors import BadResponse, Unsupported
from agents_io.rules.answer import excerpt, load_json
from agents_io.transport import Answer
from schemas.exact_json import dumps, loads, mend

MAX_HEADERS = 64
MAX_HEADER_BYTES = 16 * 1024
MAX_QUERY_BYTES = 16 * 1024
BODIES = frozenset(("POST", "PUT", "PATCH"))
SAFE = frozenset(("GET", "HEAD"))
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_VALUE = re.compile(r"(?:[\x21-\x7e](?:[\x20\x09\x21-\x7e]*[\x21-\x7e])?)?")
_OF_A_CONNECTION = frozenset(
    ("connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect", "host", "content-length")
)
_OURS = frozenset(("accept-encoding", "idempotency-key", "x-request-timeout-ms", "traceparent", "tracestate"))


@dataclass(frozen=True, slots=True)
class Order:
    """One request to make. `headers`: checked; `body`: None for methods that carry none."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    query: dict[str, str]
    body: bytes | None


def read_order(raw: bytes) -> Order:
    """The request in `{"url", "method"?, "headers"?, "query"?, "payload"}`. Raises `Unsupported`.

    >>> read_order(b'{"url": "http://h/", "query": {"q": "1"}, "payload": {"n": 1}}')
    Order(method='POST', url='http://h/', headers=(), query={'q': '1'}, body=b'{"n":1}')
    """
    data = loads(raw)
    method = data.get("method") or "POST"
    query = data.get("query") or {}
    if sum(len(name) + len(value) for name, value in query.items()) > MAX_QUERY_BYTES:
        raise Unsupported(f"metadata.query: is larger than {MAX_QUERY_BYTES} bytes")
    body = dumps(data.get("payload")) if method in BODIES else None
    return Order(method, data["url"], _headers(data.get("headers") or {}), query, body)


def _headers(given: dict[str, str]) -> tuple[tuple[str, str], ...]:
    if len(given) > MAX_HEADERS or sum(len(name) + len(value) for name, value in given.items()) > MAX_HEADER_BYTES:
        raise Unsupported(f"metadata.headers: at most {MAX_HEADERS} headers of {MAX_HEADER_BYTES} bytes in all")
    for name, value in given.items():
        if not _NAME.fullmatch(name):
            raise Unsupported(f"metadata.headers: {excerpt(name.encode('utf-8', 'replace'))} is no header name")
        if name.lower() in _OF_A_CONNECTION | _OURS or name.lower().startswith("proxy-"):
            raise Unsupported(f"metadata.headers: {name} is set by the pipeline or belongs to the connection")
        if not _VALUE.fullmatch(value):
            raise Unsupported(f"metadata.headers: the value of {name} is not printable ASCII")
    if len({name.lower() for name in given}) != len(given):
        raise Unsupported("metadata.headers: a header is named twice")
    return tuple(given.items())


def read_reply(body: bytes, content_type: str) -> Answer:
    """The reply as an answer: JSON as it is, text as a string, nothing as null. Raises `BadResponse`.

    The confidence is the reply's own if it is an object with a `confidence` in [0, 1], else 1: the server answered.

    >>> read_reply(b'{"n": 1, "confidence": 0.5}', "application/json")
    Answer(value={'n': 1, 'confidence': 0.5}, confidence=0.5, metadata={})
    >>> read_reply(b"hello", "text/plain; charset=utf-8")
    Answer(value='hello', confidence=1.0, metadata={})
    """
    kind = content_type.partition(";")[0].strip().lower()
    if not body:
        return Answer(None, 1.0)
    if kind == "application/json" or kind.endswith("+json"):
        return _json(load_json(body))
    try:
        text = mend(body.decode("utf-8", "surrogatepass")).removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise BadResponse(f"the answer of type {excerpt(kind.encode())} is neither JSON nor text in UTF-8") from None
    if kind == "":
        try:
            return _json(load_json(body))
        except BadResponse:
            pass
    return Answer(text, 1.0)


def _json(value: Any) -> Answer:
    stated = value.get("confidence") if isinstance(value, dict) else None
    if isinstance(stated, (int, float)) and not isinstance(stated, bool) and isfinite(stated) and 0 <= stated <= 1:
        return Answer(value, float(stated))
    return Answer(value, 1.0)
