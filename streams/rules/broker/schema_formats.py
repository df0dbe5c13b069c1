"""From a registry's schema to a reader of the bytes written with it. Pure.

In: a schema's type and text, and the schemas it references. Out: a function from the bytes after the schema's id to a
JSON value. Every fault of the data is a `ValueError` in one line.

Avro follows its specification for JSON: bytes and fixed are text of their code points; times of logical types are RFC
3339, dates and decimals are as written. Protobuf follows proto3's JSON with two differences: 64-bit integers are
numbers, since no number is rounded here; and a bool or a float without `optional` is present when it is false or 0.
"""

from __future__ import annotations

import base64
import io
import math
import uuid
from collections.abc import Callable, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from schemas import exact_json
from schemas.exact_json import ExactFloat
from schemas.times import format_time
from schemas.wire_format import Read, read_varint

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

_MAX_DEPTH = 64
_WELL_KNOWN = ("any", "duration", "empty", "field_mask", "struct", "timestamp", "wrappers")


class Schema(NamedTuple):
    """`kind`: AVRO, JSON or PROTOBUF; `text`: of a Protobuf schema, its file descriptor in base64. `references`: name
    and text of each schema it needs, in order of dependency.
    """

    kind: str
    text: str
    references: Sequence[tuple[str, str]] = ()


def reader_of(schema: Schema) -> Read:
    """The reader of this schema's values. Raises `ValueError`: the schema is invalid, or of an unknown kind.

    >>> reader_of(Schema("JSON", "{}"))(b"[1]")
    [1]
    """
    if schema.kind == "JSON":
        return exact_json.loads
    if schema.kind == "AVRO":
        return _avro(schema)
    if schema.kind == "PROTOBUF":
        return _protobuf(schema)
    raise ValueError(f"schemas of type {schema.kind[:40]!r} cannot be read; AVRO, JSON and PROTOBUF can")


# Avro


def _avro(schema: Schema) -> Read:
    import fastavro
    from fastavro import _read_py as slow

    named: dict[str, Any] = {}
    try:
        for _, text in schema.references:
            fastavro.parse_schema(exact_json.loads(text), named_schemas=named)
        parsed = fastavro.parse_schema(exact_json.loads(schema.text), named_schemas=named)
    except (
        Exception
    ) as error:  # fastavro has no common error class, and raises KeyError and TypeError for an invalid schema
        raise ValueError(f"is no Avro schema: {_line(error)}") from None
    if any(_has_empty_items(one, named) for one in (parsed, *named.values())):
        raise ValueError("has an array whose items take no bytes: a few bytes could claim any number of them")
    # A value of a schema that contains itself is as deep as its writer likes. fastavro's reader in C ends the process then.
    decode = slow.schemaless_reader if _is_recursive(parsed, named, set(), set()) else fastavro.schemaless_reader

    def read(body: bytes) -> Any:
        stream = io.BytesIO(body)
        try:
            value = decode(stream, parsed, None)
        except Exception as error:  # likewise: EOFError, IndexError, OverflowError, UnicodeDecodeError, ...
            raise ValueError(f"does not fit its Avro schema: {_line(error)}") from None
        if (left := len(body) - stream.tell()) > 0:
            raise ValueError(f"does not fit its Avro schema: {left} bytes are left")
        return _plain(value, "value", 0)

    return read


def _has_empty_items(schema: Any, named: dict[str, Any]) -> bool:
    """Whether it has an array whose items take no bytes. Named types are checked separately."""
    if isinstance(schema, list):
        return any(_has_empty_items(one, named) for one in schema)
    if not isinstance(schema, dict):
        return False
    if "items" in schema and _is_empty(schema["items"], named, frozenset()):
        return True
    parts = [schema["type"], schema.get("items"), schema.get("values"), *(f["type"] for f in schema.get("fields", ()))]
    return any(_has_empty_items(one, named) for one in parts)


def _is_empty(schema: Any, named: dict[str, Any], above: frozenset[str]) -> bool:
    if isinstance(schema, str):
        if schema in named and schema not in above:
            return _is_empty(named[schema], named, above | {schema})
        return schema == "null"
    if not isinstance(schema, dict):
        return False  # a union takes a byte
    if "fields" in schema:
        return all(_is_empty(field["type"], named, above) for field in schema["fields"])
    return schema.get("size") == 0 or (
        isinstance(schema["type"], (str, dict)) and _is_empty(schema["type"], named, above)
    )


def _is_recursive(schema: Any, named: dict[str, Any], above: set[str], done: set[str]) -> bool:
    """Whether a type contains itself. `above`: the named types around this one; `done`: types that do not."""
    if isinstance(schema, list):
        return any(_is_recursive(one, named, above, done) for one in schema)
    if isinstance(schema, str):
        if schema in above:
            return True
        return schema in named and schema not in done and _is_recursive(named[schema], named, above, done)
    name = schema.get("name", "")
    inner = [schema["type"], *(schema[part] for part in ("items", "values") if part in schema)]
    inner = [one for one in inner if not isinstance(one, str) or one in named]
    found = any(
        _is_recursive(one, named, above | {name}, done)
        for one in (*inner, *(f["type"] for f in schema.get("fields", ())))
    )
    if not found and name:
        done.add(name)
    return found


