"""What a function may return."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from agents_io.errors import AgentError, AnswerTooLarge, BadResponse
from agents_io.protocols.functions.rules.results import read_result
from schemas.exact_json import ExactFloat

ROUND: list[Any] = []
ROUND.extend([ROUND, ROUND])


def nested(depth: int) -> Any:
    """A list in a list in a list."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("returned", "value", "confidence"),
    [
        (None, None, 1.0),
        ({"a": (1, 2)}, {"a": [1, 2]}, 1.0),
        (("x", 0), "x", 0.0),
        ({"value": None, "confidence": 0.5}, None, 0.5),
        ({"value": 1, "confidence": 0.5, "more": 2}, {"value": 1, "confidence": 0.5, "more": 2}, 1.0),
        ((1, 2, 3), [1, 2, 3], 1.0),
        ([1, 2], [1, 2], 1.0),
        (nested(100), nested(100), 1.0),
    ],
)
def test_what_is_an_answer(returned: Any, value: Any, confidence: float) -> None:
    """A pair has a confidence, and a dict of exactly those two."""
    found = read_result(returned, 10_000)
    assert (found.value, found.confidence) == (value, confidence)


@pytest.mark.parametrize(
    ("returned", "value"),
    [
        (2**70, 2**70),
        ({"n": [-(2**64) - 1]}, {"n": [-(2**64) - 1]}),
        (ExactFloat("0.12345678901234567891"), ExactFloat("0.12345678901234567891")),
        ("cut \ud83d", "cut \ufffd"),
        ({"\ud83d": "\ud83d\ude00"}, {"\ufffd": "\U0001f600"}),
    ],
)
def test_large_integers_and_cut_text_are_answers(returned: Any, value: Any) -> None:
    """Integers keep their digits; half a surrogate pair becomes U+FFFD."""
    assert read_result(returned, 10_000).value == value


@pytest.mark.parametrize(
    "returned",
    [
        float("nan"),
        [float("inf")],
        {1: 2},
        {"a": {1, 2}},
        b"bytes",
        object(),
        datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        10**5000,
        ("x", float("nan")),
        ("x", 2),
        ("x", True),
        ("x", "0.5"),
        {"value": 1, "confidence": None},
        nested(200),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_json_is_a_bad_response(returned: Any) -> None:
    """Never a silent null."""
    with pytest.raises(AgentError) as caught:
        read_result(returned, 10_000)
    assert type(caught.value) is BadResponse
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("returned", ["x" * 10_000, list(range(5000)), ROUND], ids=["text", "list", "circle"])
def test_what_is_too_large_is_refused_before_it_costs_more(returned: Any) -> None:
    """Circles too."""
    with pytest.raises(AnswerTooLarge):
        read_result(returned, 1000)


def test_the_value_is_a_copy() -> None:
    """What the function does with its object later changes nothing."""
    mine = {"n": [1]}
    found = read_result(mine, 1000)
    mine["n"].append(2)
    assert found.value == {"n": [1]}
