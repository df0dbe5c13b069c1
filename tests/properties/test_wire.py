"""Whatever is sent in one of the accepted forms arrives as it was, and no bytes whatever break the reader."""

from __future__ import annotations

import base64
from contextlib import suppress
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import Rejected, ce_headers, decode, decode_json, dumps
from schemas.messages import Result, Task

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
NUMBERS = st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=15,
)
STRUCTURED = [("content-type", b"application/cloudevents+json")]
IDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=256)


@given(JSON)
def test_plain_binary_and_structured_carry_the_same_value(value: Any) -> None:
    """Three ways in, one value out."""
    raw = dumps(value)
    headers = ce_headers(ce_type="t", ce_id="i", source="s", subject="x", time_ms=1)
    event = {"specversion": "1.0", "id": "i", "source": "s", "type": "t"}
    encoded = base64.b64encode(raw).decode()
    assert decode_json(raw, ()).data == value
    assert decode_json(raw, headers).data == value
    assert decode_json(dumps(event | {"data": value}), STRUCTURED).data == value
    assert decode_json(dumps(event | {"data_base64": encoded}), STRUCTURED).data == value


@given(st.binary(max_size=200), st.lists(st.tuples(TEXT, st.binary(max_size=20)), max_size=3), st.booleans())
def test_no_bytes_break_the_reader(value: bytes, headers: list[tuple[str, bytes]], structured: bool) -> None:
    """A message or a Rejected, nothing else."""
    with suppress(Rejected):
        decode(Task, value, headers + STRUCTURED if structured else headers)


@given(JSON, JSON)
def test_no_json_breaks_the_models(value: Any, metadata: Any) -> None:
    """Any JSON in place of the message, its payload or its metadata."""
    whole = {"id": "t", "type": "agent", "target": "a", "payload": value, "metadata": metadata}
    for data in (value, whole):
        with suppress(Rejected):
            decode(Task, dumps(data))


@given(IDS, JSON, st.integers(1, 604_800_000), st.booleans())
def test_a_task_survives_the_wire(task_id: str, payload: Any, timeout: int, cache: bool) -> None:
    """Read, written and read again it is the same task."""
    data = {"id": task_id, "type": "agent", "target": "a", "payload": payload}
    task = decode(Task, orjson.dumps(data | {"metadata": {"timeout": timeout, "cache": cache}}))
    assert (task.payload, task.metadata.timeout, task.metadata.cache) == (payload, timeout, cache)
    assert decode(Task, orjson.dumps({"payload": None} | task.wire())) == task


@given(IDS, st.floats(0, 1), st.floats(0, 1e9), st.integers(0, 253_402_300_799_999))
def test_a_result_survives_the_wire(task_id: str, confidence: float, time_ms: float, timestamp: int) -> None:
    """Floats and times to the last digit."""
    result = Result(
        task_id=task_id, status="success", confidence=confidence, execution_time=time_ms, retries=0, cached=False,
        timestamp=timestamp, metadata={},
    )  # fmt: skip
    assert decode(Result, orjson.dumps(result.wire())) == result