def _plain(value: Any, where: str, depth: int) -> Any:
    """fastavro's values of logical types and bytes, as JSON has them."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return _finite(value, where)
    if depth > _MAX_DEPTH:
        raise ValueError(f"{where}: is nested too deep")
    if isinstance(value, dict):
        return {name: _plain(one, f"{where}.{name}", depth + 1) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one, where, depth + 1) for one in value]
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return _logical(value, where)


def _logical(value: Any, where: str) -> Any:
    if isinstance(value, datetime):
        if value.tzinfo is None:  # a local time has no zone
            return value.isoformat(timespec="milliseconds")
        return format_time(round(value.timestamp() * 1000))
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise ValueError(f"{where}: {value} is not JSON")
        return (
            int(value)
            if value == value.to_integral_value() and value.as_tuple().exponent == 0
            else ExactFloat(f"{value:f}")
        )
    if isinstance(value, uuid.UUID):
        return str(value)
    raise ValueError(f"{where}: a {type(value).__name__} has no form in JSON")


def _finite(value: float, where: str) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{where}: {value} is not JSON")
    return value


# Protobuf


def _protobuf(schema: Schema) -> Read:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message_factory import GetMessageClass

    pool = DescriptorPool()
    try:
        for name in _WELL_KNOWN:
            pool.AddSerializedFile(_well_known(name))
        for name, text in (*schema.references, ("", schema.text)):
            file = FileDescriptorProto.FromString(base64.b64decode(text, validate=True))
            file.name = name or file.name or "schema.proto"
            pool.Add(file)
        types = pool.FindFileByName(file.name)
    except Exception as error:  # of protobuf, and TypeError for what imports a file that is not there
        raise ValueError(f"is no Protobuf schema: {_line(error)}") from None
    messages = [GetMessageClass(_message_at(file.message_type, types, [at])) for at in range(len(file.message_type))]

    def read(body: bytes) -> Any:
        indexes, begin = _message_indexes(body)
        try:
            kind = messages[0] if indexes == [0] else GetMessageClass(_message_at(file.message_type, types, indexes))
            message = kind.FromString(body[begin:])
        except (IndexError, KeyError):
            raise ValueError(f"names message {indexes}, which its Protobuf schema does not define") from None
        except Exception as error:  # DecodeError is no ValueError
            raise ValueError(f"does not fit its Protobuf schema: {_line(error)}") from None
        return _object(message, "value", 0)

    return read


def _well_known(name: str) -> bytes:
    from importlib import import_module

    found: bytes = import_module(f"google.protobuf.{name}_pb2").DESCRIPTOR.serialized_pb
    return found


def _message_indexes(body: bytes) -> tuple[list[int], int]:
    r"""The path of the message's type in its file, and where the message begins.

    >>> _message_indexes(b"\0rest"), _message_indexes(b"\4\2\0rest")
    (([0], 1), ([1, 0], 3))
    """
    try:
        count, at = read_varint(body)
        if not 0 <= count <= _MAX_DEPTH:
            raise ValueError("there are too many")
        indexes = []
        for _ in range(count):
            index, at = read_varint(body, at)
            indexes.append(index)
    except ValueError as error:
        raise ValueError(f"message indexes: {error}") from None
    return indexes or [0], at


def _message_at(declared: Any, file: Any, indexes: Sequence[int]) -> Descriptor:
    if min(indexes) < 0:
        raise IndexError
    first = declared[indexes[0]]
    found: Descriptor = file.message_types_by_name[first.name]
    for index in indexes[1:]:
        first = first.nested_type[index]
        found = found.nested_types_by_name[first.name]
    return found


def _object(message: Message, where: str, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise ValueError(f"{where}: is nested too deep")
    kind = message.DESCRIPTOR
    if kind.file.name.startswith("google/protobuf/"):
        return _special(message, where)
    found = {}
    for field in kind.fields:
        value = getattr(message, field.name)
        if field.is_repeated:
            if not len(value):
                continue
        elif field.has_presence:
            if not message.HasField(field.name):
                continue
        elif not value and field.cpp_type not in (field.CPPTYPE_BOOL, field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT):
            continue
        found[field.json_name] = _field(field, value, f"{where}.{field.json_name}", depth)
    return found


def _field(field: Any, value: Any, where: str, depth: int) -> Any:
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        one = _converter(entry.fields_by_name["value"], where, depth)
        return {str(key).lower() if isinstance(key, bool) else str(key): one(value[key]) for key in value}
    one = _converter(field, where, depth)
    return [one(item) for item in value] if field.is_repeated else one(value)


def _converter(field: Any, where: str, depth: int) -> Callable[[Any], Any]:
    if field.message_type is not None:
        return lambda value: _object(value, where, depth + 1)
    if field.enum_type is not None:
        names = field.enum_type.values_by_number
        return lambda value: names[value].name if value in names else value
    if field.type == field.TYPE_BYTES:
        return lambda value: base64.b64encode(value).decode()
    if field.cpp_type in (field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT):
        return lambda value: _finite(value, where)
    return lambda value: value


def _special(message: Message, where: str) -> Any:
    """A timestamp, a struct and similar: each has its own form in proto3's JSON."""
    from google.protobuf.json_format import MessageToDict

    try:
        return MessageToDict(message)
    except Exception as error:
        raise ValueError(f"{where}: {_line(error)}") from None


def _line(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:300]
