"""Confluent's wire format: the id of the schema a record was written with, and the record without it. Pure.

In: key or value and headers as they are on Kafka. Out: the JSON value, or the schema that must be known first. Two
forms:

1. Prefix: a zero byte and the schema's id (4 bytes, big endian), then the value.
2. Header `__value_schema_id` or `__key_schema_id`: a byte 1 and the schema's GUID (16 bytes); the value has no prefix.

A Protobuf message is preceded by the index of its message type: after the id, or at the end of the header.

JSON is read without its schema, which adds nothing. Avro and Protobuf are read with the schemas in `SCHEMAS`, which
`streams/schema_registry.py` fills before a record is decoded: this module sends no request.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from schemas import exact_json

Headers = Sequence[tuple[str, bytes]]
SchemaId = int | UUID
Read = Callable[[bytes], Any]
"""Reads the JSON value from the bytes after the schema's id. Raises `ValueError`."""

VALUE_HEADER = "__value_schema_id"
KEY_HEADER = "__key_schema_id"
MAX_SCHEMAS = 1000
PREFIX = b"\0"
"""No JSON begins with it."""
_PREFIX_BYTES = 5
_JSON_ENDS = b"} \t\r\n"


class SchemaCache:
    """A reader for each schema that was fetched, or why its values are refused. The least recently used ones are
    dropped first.

    Refused ids have a bound of their own: invented ids must not displace the schemas in use.
    """

    def __init__(self, most: int = MAX_SCHEMAS) -> None:
        self.registry: str | None = None
        """The registry that unknown schemas are fetched from; None: there is none."""
        self._most = most
        self._known: OrderedDict[SchemaId, Read] = OrderedDict()
        self._refused: OrderedDict[SchemaId, Read] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, schema_id: SchemaId) -> Read | None:
        """The reader for this schema; None: unknown here."""
        found = self._known.get(schema_id)
        if found is None:
            return self._refused.get(schema_id)
        self._known.move_to_end(schema_id)
        return found

    def put(self, schema_id: SchemaId, read: Read) -> None:
        """Keep the reader of a schema."""
        self._keep(self._known, schema_id, read)

    def refuse(self, schema_id: SchemaId, reason: str) -> None:
        """Refuse values of this schema with the reason, until `forget`."""

        def refuse(_: bytes) -> Any:
            raise ValueError(reason)

        self._keep(self._refused, schema_id, refuse)

    def _keep(self, among: OrderedDict[SchemaId, Read], schema_id: SchemaId, read: Read) -> None:
        among[schema_id] = read
        among.move_to_end(schema_id)
        while len(among) > self._most:
            among.popitem(last=False)

    def forget(self, schema_id: SchemaId) -> None:
        """The schema must be fetched again."""
        self._known.pop(schema_id, None)
        self._refused.pop(schema_id, None)

    def clear(self) -> None:
        """Empty the cache, as at the start of the process."""
        self.registry = None
        self._known.clear()
        self._refused.clear()


SCHEMAS = SchemaCache()
"""The schemas of this process. A schema's id never changes its meaning within one registry, and a process uses one
registry.
"""


class Marked(NamedTuple):
    """A value or a key that names its schema. `body`: what follows the id."""

    schema_id: SchemaId
    body: bytes


def marked(raw: bytes, headers: Headers, header_name: str = VALUE_HEADER) -> Marked | None:
    r"""The schema that a record's value (or key) names, and the bytes after the id; None if it names none.

    >>> marked(b'\0\0\0\0\7{}', ()), marked(b"{}", ()), marked(b"\0\0", ())
    (Marked(schema_id=7, body=b'{}'), None, None)
    """
    for name, mark in headers:
        if name == header_name and mark:
            if mark[0] == 1 and len(mark) >= 17:
                return Marked(UUID(bytes=mark[1:17]), mark[17:] + raw)
            if mark[0] == 0 and len(mark) >= _PREFIX_BYTES:
                return Marked(int.from_bytes(mark[1:_PREFIX_BYTES], "big"), mark[_PREFIX_BYTES:] + raw)
    if raw[:1] == PREFIX and len(raw) >= _PREFIX_BYTES:
        return Marked(int.from_bytes(raw[1:_PREFIX_BYTES], "big"), raw[_PREFIX_BYTES:])
    return None


