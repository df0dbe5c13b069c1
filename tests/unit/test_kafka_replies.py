"""What the headers and the value of a Kafka agent's reply mean, in the forms that foreign producers give them."""

from __future__ import annotations

from typing import Any

import pytest

from agents_io.errors import AgentError, BadResponse, RateLimited
from agents_io.protocols.kafka.rules.headers import correlation_of, reply_answer
from agents_io.rules.answer import Reading
from agents_io.transport import Answer

VALUE = b'{"value":1,"confidence":0.5}'
OK = Answer(1, 0.5)
STRUCTURED = b'{"specversion":"1.0","id":"e","source":"/a","type":"t","data":{"value":1,"confidence":0.5}}'
EVENT = [("content-type", b"application/cloudevents+json; charset=UTF-8")]


def reply(value: bytes | None, headers: list[tuple[str, bytes | None]]) -> Answer | AgentError:
    """What it means."""
    try:
        return reply_answer(value, headers, Reading(), 1000, 0.0)
    except AgentError as error:
        return error


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        (VALUE, []),
        (b"\xef\xbb\xbf" + VALUE, [("content-type", b"application/json")]),
        (VALUE, [("status", None), ("retry-after", None), ("content-type", None)]),
        (VALUE, [("status", b'"200"')]),
        (b"\0\0\0\0\x07" + VALUE, []),
        (VALUE, [("__value_schema_id", b"\x00\0\0\0\x07")]),
        (STRUCTURED, EVENT),
        (VALUE, [("content-type", b"application/json"), ("ce_specversion", b"1.0"), ("ce_id", b"e")]),
    ],
)
def test_an_answer_in_every_form(value: bytes, headers: Any) -> None:
    """As records that users write: plain, CloudEvents, Confluent's wire format; a null header is none."""
    assert reply(value, headers) == OK


@pytest.mark.parametrize("status", [b"429", b'"429"', b" 429 "])
def test_a_status_may_be_quoted(status: bytes) -> None:
    """Spring writes a header that is a string as JSON."""
    end = reply(b"slow down", [("status", status), ("retry-after", b'"7"')])
    assert isinstance(end, RateLimited)
    assert end.retry_after_s == 7.0


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        (None, []),
        (b"\0\0\0\0\x07\x02\x04", []),  # Avro, and no registry is configured
        (b'{"specversion":"1.0"}', EVENT),
        (VALUE, [("status", b"ok")]),
        (b'{"value":NaN,"confidence":1}', EVENT),
    ],
)
def test_what_is_no_answer_is_a_bad_response(value: bytes | None, headers: Any) -> None:
    """Never an error of our own."""
    assert isinstance(reply(value, headers), BadResponse)


def test_the_correlation_may_stand_under_either_name() -> None:
    """A null one is none."""
    assert correlation_of([("correlation-id", None), ("kafka_correlationId", b"w:1")]) == b"w:1"
    assert correlation_of([("correlation-id", None)]) is None
