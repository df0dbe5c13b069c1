"""Any payload arrives as it was or is refused before the call; any bytes are an answer or a clear error."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import orjson
import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st

from agents_io.errors import AnswerTooLarge, BadResponse, Unsupported
from agents_io.grpc.rules.payload import fill_request, parse_result
from agents_io.rules.answer import ROUNDING
from agents_io.transport import Call
from schemas.pb.confidence_pb2 import AgentRequest, ConfidenceResult

# Numbers a double can carry: others lose digits, as Struct has no others.
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_any_data_arrives_as_it_was(data: Any) -> None:
    """Read by a stock decoder from the bytes."""
    request = AgentRequest()
    fill_request(request, Call("t", "t", orjson.dumps({"data": data}), 1.0))
    arrived = MessageToDict(AgentRequest.FromString(request.SerializeToString()).data)
    sent = data if isinstance(data, dict) else {"data": None} if data is None else {"value": data}
    assert arrived == sent


@given(st.integers(1, 200), st.booleans())
def test_however_deep_a_payload_is_it_is_refused_here_or_read_there(depth: int, lists: bool) -> None:
    """Never sent to be refused by the agent's decoder."""
    data: Any = 1
    for _ in range(depth):
        data = [data] if lists else {"a": data}
    request = AgentRequest()
    try:
        fill_request(request, Call("t", "t", orjson.dumps({"data": data}), 1.0))
    except Unsupported:
        assert depth > 30
    else:
        AgentRequest.FromString(request.SerializeToString())


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_a_clear_error(raw: bytes) -> None:
    """Nothing else comes out of it."""
    with contextlib.suppress(BadResponse, AnswerTooLarge):
        assert 0 <= parse_result(raw, 100).confidence <= 1


@given(JSON, st.floats())
def test_a_confidence_is_a_number_from_0_to_1_or_there_is_no_answer(value: Any, confidence: float) -> None:
    """NaN and infinities are none."""
    raw = ConfidenceResult(value_json=orjson.dumps(value).decode(), confidence=confidence).SerializeToString()
    if math.isfinite(confidence) and 0 <= confidence <= 1 + ROUNDING:
        answer = parse_result(raw, 100_000)
        assert (answer.value, answer.confidence) == (value, min(1.0, confidence))
    else:
        with pytest.raises(BadResponse, match="confidence"):
            parse_result(raw, 100_000)