def needed_schema(value: bytes | None, headers: Headers) -> SchemaId | None:
    r"""The schema that is needed to read the value; None: it can be read now, or no schema will help.

    >>> needed_schema(b'\0\0\0\0\7{"id": "t1"}', ()), needed_schema(b"\0\0\0\0\7\4t1", ()), needed_schema(b"hello", ())
    (None, 7, None)
    """
    if not value or (not headers and value[:1] != PREFIX) or _is_like_json(value):
        return None
    found = marked(value, headers)
    return None if found is None or _is_like_json(found.body) else found.schema_id


def loads(value: bytes, headers: Headers = ()) -> Any:
    r"""The JSON value of a record in JSON, Avro or Protobuf, with or without a schema id. Raises `ValueError`.

    >>> loads(b'\0\0\0\0\7{"n": 1}')
    {'n': 1}
    """
    if value[:1] != PREFIX:
        try:
            return exact_json.loads(value)
        except ValueError as error:
            found, reason = marked(value, headers) if headers else None, error
    else:
        found, reason = marked(value, headers), ValueError("begins with a zero byte and no schema id follows")
    if found is None:
        raise reason
    read = SCHEMAS.get(found.schema_id)
    if read is not None and not _is_like_json(found.body):
        return read(found.body)
    try:
        return exact_json.loads(found.body)
    except ValueError:
        if read is not None:
            return read(found.body)
        raise ValueError(_unknown(found)) from None


def key_text(key: bytes | None, headers: Headers = ()) -> str:
    r"""A record's key as text, without a schema id: the text of a JSON string or of an Avro string.

    Neither needs its schema. Any other key is returned unchanged.

    >>> key_text(b"a1"), key_text(b'\0\0\0\0\7"a1"'), key_text(b"\0\0\0\0\7\4a1"), key_text(None)
    ('a1', 'a1', 'a1', '')
    """
    if not key:
        return ""
    found = marked(key, headers, KEY_HEADER)
    body = key if found is None else found.body
    if found is not None:
        if body[:1] == body[-1:] == b'"' and len(body) > 1:
            try:
                return str(exact_json.loads(body))
            except ValueError:
                pass
        if (text := _avro_string(body)) is not None:
            body = text
    return body.decode("utf-8", "replace")


def is_marked_key(key: bytes | None, headers: Headers) -> bool:
    """Whether the key carries a schema id, so that its bytes differ from the plain id."""
    return key is not None and marked(key, headers, KEY_HEADER) is not None


def read_varint(raw: bytes, at: int = 0) -> tuple[int, int]:
    r"""A zigzag number of Avro and Protobuf, and the index after it. Raises `ValueError`.

    >>> read_varint(b"\4abc"), read_varint(b"\x01"), read_varint(b"\xac\x02")
    ((2, 1), (-1, 1), (150, 2))
    """
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(raw):
            break
        byte = raw[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return (number >> 1) ^ -(number & 1), at
    raise ValueError("a number does not end")


def _avro_string(body: bytes) -> bytes | None:
    try:
        length, begin = read_varint(body)
    except ValueError:
        return None
    return body[begin:] if length == len(body) - begin else None


def _is_like_json(body: bytes) -> bool:
    """Whether it begins and ends like an object, as all our messages do."""
    return body[:1] == b"{" and body[-1] in _JSON_ENDS


def _unknown(found: Marked) -> str:
    if SCHEMAS.registry is None:
        return (
            f"is not JSON, and was written with schema {found.schema_id}: to read Avro and Protobuf, "
            "set kafka.schema_registry_url"
        )
    return f"was written with schema {found.schema_id}, which was not fetched from {SCHEMAS.registry}"
