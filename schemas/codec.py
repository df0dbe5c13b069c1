"""Bytes and headers to messages and back. Pure.

In: plain JSON, CloudEvents in binary mode (`ce_*` headers) and in structured mode (content-type `application/cloudevents+json`),
each also in Confluent's wire format (`wire_format.py`), where the value may be Avro or Protobuf too.
Out: CloudEvents in binary mode, so that the value stays plain JSON (CloudEvents 1.0.2, Kafka protocol binding 3.2).
What cannot be read raises `Rejected`, which says at which stage, which field and why.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from schemas import exact_json, wire_format
from schemas.messages import Message, explain
from schemas.times import format_time

M = TypeVar("M", bound=Message)
Headers = Sequence[tuple[str, bytes]]

JSON_CONTENT = ("content-type", b"application/json")
SPEC_VERSION = ("ce_specversion", b"1.0")
MAX_REASON = 1000


class Rejected(Exception):
    """A record that is not a valid message. `stage`: decode (bytes, JSON, envelope) or validate (fields)."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(reason[:MAX_REASON])
        self.stage = stage
        self.reason = reason[:MAX_REASON]


@dataclass(frozen=True, slots=True)
class Decoded:
    """The JSON object a record carries and the CloudEvents attributes around it, if any."""

    data: Any
    attributes: dict[str, str]


def parse_json(value: bytes) -> Any:
    """JSON parsed by `exact_json`: numbers keep their value. Raises `Rejected`."""
    try:
        return exact_json.loads(value)
    except ValueError as error:
        raise Rejected("decode", f"value: is not JSON: {error}") from None


def _parse_value(value: bytes, headers: Headers) -> Any:
    """As `parse_json`, for any wire format. For a plain record this costs one comparison."""
    if value[:1] != wire_format.PREFIX:
        try:
            return exact_json.loads(value)
        except ValueError as error:
            if wire_format.marked(value, headers) is None:
                raise Rejected("decode", f"value: is not JSON: {error}") from None
    try:
        return wire_format.loads(value, headers)
    except ValueError as error:
        raise Rejected("decode", f"value: {error}") from None


def header(headers: Iterable[tuple[str, bytes]], name: str) -> str | None:
    """The last header of that name as text, or None."""
    found = None
    for key, value in headers:
        if key == name:
            found = value
    return None if found is None else found.decode("utf-8", "replace")


def decode_json(value: bytes | None, headers: Headers) -> Decoded:
    """The JSON a record carries in any of the accepted forms. Raises `Rejected`."""
    if value is None:
        raise Rejected("decode", "value: is null")
    if not headers:
        return Decoded(_parse_value(value, ()), {})
    content = header(headers, "content-type") or ""
    if content[:23].lower() == "application/cloudevents":
        if "batch" in content.lower():
            raise Rejected("decode", "content-type: CloudEvents batches are not allowed on Kafka")
        return _structured(_parse_value(value, headers))
    attributes = {
        key[3:]: raw.decode("utf-8", "replace") for key, raw in headers if key.startswith("ce_") and raw is not None
    }
    return Decoded(_parse_value(value, headers), attributes)


def _structured(envelope: Any) -> Decoded:
    if not isinstance(envelope, dict):
        raise Rejected("decode", "value: a structured CloudEvent must be a JSON object")
    if envelope.get("specversion") != "1.0":
        raise Rejected("decode", f"specversion: must be '1.0', not {envelope.get('specversion')!r}")
    attributes = {
        key: value if isinstance(value, str) else str(value)
        for key, value in envelope.items()
        if key not in ("data", "data_base64")
    }
    if "data_base64" in envelope:
        try:
            raw = base64.b64decode(envelope["data_base64"], validate=True)
        except (ValueError, TypeError):
            raise Rejected("decode", "data_base64: is not base64") from None
        return Decoded(parse_json(raw), attributes)
    if "data" not in envelope:
        raise Rejected("decode", "data: is missing from the structured CloudEvent")
    return Decoded(envelope["data"], attributes)


def validate(model: type[M], data: Any) -> M:
    """A parsed JSON value as a message. Raises `Rejected` naming field and reason."""
    if not isinstance(data, dict):
        raise Rejected("validate", f"value: must be a JSON object, not {_kind(data)}")
    try:
        # Wire names only: `plan_id` is an unknown field there, as the published schema has it.
        return model.model_validate(data, by_alias=True, by_name=False)
    except ValidationError as error:
        raise Rejected("validate", explain(error, quote=True)) from None


def _kind(data: Any) -> str:
    names = {
        list: "an array",
        str: "a string",
        int: "a number",
        float: "a number",
        bool: "a boolean",
        type(None): "null",
    }
    return names.get(type(data), type(data).__name__)


def decode(model: type[M], value: bytes | None, headers: Headers = ()) -> M:
    """A record's value and headers as a message. Raises `Rejected`."""
    return validate(model, decode_json(value, headers).data)


def pack(data: Any) -> bytes:
    """The JSON in bytes of its own size, for anything that is kept: orjson leaves 4 KiB behind each of its results
    (3.13, measured).
    """
    return memoryview(exact_json.dumps(data)).tobytes()


def dumps(data: Any) -> bytes:
    """Compact JSON. Raises `Rejected` when nested too deep to be written (about 250 levels)."""
    try:
        return pack(data)
    except TypeError as error:
        raise Rejected("validate", f"value: cannot be written as JSON: {error}") from None


def ce_headers(*, ce_type: str, ce_id: str, source: str, subject: str, time_ms: int) -> list[tuple[str, bytes]]:
    """The headers of a CloudEvent in binary mode.

    >>> dict(ce_headers(ce_type="io.parallax.result.v1", ce_id="t1", source="/parallax", subject="t1", time_ms=0))["ce_time"]
    b'1970-01-01T00:00:00.000Z'
    """
    return [
        SPEC_VERSION,
        ("ce_id", ce_id.encode()),
        ("ce_source", source.encode()),
        ("ce_type", ce_type.encode()),
        ("ce_time", format_time(time_ms).encode()),
        ("ce_subject", subject.encode()),
        JSON_CONTENT,
    ]
