"""The committed schemas are in step with the models, and accept and refuse the same messages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema import Draft7Validator, Draft202012Validator

import schemas
from schemas.codec import Rejected, decode
from schemas.contract import PUBLISHED, documents, file_name, schema
from schemas.examples import EXAMPLES
from schemas.messages import Message
from schemas.topics import TOPICS

DIRECTORY = Path(schemas.__file__).parent / "json"
MODELS = {model.__name__: model for model in PUBLISHED}
VALIDATORS = {name: Draft202012Validator(schema(model)) for name, model in MODELS.items()}
OLDER_VALIDATORS = {name: Draft7Validator(schema(model)) for name, model in MODELS.items()}
"""AsyncAPI's tools need to know draft-07 only."""

TASK = EXAMPLES["Task"]
MISSING = object()


def changed(name: str, **fields: Any) -> tuple[str, dict[str, Any]]:
    """An example with fields replaced, or taken away."""
    data = EXAMPLES[name] | fields
    return name, {key: value for key, value in data.items() if value is not MISSING}


GOOD = [
    *EXAMPLES.items(),
    changed("Task", payload=None),
    changed("Task", metadata=None, planId=None, context=None, unknown=1),
    changed("Task", target=MISSING, capabilities=["c"]),
    changed("Task", target=None, capabilities=["c"]),
    changed("Task", type="function", plan_id=5),
    changed("Task", id="ü" * 256),
    changed("Task", metadata={"timeout": 1, "retries": 0, "mine": [], "headers": {"a": "b"}, "idempotencyKey": "k!"}),
    changed("AgentRegistration", endpoint="h:1", protocol="grpc"),
    changed("AgentRegistration", protocol=None),
    changed("AgentRegistration", auth={"env": "A", "file": None}, limits={"maxRequests": 1}),
    changed("ConfidenceDataPoint", feedback=True, taskId="t"),
    changed("AgentRegistration", auth={"env": "A", "scheme": "header", "header": "X-Api-Key"}),
    changed("AgentRegistration", auth={"env": "A", "scheme": "bearer", "header": None}),
    changed("Control", taskId=None, planId="p"),
    changed("Control", type="cache-clear", taskId=MISSING, agentId="a1"),
    changed("Control", type="cache-clear", taskId=MISSING),
    changed("Result", timestamp=0),
    changed("Result", timestamp="2026-11-22 13:37:00+01:00"),
    changed("Result", status="failure", error={"code": "timeout", "message": "m", "retryable": True}),
]
BAD = [
    changed("Task", id=MISSING),
    changed("Task", id=""),
    changed("Task", id="x" * 257),
    changed("Task", id=5),
    changed("Task", payload=MISSING),
    changed("Task", type="agnt"),
    changed("Task", target=MISSING),
    changed("Task", target=None, capabilities=None),
    changed("Task", type="http", target=MISSING, capabilities=["c"]),
    changed("Task", target=MISSING, capabilities=[]),
    changed("Task", metadata=[]),
    changed("Task", metadata={"timeout": 0}),
    changed("Task", metadata={"timeout": 2.5}),
    changed("Task", metadata={"cache": "yes"}),
    changed("Task", metadata={"idempotencyKey": "a b"}),
    changed("Task", metadata={"method": "TRACE"}),
    changed("Plan", tasks=[]),
    changed("Plan", tasks=[{**TASK, "target": None}]),
    changed("Plan", kind="loop"),
    changed("AgentRegistration", endpoint="h:1"),
    changed("AgentRegistration", endpoint="ftp://h:1"),
    changed("AgentRegistration", endpoint="grpc://h:1", protocol="http"),
    changed("AgentRegistration", auth={"env": "A", "file": "b"}),
    changed("AgentRegistration", auth={}),
    changed("AgentRegistration", limits={"maxConcurrency": 0}),
    changed("AgentRegistration", auth={"env": "A", "scheme": "header"}),
    changed("AgentRegistration", auth={"env": "A", "header": "X-Api-Key"}),
    changed("AgentRegistration", auth={"env": "A", "scheme": "header", "header": "Content-Type"}),
    changed("AgentRegistration", auth={"env": "A", "scheme": "header", "header": "X Api"}),
    changed("AgentRegistration", id="function:mine"),
    changed("Control", taskId=MISSING),
    changed("Control", planId="p"),
    changed("Control", type="stop"),
    changed("Result", timestamp="yesterday"),
    changed("Result", timestamp="2026-11-22"),
    changed("Result", timestamp="2026-11-22T13:37:00"),
    changed("Result", timestamp=-1),
    changed("Result", timestamp=10**15),
    changed("Result", timestamp=True),
    changed("Result", confidence=1.5),
    changed("Result", retries=-1),
    changed("Result", error={"code": "nope", "message": "m", "retryable": True}),
    changed("ConfidenceDataPoint", confidence=-0.1),
    changed("ConfidenceDataPoint", confidence="0.5"),
    changed("ConfidenceDataPoint", success=1),
    changed("Aggregate", variance=0.3),
    changed("Aggregate", interval="week"),
    changed("Anomaly", details={}),
    changed("AgentCalibration", table=[0.5]),
    changed("ConfidenceDataPoint", feedback="yes"),
    changed("Event", type="task:eaten"),
]


