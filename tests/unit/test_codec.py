"""The three accepted forms of a record, and everything that is none of them."""

from __future__ import annotations

import base64
import tracemalloc
from typing import Any

import orjson
import pytest

from schemas.codec import MAX_REASON, Rejected, ce_headers, decode, decode_json, dumps, header, pack, parse_json
from schemas.messages import AgentRegistration, ConfidenceDataPoint, Control, Plan, Task

TASK = {"id": "t1", "type": "agent", "target": "a1", "payload": {"x": 1}}
POINT = {"agentId": "a", "patternName": "p", "confidence": 0.5, "success": True, "timestamp": 0, "executionTime": 1}
STRUCTURED = (("content-type", b"application/cloudevents+json; charset=utf-8"),)


def envelope(**more: Any) -> bytes:
    """A structured CloudEvent."""
    return orjson.dumps({"specversion": "1.0", "id": "e", "source": "/x", "type": "y"} | more)


def test_plain_json_needs_no_headers() -> None:
    """What kcat sends."""
    assert decode(Task, orjson.dumps(TASK)).id == "t1"
    assert decode_json(b"[1]", ()).attributes == {}


def test_binary_cloudevents_keep_the_value_and_tell_attributes() -> None:
    """ce_ headers become attributes; other headers do not; null header values are passed over."""
    headers = ce_headers(ce_type="io.parallax.task.v1", ce_id="e1", source="/s", subject="t1", time_ms=0)
    found = decode_json(orjson.dumps(TASK), [*headers, ("traceparent", b"00-1"), ("ce_extra", None)])  # type: ignore[list-item]
    assert found.data == TASK
    assert found.attributes == {
        "specversion": "1.0",
        "id": "e1",
        "source": "/s",
        "type": "io.parallax.task.v1",
        "time": "1970-01-01T00:00:00.000Z",
        "subject": "t1",
    }


def test_structured_cloudevents_carry_the_message_inside() -> None:
    """As data, or as base64."""
    assert decode(Task, envelope(data=TASK), STRUCTURED).id == "t1"
    encoded = base64.b64encode(orjson.dumps(TASK)).decode()
    found = decode_json(envelope(data_base64=encoded, n=5), STRUCTURED)
    assert (found.data, found.attributes["n"]) == (TASK, "5")


@pytest.mark.parametrize(
    ("value", "headers", "reason"),
    [
        (None, (), "value: is null"),
        (b"", (), "is not JSON"),
        (b"hello", (), "is not JSON"),
        (b'{"a":NaN}', (), "is not JSON"),
        (b'{"a":Infinity}', (), "is not JSON"),
        (b'{"a":1e999}', (), "is not JSON"),
        (b'{"a":"\xff"}', (), "is not JSON"),
        (b'{"a":[{"b":-1e999}]}', (), "a.0.b: the number -1e999 is beyond the range of a double"),
        (b'{"a":1} x', (), "is not JSON"),
        (b"[" * 5000 + b"]" * 5000, (), "is not JSON"),
        (b"[]", (("content-type", b"application/cloudevents-batch+json"),), "batches are not allowed"),
        (b"[]", STRUCTURED, "must be a JSON object"),
        (b"{", STRUCTURED, "is not JSON"),
        (b'{"data":1}', STRUCTURED, "specversion: must be '1.0', not None"),
        (envelope(specversion="0.3", data=1), STRUCTURED, "specversion: must be '1.0', not '0.3'"),
        (envelope(), STRUCTURED, "data: is missing"),
        (envelope(data_base64="?"), STRUCTURED, "data_base64: is not base64"),
        (envelope(data_base64=5), STRUCTURED, "data_base64: is not base64"),
        (envelope(data_base64="aGk="), STRUCTURED, "is not JSON"),
    ],
)
def test_what_cannot_be_decoded_says_so(value: bytes | None, headers: Any, reason: str) -> None:
    """Stage decode, with the reason."""
    with pytest.raises(Rejected) as caught:
        decode_json(value, headers)
    assert caught.value.stage == "decode"
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "value: must be a JSON object, not an array"),
        ("x", "not a string"),
        (1.5, "not a number"),
        (True, "not a boolean"),
        (None, "not null"),
        ({}, "id: field required"),
        (TASK | {"type": "agnt"}, "type: input should be 'agent', 'pattern', 'http' or 'function', not 'agnt'"),
        (TASK | {"type": ["x"]}, "type: input should be 'agent', 'pattern', 'http' or 'function', not an array"),
        (TASK | {"metadata": {"timeout": "5"}}, "metadata.timeout: input should be a valid integer, not '5'"),
        (TASK | {"metadata": {"retries": -1}}, "metadata.retries: input should be greater than or equal to 0, not -1"),
        (
            TASK | {"metadata": {"retries": None, "priority": {}}},
            "metadata.priority: input should be a valid integer, not an object",
        ),
        (
            TASK | {"metadata": []},
            "metadata: input should be a valid dictionary or instance of TaskMetadata, not an array",
        ),
        (
            TASK | {"id": "x" * 300},
            f"id: string should have at most 256 characters, not '{'x' * 40}...' (300 characters)",
        ),
        (TASK | {"id": 5}, "id: input should be a valid string, not 5"),
        (TASK | {"id": ""}, "id: string should have at least 1 character, not ''"),
        (TASK | {"planId": False}, "planId: input should be a valid string, not false"),
        ({k: v for k, v in TASK.items() if k != "payload"}, "payload: field required"),
    ],
)
def test_what_is_no_message_names_field_and_reason(value: Any, reason: str) -> None:
    """Stage validate."""
    with pytest.raises(Rejected) as caught:
        decode(Task, orjson.dumps(value))
    assert caught.value.stage == "validate"
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    ("model", "data", "reason"),
    [
        (Plan, {"id": "p", "tasks": [TASK], "strategy": "roulette"},
         "strategy: input should be 'all', 'race', 'allSettled' or 'weighted', not 'roulette'"),
        (Plan, {"id": "p", "tasks": [TASK], "kind": 7}, "kind: input should be 'parallel', 'sequential' or 'dag', not 7"),
        (Control, {"type": "stop", "taskId": "t"}, "type: input should be 'cancel' or 'cache-clear', not 'stop'"),
        (AgentRegistration, {"id": "a", "endpoint": "http://h", "protocol": "smtp"}, "or 'kafka', not 'smtp'"),
        (AgentRegistration, {"id": "a", "endpoint": 5}, "endpoint: input should be a valid string, not 5"),
        (ConfidenceDataPoint, POINT | {"confidence": 1.5}, "confidence: input should be less than or equal to 1, not 1.5"),
        (ConfidenceDataPoint, POINT | {"timestamp": -5}, "timestamp: must lie between 1970 and 9999, not -5"),
        (ConfidenceDataPoint, POINT | {"timestamp": "noon"}, "timestamp: is not an RFC 3339 time: 'noon'"),
    ],
)  # fmt: skip
def test_every_refused_field_says_what_was_given_and_what_is_allowed(model: Any, data: Any, reason: str) -> None:
    """Shortened, once."""
    with pytest.raises(Rejected) as caught:
        decode(model, orjson.dumps(data))
    assert caught.value.reason.endswith(reason)


