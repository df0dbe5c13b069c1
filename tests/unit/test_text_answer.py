"""The JSON in a model's words: found in time that grows with the text, whatever the text is."""

from __future__ import annotations

import time
from typing import Any

import pytest

from agents_io.rules.text_answer import NOTHING, find_json

ANSWER = {"value": 1, "confidence": 1}
LENGTH = 300_000


@pytest.mark.parametrize(
    "text",
    [
        '{"log": "' + '\\"' * LENGTH,  # a tool's output, cut off
        '{"log": "' + '\\"' * LENGTH + "\\",
        "{" * LENGTH,  # a model that repeats itself
        "{" * 60 + "{}" * LENGTH,
        "<think></think>" * (LENGTH // 10),
        "```json\n" * (LENGTH // 10),
        "```" + " " * LENGTH + "x",
        "```" + "a" * LENGTH,
        " " * LENGTH + "x",
    ],
    ids=lambda text: text[:12],
)
def test_no_text_takes_long(text: str) -> None:
    """The worker does nothing else meanwhile: with the square of the length, a text of 100 kB took 20 s."""
    begun = time.process_time()
    assert find_json(text) is NOTHING
    assert time.process_time() - begun < 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('it is 5" long: {"value": 1, "confidence": 1}', ANSWER),
        ('{"value": 1, "confidence": 1} and 5" wide', ANSWER),
        ('{ not json " } {"value": 1, "confidence": 1}', ANSWER),
        ('see {"value": "a } \\\\" {", "confidence": 1}"', NOTHING),
        ('see {"value": "a } \\" {", "confidence": 1} ok', {"value": 'a } " {', "confidence": 1}),
        ('{"value": "no end', NOTHING),
        ("{}" * 100, {}),
        ('``` {"value": 1}```', {"value": 1}),
        ('```json \n {"value": 1}\n```', {"value": 1}),
        ('a ```{"value": 1}``` b', {"value": 1}),
    ],
)
def test_quotes_and_brackets_among_the_words(text: str, expected: Any) -> None:
    """Those within a string do not count; a string without an end closes no object."""
    assert find_json(text) == expected
