"""Finds the JSON in a textual answer of a model, a tool or an agent. Pure.

In: text as language models write it. Out: the JSON in it, or `NOTHING`. Five cases, the first that fits wins:

    1 the whole text is JSON                         2 it is JSON within one Markdown fence
    3 one JSON object stands among other words       4 several do, and exactly one of them holds a confidence
    5 several hold the same one

Thoughts (`<think>...</think>` and other models' marks, also without the opening one) and the channel marks of Harmony
are removed before. Two different objects with a confidence are no answer: neither is known to be the meant one.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import Any

from agents_io.errors import BadResponse
from agents_io.rules.answer import load_json
from schemas.exact_json import dumps, loads_lines

NOTHING = object()
MAX_OBJECTS = 64
MAX_TOKENS = 1_000_000
"""Brackets and strings that are looked at while objects are found: a fifth of a second."""
_TAGS = "think|thinking|thought|reasoning|reflection|analysis|scratchpad|seed:think|antthinking"
_PAIRS = ((r"\[THINK\]", r"\[/THINK\]"), ("◁think▷", "◁/think▷"), (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"))
"""Marks of Magistral, Kimi, and the models trained on OpenThoughts."""
_THOUGHT = re.compile(
    rf"\A\s*(?:<({_TAGS})(?:\s[^>]{{0,200}})?>.*?</\1>|{'|'.join(f'{begin}.*?{end}' for begin, end in _PAIRS)})\s*",
    re.DOTALL | re.IGNORECASE,
)
_THOUGHT_END = re.compile(rf"</(?:{_TAGS})>|{'|'.join(end for _, end in _PAIRS)}", re.IGNORECASE)
_MARK = re.compile(r"<\|[a-z_]{1,20}\|>")
_FENCE = re.compile(r"```[ \t]*+(?:[A-Za-z0-9_+-]++\s)?(.*?)```", re.DOTALL)


def without_thoughts(text: str) -> str:
    """The text a model meant for its reader.

    >>> without_thoughts("so it is</think>\\n42"), without_thoughts("<think>a</think>42")
    ('42', '42')
    """
    while (thought := _THOUGHT.match(text)) is not None:
        text = text[thought.end() :]
    start = text.lstrip()[:1]
    if start not in ("{", "["):  # a tag within the answer's own strings does not count
        ends = list(_THOUGHT_END.finditer(text))
        if ends:
            text = text[ends[-1].end() :]
        if "<|message|>" in text:
            text = text.rpartition("<|message|>")[2]
    return _MARK.sub("", text).strip() if "<|" in text[:40] or "<|" in text[-40:] else text.strip()


def find_json(text: str) -> Any:
    """The JSON the text holds, or `NOTHING`. Raises `BadResponse`: two different ones, or one nested too deep.

    >>> find_json('Here it is:\\n```json\\n{"value": 1, "confidence": 1}\\n```\\nDone.')
    {'value': 1, 'confidence': 1}
    >>> find_json("plain words") is NOTHING
    True
    """
    text = without_thoughts(text)
    if (whole := _loaded(text)) is not NOTHING:
        return whole
    fenced = [found for match in _FENCE.finditer(text) if (found := _loaded(match[1])) is not NOTHING]
    if len(fenced) == 1 and isinstance(fenced[0], (dict, list)):
        return fenced[0]
    objects = _objects(text)
    sure = [found for found in objects if _has_confidence(found)]
    candidates = sure or objects
    if not candidates:
        return NOTHING
    if any(other != candidates[0] for other in candidates[1:]):
        if not sure:
            return NOTHING
        raise BadResponse(f"the answer holds {len(candidates)} different JSON objects with a confidence")
    return candidates[0]


def content_of(text: str) -> Any:
    """A textual answer: the JSON it is, or the one object with a confidence in it, or else the text. Raises
    `BadResponse`.

    >>> content_of('Sure: {"value": 1, "confidence": 1}'), content_of("it is {4}")
    ({'value': 1, 'confidence': 1}, 'it is {4}')
    """
    answer = without_thoughts(text)
    is_json = answer[:1] in ("{", "[")
    if is_json and (whole := _loaded(answer)) is not NOTHING:
        return whole
    if '"confidence"' not in text.lower():
        return text
    found = find_json(text)
    if isinstance(found, dict):
        return found
    return load_json(answer.encode("utf-8", "replace")) if is_json else text  # meant as an answer, but invalid


def _objects(text: str) -> list[dict[str, Any]]:
    """The outermost JSON objects among the words."""
    found: list[dict[str, Any]] = []
    at, left = 0, MAX_TOKENS
    for _ in range(MAX_OBJECTS):
        at = text.find("{", at)
        if at < 0:
            break
        end, seen = _end_of(text, at, left)
        left -= seen
        data = NOTHING if end is None else _loaded(text[at:end])
        if isinstance(data, dict):
            found.append(data)
            at = end or at + 1
        else:
            at += 1
    return found


def _end_of(text: str, start: int, most: int) -> tuple[int | None, int]:
    """The index at which the bracket at `start` is closed, ignoring strings; and the tokens seen, at most `most`."""
    depth = seen = 0
    for match in islice(_BRACKET_OR_STRING.finditer(text, start), most):
        seen += 1
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.end(), seen
    return None, seen


# A string without an end goes on to the end of the text: looking for one from each quote of it would take its square.
_BRACKET_OR_STRING = re.compile(r'"(?:[^"\\]++|\\.?)*+"?|[{}]', re.DOTALL)


def _loaded(text: str) -> Any:
    """Parsed as strict JSON, else with the line breaks that models leave within strings."""
    raw = text.strip()
    if raw[:1] not in ("{", "[", '"'):
        return NOTHING
    try:
        return load_json(raw.encode("utf-8", "replace"))
    except BadResponse as error:
        if "nested deeper" in error.message:
            raise
    if "\n" not in raw and "\t" not in raw:
        return NOTHING
    try:
        return load_json(dumps(loads_lines(raw)))
    except (ValueError, TypeError):
        return NOTHING


def _has_confidence(found: dict[str, Any]) -> bool:
    return any(name.lower() == "confidence" for name in found)