@pytest.mark.parametrize(
    "fields",
    [
        {"auth": {"env": "hunter2" * 50}},
        {"auth": "hunter2"},
        {"auth": {"env": "A", "scheme": "hunter2"}},
        {"endpoint": "https://me:hunter2@host/" + "x" * 3000},
    ],
)
def test_secrets_are_not_repeated(fields: dict[str, Any]) -> None:
    """Whoever writes one in place of a reference to it reads its field's name alone."""
    with pytest.raises(Rejected) as caught:
        decode(AgentRegistration, orjson.dumps({"id": "a", "endpoint": "http://h"} | fields))
    assert next(iter(fields)) in caught.value.reason
    assert "hunter2" not in caught.value.reason


MESSAGES: list[tuple[Any, dict[str, Any], str]] = [
    (Task, TASK, "target"),
    (Plan, {"id": "p", "tasks": [TASK], "metadata": {}}, "id"),
    (Control, {"type": "cancel", "taskId": "t", "reason": "r"}, "reason"),
    (AgentRegistration, {"id": "a", "endpoint": "http://h", "name": "n"}, "name"),
    (ConfidenceDataPoint, POINT, "patternName"),
]


@pytest.mark.parametrize(("model", "data", "field"), MESSAGES)
@pytest.mark.parametrize("form", ["plain", "structured", "base64"])
@pytest.mark.parametrize("half", [b"\\ud83d", b"\xed\xa0\xbd"])
def test_half_an_emoji_costs_no_message(model: Any, data: Any, field: str, form: str, half: bytes) -> None:
    """Nor does a byte order mark, in any form of a record."""
    raw = b"\xef\xbb\xbf" + orjson.dumps(data | {field: "cut HERE"}).replace(b"HERE", half)
    if form == "structured":
        raw = b"\xef\xbb\xbf" + envelope(data=5).replace(b'"data":5', b'"data":' + raw[3:])
    elif form == "base64":
        raw = envelope(data_base64=base64.b64encode(raw).decode())
    found = decode(model, raw, STRUCTURED if form != "plain" else ())
    assert found.wire()[field] == "cut \ufffd"


def test_only_wire_names_are_read() -> None:
    """A Python name on the wire is an unknown field."""
    assert decode(Task, orjson.dumps(TASK | {"plan_id": "p"})).plan_id is None
    assert decode(Task, orjson.dumps(TASK | {"planId": "p"})).plan_id == "p"
    found = decode(Task, orjson.dumps(TASK | {"metadata": {"pattern_name": "p", "patternName": "q"}}))
    assert found.metadata.pattern_name == "q"


def test_a_reason_is_bounded() -> None:
    """However long the input was."""
    assert len(Rejected("decode", "x" * 10_000).reason) == MAX_REASON


def test_what_was_read_can_be_too_deep_to_write() -> None:
    """orjson reads deeper than it writes: the caller gets a Rejected, not a crash."""
    deep = parse_json(b"[" * 300 + b"]" * 300)
    with pytest.raises(Rejected, match="cannot be written"):
        dumps(deep)


def test_the_last_header_of_a_name_counts() -> None:
    """Kafka allows a name twice."""
    headers = [("a", b"1"), ("b", b"2"), ("a", b"\xff")]
    assert (header(headers, "a"), header(headers, "b"), header(headers, "c")) == ("\ufffd", "2", None)


def test_what_is_kept_takes_no_more_than_its_own_size() -> None:
    """orjson's own results keep 4 KiB each, however small they are; `pack` does not."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        kept = [pack({"n": number, "text": "x" * 100}) for number in range(1000)]
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 2 * sum(map(len, kept)) + 100_000
