"""Agents behind a Kafka topic: what a request and its reply say in their headers. Pure.

In: a registration's endpoint, a call, the headers and value of a reply. Out: topic, headers, an `Answer` or the `AgentError` it
means. A request carries the task's payload and

  correlation-id, reply-topic    copied to the reply; where the reply goes (both also under Spring's names, kafka_correlationId
                                 and kafka_replyTopic, so that its listeners answer without a change)
  idempotency-key                the task's id: the same for each attempt
  request-timeout-ms             how long the answer is waited for
  traceparent                    as on every other protocol
  cancel                         only with `metadata.cancelRecords`: the request of that correlation id is not wanted any more;
                                 such a record has no value

A reply carries correlation-id, and value and confidence as JSON, in any form that a task may have (CloudEvents, Confluent's
wire format); a failure has a `status` header with the meaning HTTP gives it, and `retry-after` in seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from agents_io.errors import AnswerTooLarge, BadResponse, Unsupported
from agents_io.rules.answer import Reading, excerpt, parse_answer
from agents_io.rules.statuses import error_of
from agents_io.rules.waits import parse_retry_after
from agents_io.transport import Answer, Call
from schemas.codec import Rejected, decode_json, dumps
from schemas.wire_format import PREFIX, VALUE_HEADER

CORRELATION = ("correlation-id", "kafka_correlationId")
REPLY_TOPIC = ("reply-topic", "kafka_replyTopic")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}", re.ASCII)

Headers = Iterable[tuple[str, bytes | None]]
"""A header's value may be null."""
_MARKS = ("content-type", VALUE_HEADER)


def topic_of(endpoint: str) -> str:
    """The topic an agent reads. Raises `Unsupported`.

    >>> topic_of("kafka://summarizer.requests")
    'summarizer.requests'
    """
    topic = endpoint.removeprefix("kafka://").strip("/")
    if not _TOPIC.fullmatch(topic) or topic in (".", ".."):
        raise Unsupported(f"endpoint: a kafka agent needs kafka://TOPIC, not {endpoint[:80]!r}")
    return topic


def request_headers(call: Call, correlation: bytes, reply_topic: str) -> list[tuple[str, bytes]]:
    """The headers of a request."""
    headers = [(name, correlation) for name in CORRELATION]
    headers += [(name, reply_topic.encode()) for name in REPLY_TOPIC]
    headers.append(("idempotency-key", call.idempotency_key.encode()))
    headers.append(("request-timeout-ms", b"%d" % max(1, int(call.timeout_s * 1000))))
    return headers + [(name, value.encode()) for name, value in call.headers]


def cancel_headers(correlation: bytes) -> list[tuple[str, bytes]]:
    """The headers of a record that cancels a request."""
    return [*((name, correlation) for name in CORRELATION), ("cancel", b"1")]


def correlation_of(headers: Headers) -> bytes | None:
    """The correlation id of the request that a reply answers; None without one.

    >>> correlation_of([("kafka_correlationId", b"w:1")])
    b'w:1'
    """
    found = dict(headers)
    return next((found[name] for name in CORRELATION if found.get(name)), None)


def reply_answer(
    value: bytes | None, headers: Headers, reading: Reading, max_bytes: int, now_epoch_s: float, attempt: int = 1
) -> Answer:
    """The answer in a reply. Raises `AgentError`.

    >>> reply_answer(b'{"value":1,"confidence":1}', [], Reading(), 100, 0.0).value
    1
    """
    found = {name: text for name, text in headers if text is not None}
    raw = value or b""
    status = _status(found.get("status", b"200"))
    if not 200 <= status < 300:
        wait_s = parse_retry_after(_unquoted(found.get("retry-after", b"")).decode("ascii", "replace"), now_epoch_s)
        raise error_of(status, excerpt(raw) if raw.strip() else "no reason given", wait_s, attempt=attempt, body=raw)
    if len(raw) > max_bytes:
        raise AnswerTooLarge(f"the answer has {len(raw)} bytes, more than {max_bytes}")
    if raw[:1] == PREFIX or any(name in found for name in _MARKS):
        try:
            raw = dumps(decode_json(raw, tuple(found.items())).data)
        except Rejected as rejected:
            raise BadResponse(f"the answer cannot be read: {rejected.reason}") from None
    return parse_answer(raw, reading)


def _unquoted(text: bytes) -> bytes:
    """The header's text without quotes: Spring writes a string as JSON."""
    return text.strip(b'" ')


def _status(text: bytes) -> int:
    text = _unquoted(text)
    if not (text.isdigit() and len(text) == 3):
        raise BadResponse(f"the reply's status is invalid: {excerpt(text)}")
    return int(text)
