"""The published contracts: one JSON Schema (2020-12) per message, generated from the models. Pure.

In: the pydantic models of `schemas.messages`. Out: schemas for what may be *sent* (wire names), deterministic, committed under
`schemas/json/`. What a model checks across fields (a task needs a target or capabilities, ...) is written here as JSON Schema
too, so that schema and model accept the same messages; a test holds both to that over a corpus. One difference remains:
JSON Schema calls 5.0 an integer, the models do not. Never writes a file; `parallax docs schemas --write DIR` does.
"""

from __future__ import annotations

from typing import Any

import orjson

from schemas.messages import (
    BUILTIN_PREFIXES,
    AgentCalibration,
    AgentRegistration,
    AgentStanding,
    Aggregate,
    Anomaly,
    ConfidenceDataPoint,
    Control,
    Event,
    HomeState,
    Message,
    Plan,
    PlanMemory,
    PlanResult,
    Result,
    Schedule,
    ScheduleMemory,
    Task,
)
from schemas.messages.agents import NO_SECRET_HEADERS
from schemas.times import MAX_MS

DIALECT = "https://json-schema.org/draft/2020-12/schema"
BASE_ID = "urn:parallax:schema:v1:"
PUBLISHED: tuple[type[Message], ...] = (
    Task,
    Result,
    Plan,
    PlanResult,
    Control,
    AgentRegistration,
    Schedule,
    ConfidenceDataPoint,
    Aggregate,
    Anomaly,
    AgentCalibration,
    Event,
    HomeState,
    AgentStanding,
    PlanMemory,
    ScheduleMemory,
)

RFC3339 = r"^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})$"
ANY_SCHEME = r"^(https?|grpcs?|gateway|a2a|openai|mcp|kafka)://"

Schema = dict[str, Any]


def _given(name: str) -> Schema:
    """The field is present and not null."""
    return {"required": [name], "properties": {name: {"not": {"type": "null"}}}}


def _one_of(first: str, second: str) -> Schema:
    """Exactly one of the two fields is given."""
    return {"oneOf": [_given(first), _given(second)]}


def _is(name: str, value: str) -> Schema:
    """The field is present and has this value."""
    return {"required": [name], "properties": {name: {"const": value}}}


def _in_any_case(word: str) -> str:
    """A pattern for the word in upper and lower case: JSON Schema has no flag for that.

    >>> _in_any_case("te-x")
    '[tT][eE]-[xX]'
    """
    return "".join(f"[{c}{c.upper()}]" if c.isalpha() else c for c in word)


_TIME: list[Schema] = [
    # The pattern beside the format, because most validators take `format` as a remark only.
    {"type": "string", "format": "date-time", "pattern": RFC3339},
    {"type": "integer", "minimum": 0, "maximum": MAX_MS},
]
# The model reads a null as "no metadata".
_METADATA: Schema = {"anyOf": [{"$ref": "#/$defs/TaskMetadata"}, {"type": "null"}], "default": None}
_TASK_RULE: Schema = {
    "if": _is("type", "agent"),
    "then": {"anyOf": [_given("target"), _given("capabilities")]},
    "else": _given("target"),
}
_REGISTRATION_RULES: list[Schema] = [
    {"if": {"not": _given("protocol")}, "then": {"properties": {"endpoint": {"pattern": ANY_SCHEME}}}},
    {"if": _is("protocol", "http"), "then": {"properties": {"endpoint": {"pattern": r"^https?://"}}}},
    {"properties": {"id": {"not": {"pattern": f"^({'|'.join(BUILTIN_PREFIXES)})"}}}},
]
_NO_HEADER = "|".join(_in_any_case(name) for name in sorted(NO_SECRET_HEADERS))
_SECRET_RULES: list[Schema] = [
    _one_of("env", "file"),
    {"if": _is("scheme", "header"), "then": _given("header"), "else": {"not": _given("header")}},
    {"properties": {"header": {"not": {"type": "string", "pattern": f"^({_NO_HEADER})$"}}}},
]
_SLOW = [_given("slowRate"), _given("slowCallDuration")]
_RULES: dict[str, list[Schema]] = {
    "Task": [_TASK_RULE],
    "Control": [{"if": _is("type", "cancel"), "then": _one_of("taskId", "planId")}],
    "SecretRef": _SECRET_RULES,
    "AgentRegistration": _REGISTRATION_RULES,
    "BreakerLimits": [{"anyOf": [{"allOf": _SLOW}, {"not": {"anyOf": _SLOW}}]}],
}


def file_name(model: type[Message]) -> str:
    """The file name of a message's published schema.

    >>> file_name(ConfidenceDataPoint)
    'confidence-data-point.schema.json'
    """
    words = "".join(f"-{c.lower()}" if c.isupper() else c for c in model.__name__).lstrip("-")
    return f"{words}.schema.json"


def schema(model: type[Message]) -> Schema:
    """The JSON Schema of a message as it may be sent.

    >>> schema(Control)["required"]
    ['type']
    """
    body = model.model_json_schema(by_alias=True, mode="validation")
    definitions = body.pop("$defs", {})
    for name, definition in [(model.__name__, body), *definitions.items()]:
        _refine(name, definition)
    noun = file_name(model).removesuffix(".schema.json")
    head = {"$schema": DIALECT, "$id": BASE_ID + noun, "title": model.__name__}
    whole = head | {key: value for key, value in body.items() if key not in head}
    return whole | {"$defs": definitions} if definitions else whole


def _refine(name: str, body: Schema) -> None:
    """Adds what pydantic does not generate: rules across fields and exact times; removes titles that repeat names."""
    for field in body.get("properties", {}).values():
        field.pop("title", None)
        if field.get("anyOf", [{}])[0].get("format") == "date-time":
            field["anyOf"] = _TIME
    if name == "Task":
        body["properties"]["metadata"] = _METADATA
    if name in _RULES:
        body["allOf"] = _RULES[name]


def documents() -> dict[str, bytes]:
    """All published schemas: file name to file content."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    return {file_name(model): orjson.dumps(schema(model), option=options) for model in PUBLISHED}
