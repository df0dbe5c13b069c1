"""Confluent's wire format without a registry: JSON with a schema's id in front or beside it, keys, and the rest's errors."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from aiokafka.structs import ConsumerRecord

from schemas import exact_json, wire_format
from schemas.codec import Rejected, decode, decode_json
from schemas.messages import Control, Task
from schemas.wire_format import KEY_HEADER, VALUE_HEADER, SchemaCache, is_marked_key, key_text, needed_schema
from streams.cli.tail import as_json, as_text
from streams.rules.broker.dead_letters import build_replay, readable

GUID = UUID("996ad860-2a9a-504f-8861-aeafd0b2ae29")
BESIDE = ((VALUE_HEADER, b"\x01" + GUID.bytes),)
TASK = b'{"id": "t1", "type": "agent", "target": "a1", "payload": {"n": 18446744073709551617}}'


def framed(body: bytes, schema_id: int = 7) -> bytes:
    return b"\0" + schema_id.to_bytes(4, "big") + body


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        (TASK, ()),
        (framed(TASK), ()),
        (framed(TASK + b"\n"), ()),
        (framed(TASK), (("ce_id", b"x"),)),
        (TASK, BESIDE),
        (
            framed(b'{"specversion": "1.0", "data": ' + TASK + b"}"),
            (("content-type", b"application/cloudevents+json"),),
        ),
    ],
)
def test_json_is_read_in_every_form_and_no_number_changes(value: bytes, headers: Any) -> None:
    task = decode(Task, value, headers)
    assert task.id == "t1"
    assert exact_json.dumps(task.payload) == b'{"n":18446744073709551617}'
    assert needed_schema(value, headers) is None, "no registry is asked for JSON"


@pytest.mark.parametrize(
    ("value", "headers", "needed", "reason"),
    [
        (framed(b"\4t1"), (), 7, "schema 7: to read Avro and Protobuf, set kafka.schema_registry_url"),
        (b"\4t1", BESIDE, GUID, f"schema {GUID}: to read Avro and Protobuf, set kafka.schema_registry_url"),
        (b"\4t1", ((VALUE_HEADER, framed(b"")),), 7, "schema 7"),
        (b"\4t1", ((VALUE_HEADER, b"\x02abc"),), None, "is not JSON"),
        (b"\0\0", (), None, "begins with a zero byte and no schema id follows"),
        (b"hello", (), None, "is not JSON"),
        (framed(b'{"id": }'), (), None, "schema 7"),
    ],
)
def test_what_needs_a_schema_says_which_and_what_to_set(value: bytes, headers: Any, needed: Any, reason: str) -> None:
    assert needed_schema(value, headers) == needed
    with pytest.raises(Rejected, match=r"^value: ") as caught:
        decode_json(value, headers)
    assert reason in caught.value.reason
    assert caught.value.stage == "decode"


@pytest.mark.parametrize("headers", [(), (("ce_id", b"x"), ("other", b"\0"))])
def test_a_plain_record_is_parsed_once(monkeypatch: pytest.MonkeyPatch, headers: Any) -> None:
    """Nothing of the wire format is called for it."""
    for name in ("loads", "marked", "needed_schema"):
        monkeypatch.setattr(wire_format, name, None)
    assert decode(Control, b'{"type": "cancel", "taskId": "t1"}', headers).task_id == "t1"


@pytest.mark.parametrize(
    ("key", "headers", "text"),
    [
        (b"a1", (), "a1"),
        (framed(b'"a1"'), (), "a1"),
        (framed(b'"caf\\u00e9"'), (), "café"),
        (framed(b"\4a1"), (), "a1"),
        (framed(b"a1"), (), "a1"),
        (framed(b"\xfe\x01" + b"x" * 127), (), "x" * 127),
        (b'"a1"', ((KEY_HEADER, b"\x01" + GUID.bytes),), "a1"),
        (b"\4a1", ((KEY_HEADER, b"\x01" + GUID.bytes),), "a1"),
        (b'"a1"', BESIDE, '"a1"'),
        (framed(b""), (), ""),
        (b"\0\0", (), "\0\0"),
        (None, (), ""),
    ],
)
def test_keys_are_what_they_mean(key: bytes | None, headers: Any, text: str) -> None:
    assert key_text(key, headers) == text
    plain = key is None or key in (b"a1", b"\0\0") or headers == BESIDE
    assert is_marked_key(key, headers) != plain


def test_the_least_recently_used_schema_goes_first() -> None:
    cache = SchemaCache(2)
    for number in (1, 2):
        cache.put(number, exact_json.loads)
    assert cache.get(1) is not None
    cache.put(3, exact_json.loads)
    assert [cache.get(number) is None for number in (1, 2, 3)] == [False, True, False]


def test_commands_show_it() -> None:
    """`tail` and `dlq show` print the message; a dead letter goes back byte for byte, with the headers that name its schema."""
    value = framed(b'{"id": "t1"}')
    assert as_json(value) == {"id": "t1"}
    assert readable(value) == ("json", {"id": "t1"})
    assert readable(framed(b"\4\xff1"))[0] == "hex"
    record = ConsumerRecord("tasks", 0, 0, 0, 0, framed(b'"k1"'), value, None, 1, 1, ())
    assert as_text(record).endswith('k1  -  {"id":"t1"}')
    origin = ("__dlq.errors.topic", b"parallax.tasks")
    replay = build_replay(framed(b'"k1"'), value, (*BESIDE, origin), "parallax.")
    assert (replay.key, replay.value, replay.headers[0]) == (framed(b'"k1"'), value, BESIDE[0])
