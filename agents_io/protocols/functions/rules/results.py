"""A function's result as an answer. Pure.

In: any Python object. Out: an `Answer` whose value is a copy made of plain JSON, or the error.

A pair is `(value, confidence)`; a dict of exactly `value` and `confidence` is the same. Anything else is the value,
with confidence 1. Only JSON types are accepted: a date, a NaN or an object is an error, never a silent null.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

from agents_io.errors import AnswerTooLarge, BadResponse
from agents_io.rules.answer import MAX_DEPTH, checked_confidence, excerpt
from agents_io.transport import Answer
from schemas.exact_json import ExactFloat, dumps, loads

_PAIR = frozenset(("value", "confidence"))


def read_result(returned: Any, max_bytes: int) -> Answer:
    """The answer in what a function returned. Raises `BadResponse`, `AnswerTooLarge`.

    >>> read_result(("yes", 0.75), 100)
    Answer(value='yes', confidence=0.75, metadata={})
    >>> read_result({"value": [1, 2], "confidence": 1}, 100), read_result("plain", 100).confidence
    (Answer(value=[1, 2], confidence=1.0, metadata={}), 1.0)
    """
    value, confidence = returned, 1.0
    if isinstance(returned, tuple) and len(returned) == 2:
        value, confidence = returned[0], _confidence(returned[1])
    elif isinstance(returned, dict) and returned.keys() == _PAIR:
        value, confidence = returned["value"], _confidence(returned["confidence"])
    _check(value, max_bytes)
    try:
        raw = dumps(value)
    except (TypeError, RecursionError) as error:
        raise BadResponse(f"the function returned what is not JSON: {excerpt(str(error).encode())}") from None
    if len(raw) > max_bytes:
        raise AnswerTooLarge(f"the function returned {len(raw)} bytes of JSON, more than {max_bytes}")
    return Answer(loads(raw), confidence)


def _confidence(found: Any) -> float:
    try:
        return checked_confidence(found)
    except BadResponse:
        raise BadResponse(f"the function's confidence must be a number in [0, 1], not {_kind(found)}") from None


def _check(value: Any, most: int) -> None:
    """Checks level by level: deep nesting cannot exhaust the stack. Every node counts as a byte at least, so a cycle
    ends.
    """
    level = [value]
    seen = 0
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        seen += len(level)
        if seen > most:
            raise AnswerTooLarge(f"the function returned more than {most} bytes of JSON")
        for node in level:
            if isinstance(node, dict):
                if not all(isinstance(key, str) for key in node):
                    raise BadResponse("the function returned a dict with a key that is not a string")
                below.extend(node.values())
            elif isinstance(node, (list, tuple)):
                below.extend(node)
            elif isinstance(node, float):
                if not isfinite(node) and not isinstance(node, ExactFloat):
                    raise BadResponse(f"the function returned a number that JSON cannot hold: {node!r}")
            elif node is not None and not isinstance(node, (str, int)):
                raise BadResponse(f"the function returned what is not JSON: {_kind(node)}")
        if not below:
            return
        level = below
    raise BadResponse(f"the function returned something nested deeper than {MAX_DEPTH}")


def _kind(value: Any) -> str:
    return repr(value)[:40] if isinstance(value, (int, float)) else f"a {type(value).__name__}"[:60]
