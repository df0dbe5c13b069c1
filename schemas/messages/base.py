"""What all messages share: their form on the wire, the plain types fields are made of, and errors as sentences."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, WithJsonSchema
from pydantic.alias_generators import to_camel

from schemas.times import format_time, parse_time

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
    """What all messages share: camelCase on the wire, frozen, strict types, unknown fields ignored."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        frozen=True,
        strict=True,
        extra="ignore",
    )

    def wire(self) -> dict[str, Any]:
        """The JSON-able form: camelCase names, RFC 3339 times, nothing that is unset."""
        return self.model_dump(by_alias=True, exclude_none=True)


def explain(error: ValidationError) -> str:
    """One sentence per fault, each naming field (as on the wire) and reason; at most three, secrets never quoted.

    >>> from schemas.messages import Task
    >>> try: Task.model_validate({"id": "t", "type": "agnt", "payload": 1, "target": "a"})
    ... except ValidationError as e: print(explain(e))
    type: input should be 'agent', 'pattern', 'http' or 'function'
    """
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    lines = []
    for fault in faults[:3]:
        where = ".".join(str(part) for part in fault["loc"])
        reason = fault["msg"].removeprefix("Value error, ")
        reason = reason if fault["type"] == "value_error" else reason[:1].lower() + reason[1:]
        lines.append(f"{where}: {reason}" if where else reason)
    if len(faults) > 3:
        lines.append(f"and {len(faults) - 3} more")
    return "; ".join(lines)
