"""What an http task sends, and what it makes of a reply."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from agents_io.errors import AgentError, BadResponse, Unsupported
from agents_io.protocols.http_tasks.rules.orders import read_order, read_reply


def order(**fields: Any) -> Any:
    """Read an order with these fields."""
    return read_order(orjson.dumps({"url": "http://h/", "payload": {"n": 1}} | fields))


@pytest.mark.parametrize(
    ("method", "body"),
    [(None, b'{"n":1}'), ("PUT", b'{"n":1}'), ("PATCH", b'{"n":1}'), ("GET", None), ("HEAD", None), ("DELETE", None)],
)
def test_which_methods_carry_the_payload(method: str | None, body: bytes | None) -> None:
    """POST unless told otherwise."""
    found = order(method=method)
    assert (found.method, found.body) == (method or "POST", body)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "Host",
            "host",
            "Connection",
            "Keep-Alive",
            "Transfer-Encoding",
            "Content-Length",
            "TE",
            "Trailer",
            "Upgrade",
        ),
        *("Expect", "Proxy-Authorization", "Proxy-Connection", "Accept-Encoding", "Idempotency-Key", "traceparent"),
        "X-Request-Timeout-Ms",
    ],
)
def test_headers_that_are_not_the_tasks_to_set(name: str) -> None:
    """Those of the connection, and the pipeline's own."""
    with pytest.raises(Unsupported, match=r"metadata\.headers"):
        order(headers={name: "x"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X\r\nHost", "x"),
        ("X Y", "x"),
        ("", "x"),
        ("X:", "x"),
        ("X", "a\r\nHost: evil"),
        ("X", "a\n"),
        ("X", "\x00"),
        ("X", "\u00e9"),
        ("X", " a"),
        ("X", "a\x7f"),
        ("X\u00e9", "x"),
    ],
)
def test_no_header_can_begin_another(name: str, value: str) -> None:
    """Control characters and what is not ASCII; the value is never shown."""
    with pytest.raises(Unsupported) as caught:
        order(headers={name: value, "Y": "s3cret"})
    assert "s3cret" not in caught.value.message
    assert caught.value.message.isprintable()


def test_headers_are_bounded_and_named_once() -> None:
    """In number and size."""
    for headers in ({f"x{n}": "" for n in range(65)}, {"x": "y" * 17_000}, {"X-A": "1", "x-a": "2"}):
        with pytest.raises(Unsupported):
            order(headers=headers)
    with pytest.raises(Unsupported, match="query"):
        order(query={"x": "y" * 17_000})


def test_plain_headers_pass() -> None:
    """Also those that hold a secret of the caller's."""
    found = order(headers={"Authorization": "Bearer x y", "X-Empty": "", "Cookie": "a=b; c=d"})
    assert dict(found.headers) == {"Authorization": "Bearer x y", "X-Empty": "", "Cookie": "a=b; c=d"}


@pytest.mark.parametrize(
    ("body", "kind", "value", "confidence"),
    [
        (b"", "", None, 1.0),
        (b"", "application/json", None, 1.0),
        (b"[1]", "application/json; charset=utf-8", [1], 1.0),
        (b'{"confidence": 0}', "application/problem+json", {"confidence": 0}, 0.0),
        (b'{"confidence": 7}', "application/json", {"confidence": 7}, 1.0),
        (b'{"confidence": true}', "application/json", {"confidence": True}, 1.0),
        (b'{"confidence": "0.5"}', "application/json", {"confidence": "0.5"}, 1.0),
        (b'{"confidence": 0.5}', "text/plain", '{"confidence": 0.5}', 1.0),
        (b'{"confidence": 0.5}', "", {"confidence": 0.5}, 0.5),
        ("caf\u00e9".encode(), "", "caf\u00e9", 1.0),
        (b"\xef\xbb\xbfcut \xed\xa0\xbd", "text/plain", "cut \ufffd", 1.0),
        (b'\xef\xbb\xbf{"a": "cut \\ud83d"}', "application/json", {"a": "cut \ufffd"}, 1.0),
    ],
)
def test_what_a_reply_is_worth(body: bytes, kind: str, value: Any, confidence: float) -> None:
    """JSON as it is, text as text; its own confidence only if it is one."""
    found = read_reply(body, kind)
    assert (found.value, found.confidence) == (value, confidence)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{", "application/json"),
        (b"NaN", "application/json"),
        (b'{"a": 1e999}', "application/json"),
        (b"[" * 200 + b"]" * 200, "application/json"),
        (b"\xff\xfe", "text/plain"),
        (b"\x89PNG\x0d\x0a\xff", "image/png"),
    ],
)
def test_a_reply_that_is_none(body: bytes, kind: str) -> None:
    """Broken or too deep JSON, and what is not text."""
    with pytest.raises(AgentError) as caught:
        read_reply(body, kind)
    assert type(caught.value) is BadResponse
