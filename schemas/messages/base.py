"""The base of all messages: their form on the wire, field types, and errors as sentences."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticUseDefault

from schemas.exact_json import ExactFloat
from schemas.times import format_time, parse_time


def _null_is_absent(value: Any) -> Any:
    if value is None:
        raise PydanticUseDefault
    return value


OrDefault = BeforeValidator(_null_is_absent)
"""For a field with a default: `null`, which typed clients write for unset fields, means the default."""
MAX_DURATION_MS = 7 * 24 * 3600 * 1000
Timestamp = Annotated[
    int,
    BeforeValidator(parse_time),
    PlainSerializer(format_time, return_type=str),
    WithJsonSchema({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "integer", "minimum": 0}]}),
]
Id = Annotated[str, Field(min_length=1, max_length=256)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
Ratio = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
DurationMs = Annotated[int, Field(ge=1, le=MAX_DURATION_MS)]
Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Message(BaseModel):
    """Base of all messages: camelCase on the wire, frozen, strict types, unknown fields ignored."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        frozen=True,
        strict=True,
        extra="ignore",
    )

    def wire(self) -> dict[str, Any]:
        """The JSON-able form: camelCase names, RFC 3339 times, unset fields left out."""
        return self.model_dump(by_alias=True, exclude_none=True)


MAX_SHOWN = 40
SECRETIVE = frozenset(("auth", "headers", "query"))
"""Fields whose values errors never quote: they hold secrets, or references to them."""


def explain(error: ValidationError, *, quote: bool = False) -> str:
    """One sentence per fault, each naming field (as on the wire) and reason; at most three.

    `quote`: also quote the given value, shortened; never for fields that may hold a secret.

    >>> from schemas.messages import Task
    >>> try: Task.model_validate({"id": "t", "type": "agnt", "payload": 1, "target": "a"})
    ... except ValidationError as e: print(explain(e, quote=True))
    type: input should be 'agent', 'pattern', 'http' or 'function', not 'agnt'
    """
    faults = error.errors(include_url=False, include_context=False)
    lines = []
    for fault in faults[:3]:
        where = ".".join(str(part) for part in fault["loc"])
        reason = fault["msg"].removeprefix("Value error, ")
        reason = reason if fault["type"] == "value_error" else reason[:1].lower() + reason[1:]
        withheld = fault["type"] == "missing" or ", not " in reason or SECRETIVE.intersection(fault["loc"])
        if quote and not withheld:
            reason += _given(fault["input"], reason)
        lines.append(f"{where}: {reason}" if where else reason)
    if len(faults) > 3:
        lines.append(f"and {len(faults) - 3} more")
    return "; ".join(lines)


def _given(value: Any, reason: str) -> str:
    """The given value, unless the reason contains it already or concerns several fields."""
    text = shown(value)
    if isinstance(value, (dict, list)):
        return f", not {text}" if "should be" in reason else ""
    return "" if text.rstrip(".").strip("'\"") in reason and text != "''" else f", not {text}"


def shown(value: Any) -> str:
    """A JSON value for an error: short, printable, without the part of a URL before its @.

    >>> shown("roulette"), shown(None), shown(True), shown("x" * 50), shown("https://me:secret@host/")
    ("'roulette'", 'null', 'true', "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...' (50 characters)", "'https://***@host/'")
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        text = re.sub(r"//[^/?#]*@", "//***@", value[: 4 * MAX_SHOWN])
        return repr(text) if len(text) <= MAX_SHOWN else f"{(text[:MAX_SHOWN] + '...')!r} ({len(value)} characters)"
    if isinstance(value, (int, float)):
        text = value.text if isinstance(value, ExactFloat) else str(value)
        return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}... ({len(text)} digits)"
    return "an object" if isinstance(value, dict) else "an array"
