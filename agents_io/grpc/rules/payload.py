"""A task's payload for agents over protocol buffers (`AgentRequest`, and the gateway's `TaskRequest`), and their
answer. Pure.

In: a `Call`. Out: the message's fields filled in. `task_description` is `payload.task`, else `payload.description`,
else "analyze". `data` is `payload.data` if there is one, else the payload without its context. A value that is not an
object travels as `{"value": ...}`. Numbers become doubles, the only ones of google.protobuf.Struct: a number that does
not fit a double is refused. Values of `context` other than text travel as JSON, with every digit.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct, Value

from agents_io.errors import AnswerTooLarge, BadResponse, Unsupported
from agents_io.rules.answer import Path, answer_beside
from agents_io.transport import Answer, Call
from schemas.exact_json import ExactFloat, dumps, loads
from schemas.pb.confidence_pb2 import AgentRequest, ConfidenceResult
from schemas.pb.gateway_pb2 import TaskRequest

EXACT_INTEGERS = 2**53
"""Up to here every integer is a double; beyond it only some are."""
MAX_NESTING = 95
"""Messages within messages; receivers refuse more than 100. An object takes three of them, a list two."""
MAX_SHOWN = 40
_MAX_INT32 = 2**31 - 1


def fill_request(request: AgentRequest | TaskRequest, call: Call) -> None:
    """Fill in what the agent receives of its task. Raises `Unsupported`: nested too deep, or a number that does not fit
    a double.

    >>> request = AgentRequest()
    >>> fill_request(request, Call("t1", "t1", b'{"task": "sum", "data": {"n": 1}}', 2.5))
    >>> request.task_id, request.task_description, request.data["n"], request.timeout_ms
    ('t1', 'sum', 1.0, 2500)
    """
    payload = loads(call.body)
    request.task_id = call.task_id
    request.task_description = "analyze"
    request.timeout_ms = min(max(1, int(call.timeout_s * 1000)), _MAX_INT32)
    request.pattern_name = call.pattern_name
    data, where = payload, "payload"
    if isinstance(payload, dict):
        request.task_description = _text(payload, "task") or _text(payload, "description") or "analyze"
        context = payload.get("context")
        if isinstance(context, dict):
            for key, value in context.items():
                request.context[key] = value if isinstance(value, str) else dumps(value).decode()
            data = {key: value for key, value in payload.items() if key != "context"}
        if payload.get("data") is not None:
            data, where = payload["data"], "payload.data"
    try:
        _fill_struct(request.data, data if isinstance(data, dict) else {"value": data}, 1)
    except _Inexact as error:
        raise Unsupported(
            f"{_found_at(data, where)}: {error} does not fit a double, the only number of google.protobuf.Struct; "
            "send it as a string, or in payload.context"
        ) from None


def parse_result(raw: bytes, max_value_bytes: int, value_path: Path | None = None) -> Answer:
    """The answer in the bytes of a `ConfidenceResult`. Raises `BadResponse`, `AnswerTooLarge`.

    >>> parse_result(ConfidenceResult(value_json="[1]", confidence=0.5, reasoning="so").SerializeToString(), 100)
    Answer(value=[1], confidence=0.5, metadata={'reasoning': 'so'})
    """
    try:
        result = ConfidenceResult.FromString(raw)
    except DecodeError:
        raise BadResponse(f"the answer is not a ConfidenceResult message, {len(raw)} bytes") from None
    value_json = result.value_json.encode()
    if len(value_json) > max_value_bytes:
        raise AnswerTooLarge(f"the answer has {len(value_json)} bytes, more than {max_value_bytes}")
    rest: dict[str, Any] = dict(result.metadata)
    if result.reasoning:
        rest["reasoning"] = result.reasoning
    if result.uncertainties:
        rest["uncertainties"] = list(result.uncertainties)
    if result.agent_id:
        rest["agentId"] = result.agent_id
    if result.HasField("timestamp"):
        rest["timestamp"] = result.timestamp.ToJsonString()
    return answer_beside(value_json, result.confidence, rest, value_path)


class _Inexact(Exception):
    """A number that a double would change."""


def _inexact(value: Any) -> bool:
    if isinstance(value, int):
        return not -EXACT_INTEGERS <= value <= EXACT_INTEGERS and int(float(value)) != value
    return isinstance(value, ExactFloat)


def _shown(value: Any) -> str:
    text = value.text if isinstance(value, ExactFloat) else str(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _found_at(data: Any, where: str) -> str:
    """The field of the first number that a double would change. It looks no deeper than what was filled in before."""
    if _inexact(data):
        return where
    below = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return next((found for key, value in below if (found := _found_at(value, f"{where}.{key}"[:200]))), "")


def _text(payload: dict[str, Any], name: str) -> str | None:
    found = payload.get(name)
    return found if isinstance(found, str) else None


def _fill_struct(struct: Struct, data: dict[str, Any], depth: int) -> None:
    if depth > MAX_NESTING:
        raise Unsupported("payload: is nested deeper than protocol buffers carry")
    struct.SetInParent()
    fields = struct.fields
    for key, value in data.items():
        _fill_value(fields[key], value, depth)


def _fill_value(into: Value, value: Any, depth: int) -> None:
    """Twice as fast as `Struct.update`, which dominates the cost of a call."""
    if isinstance(value, str):
        into.string_value = value
    elif value is None:
        into.null_value = 0  # type: ignore[assignment]
    elif isinstance(value, bool):
        into.bool_value = value
    elif isinstance(value, (int, float)):
        if _inexact(value):
            raise _Inexact(_shown(value))
        into.number_value = value
    elif isinstance(value, dict):
        _fill_struct(into.struct_value, value, depth + 3)
    else:
        if depth > MAX_NESTING:
            raise Unsupported("payload: is nested deeper than protocol buffers carry")
        into.list_value.SetInParent()
        values = into.list_value.values
        for item in value:
            _fill_value(values.add(), item, depth + 2)