def accepted(name: str, data: Any) -> bool:
    """What the model says."""
    try:
        decode(MODELS[name], orjson.dumps(data))
    except Rejected:
        return False
    return True


@pytest.mark.parametrize(("name", "data"), GOOD)
def test_schema_and_model_accept_the_same(name: str, data: dict[str, Any]) -> None:
    """Good messages."""
    assert list(VALIDATORS[name].iter_errors(data)) == []
    assert list(OLDER_VALIDATORS[name].iter_errors(data)) == []
    assert accepted(name, data)


@pytest.mark.parametrize(("name", "data"), BAD)
def test_schema_and_model_refuse_the_same(name: str, data: dict[str, Any]) -> None:
    """Bad messages."""
    assert not VALIDATORS[name].is_valid(data)
    assert not OLDER_VALIDATORS[name].is_valid(data)
    assert not accepted(name, data)


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_required_field_may_be_missing_and_no_object_is_a_string(name: str) -> None:
    """Each required field is taken away in turn."""
    for field in schema(MODELS[name])["required"]:
        _, data = changed(name, **{field: MISSING})
        assert not VALIDATORS[name].is_valid(data)
        assert not accepted(name, data)
    assert not VALIDATORS[name].is_valid("x")


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_we_write_fits_the_schema(name: str) -> None:
    """The wire form of a message that was read is valid again."""
    message: Message = decode(MODELS[name], orjson.dumps(EXAMPLES[name]))
    wire = message.wire()
    if name == "Task":
        wire.setdefault("payload", None)
    assert list(VALIDATORS[name].iter_errors(wire)) == []


def test_the_committed_files_are_in_step() -> None:
    """Regenerate with `make schemas`."""
    committed = {path.name: path.read_bytes() for path in DIRECTORY.iterdir()}
    assert committed == documents()


def test_every_schema_is_valid_and_every_topic_has_one() -> None:
    """Draft 2020-12, an id and a title each; ids differ."""
    for model in PUBLISHED:
        Draft202012Validator.check_schema(schema(model))
        assert schema(model)["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        assert schema(model)["$id"] == f"urn:parallax:schema:v1:{file_name(model).removesuffix('.schema.json')}"
    assert {topic.message for topic in TOPICS} <= set(PUBLISHED)
    assert len({schema(model)["$id"] for model in PUBLISHED}) == len(PUBLISHED)
    assert {schema(model)["title"] for model in PUBLISHED} == set(MODELS)


COMMON = {
    "$ref", "title", "description", "default", "type", "enum", "const", "format", "pattern", "minLength", "maxLength",
    "minimum", "maximum", "exclusiveMinimum", "items", "minItems", "maxItems", "properties", "required",
    "additionalProperties", "allOf", "anyOf", "oneOf", "not", "if", "then", "else",
}  # fmt: skip
"""Words that mean the same in draft-07 and in 2020-12 (`items` as an object, not as a list)."""
NAMED = ("properties", "$defs")


def subschemas(body: Any) -> Iterator[dict[str, Any]]:
    """A schema and all within it."""
    if not isinstance(body, dict):
        return
    yield body
    for word in ("items", "additionalProperties", "not", "if", "then", "else"):
        yield from subschemas(body.get(word))
    for word in ("allOf", "anyOf", "oneOf"):
        for part in body.get(word, ()):
            yield from subschemas(part)
    for word in NAMED:
        for part in body.get(word, {}).values():
            yield from subschemas(part)


@pytest.mark.parametrize("name", MODELS)
def test_a_schema_means_the_same_in_both_dialects(name: str) -> None:
    """Only words of both; nothing beside a $ref, which draft-07 would not read; definitions valid as draft-07 too."""
    body = schema(MODELS[name])
    Draft7Validator.check_schema(body)
    for definition in body.get("$defs", {}).values():
        Draft7Validator.check_schema(definition)
    for part in subschemas(body):
        assert set(part) - ({"$schema", "$id", "$defs"} if part is body else set()) <= COMMON
        assert "$ref" not in part or len(part) == 1
        assert not isinstance(part.get("items"), list)
