"""A payload for agents that want text: the payload's text, its data and its context. Pure.

In: a payload as JSON. Out: its parts, by the convention of existing agents (`task` or `description` is the text, `data`
the data, `context` the results of earlier steps of a plan), or the whole as one text. Nothing is shortened or added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from schemas.exact_json import dumps, loads

_TEXT = ("task", "description")


@dataclass(frozen=True, slots=True)
class PromptParts:
    """The parts of a payload. `text`: None without one; `data`, `context`: any JSON, None without them."""

    text: str | None
    data: Any
    context: Any = None


def read_payload(body: bytes) -> Any:
    """The payload as parsed JSON. Raises ValueError."""
    return loads(body) if body else None


def prompt_parts(payload: Any) -> PromptParts:
    """The parts of a payload. Without `data`, the data is everything beside text and context.

    >>> prompt_parts({"task": "summarize", "data": {"n": 1}})
    PromptParts(text='summarize', data={'n': 1}, context=None)
    >>> prompt_parts({"n": 1}), prompt_parts("hello")
    (PromptParts(text=None, data={'n': 1}, context=None), PromptParts(text='hello', data=None, context=None))
    """
    if isinstance(payload, str):
        return PromptParts(payload, None)
    if not isinstance(payload, dict):
        return PromptParts(None, payload)
    text = next((payload[name] for name in _TEXT if isinstance(payload.get(name), str) and payload[name]), None)
    rest = {key: value for key, value in payload.items() if key not in (*_TEXT, "context")}
    data = payload.get("data", rest or None)
    return PromptParts(text, payload if text is None and "context" not in payload else data, payload.get("context"))


def as_text(payload: Any) -> str:
    """The whole payload as one text: first its text, then data and context as JSON.

    >>> as_text({"task": "add", "data": [1, 2]})
    'add\\n\\nData:\\n[1,2]'
    >>> as_text({"n": 1})
    '{"n":1}'
    """
    parts = prompt_parts(payload)
    if parts.text is None and parts.context is None:
        return dumps(payload).decode()
    blocks = [parts.text] if parts.text is not None else []
    for name, value in (("Data", parts.data), ("Context", parts.context)):
        if value is not None:
            blocks.append(f"{name}:\n{dumps(value).decode()}")
    return "\n\n".join(blocks)
