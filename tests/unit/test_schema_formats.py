"""Avro and Protobuf as Confluent's own serializers write them, read to the value that JSON would have."""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient, header_schema_id_serializer
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.schema_registry.schema_registry_client import Schema as ConfluentSchema
from confluent_kafka.schema_registry.schema_registry_client import SchemaReference
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import struct_pb2, timestamp_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from schemas.codec import Rejected, decode, decode_json, dumps
from schemas.messages import ConfidenceDataPoint, Task
from schemas.wire_format import SCHEMAS, key_text, needed_schema
from streams.rules.broker.schema_formats import Schema, reader_of
from streams.schema_registry import SchemaRegistry, forget_registry
from tests.support.schema_registry import FakeRegistry, Written

TASK_SCHEMA = {
    "type": "record", "name": "Task", "namespace": "acme", "fields": [
        {"name": "id", "type": "string"}, {"name": "type", "type": {"type": "enum", "name": "Kind", "symbols": ["agent"]}},
        {"name": "target", "type": ["null", "string"], "default": None},
        {"name": "capabilities", "type": ["null", {"type": "array", "items": "string"}], "default": None},
        {"name": "payload", "type": {"type": "map", "values": ["null", "long", "double", "string", "boolean"]}},
        {"name": "metadata", "type": ["null", {"type": "record", "name": "Metadata", "fields": [
            {"name": "retries", "type": ["null", "int"], "default": None},
            {"name": "deadline", "type": ["null", {"type": "long", "logicalType": "timestamp-millis"}], "default": None},
        ]}], "default": None},
    ],
}  # fmt: skip
DEADLINE = datetime.datetime(2026, 11, 29, 12, 0, 0, 123_000, datetime.UTC)


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as made:
        yield made
    forget_registry()


def context(headers: Any = None, field: str = MessageField.VALUE) -> SerializationContext:
    return SerializationContext("tasks", field, headers)


async def learn(registry: FakeRegistry, value: bytes, headers: Any = ()) -> None:
    """What the feed does before a record is decoded."""
    assert needed_schema(value, headers) is not None
    await SchemaRegistry(registry.url).learn_now([Written(value, tuple(headers))])


@pytest.mark.parametrize("in_header", [False, True])
async def test_avro_is_read_as_the_json_message(registry: FakeRegistry, in_header: bool) -> None:
    conf = {"schema.id.serializer": header_schema_id_serializer} if in_header else {}
    client = SchemaRegistryClient({"url": registry.url})
    serializer = AvroSerializer(client, json.dumps(TASK_SCHEMA), conf=conf)
    headers: list[tuple[str, bytes]] = []
    expected = {
        "id": "t1", "type": "agent", "target": "a1", "payload": {"n": 2**62, "x": 0.5, "s": "é", "no": None, "b": False},
        "metadata": {"retries": 0, "deadline": DEADLINE},
    }  # fmt: skip
    value = serializer(expected, context(headers))
    assert bool(headers) == in_header
    await learn(registry, value, headers)
    task = decode(Task, value, headers)
    assert (task.id, task.target, task.capabilities) == ("t1", "a1", None)
    assert task.payload == expected["payload"]
    assert (task.metadata.retries, task.metadata.deadline) == (0, round(DEADLINE.timestamp() * 1000))
    asked = [path for path in registry.asked if path.startswith("/schemas/")]
    assert asked == [f"/schemas/guids/{registry.guid_of(1)}" if in_header else "/schemas/ids/1"]


async def test_confluents_json_serializer_needs_no_registry(registry: FakeRegistry) -> None:
    client = SchemaRegistryClient({"url": registry.url})
    expected = {"id": "t1", "type": "agent", "target": "a1", "payload": {"n": 1}}
    schema = json.dumps({"type": "object", "title": "Task"})
    for conf in ({}, {"schema.id.serializer": header_schema_id_serializer}):
        headers: list[tuple[str, bytes]] = []
        value = JSONSerializer(schema, client, conf=conf)(expected, context(headers))
        assert value != dumps(expected) or headers
        assert decode(Task, value, headers).payload == {"n": 1}
    text = json.dumps({"type": "string", "title": "Key"})
    assert key_text(JSONSerializer(text, client)("a1", context(field=MessageField.KEY))) == "a1"
    assert key_text(AvroSerializer(client, '"string"')("a1", context(field=MessageField.KEY))) == "a1"


async def test_logical_types_have_their_form_in_json(registry: FakeRegistry) -> None:
    moment = datetime.time(13, 37)
    logical = {
        "date": ("int", datetime.date(2026, 11, 29), "2026-11-29"), "time-millis": ("int", moment, "13:37:00"),
        "timestamp-micros": ("long", DEADLINE, "2026-11-29T12:00:00.123Z"),
        "uuid": ("string", uuid.UUID(int=7), str(uuid.UUID(int=7))),
    }  # fmt: skip
    fields = [
        {"name": name.replace("-", ""), "type": {"type": of, "logicalType": name}}
        for name, (of, _, _) in logical.items()
    ]
    money = {"type": "bytes", "logicalType": "decimal", "precision": 30, "scale": 20}
    schema = {"type": "record", "name": "All", "fields": [
        *fields, {"name": "money", "type": money}, {"name": "raw", "type": "bytes"}]}  # fmt: skip
    expected = {name.replace("-", ""): given for name, (_, given, _) in logical.items()}
    expected |= {"money": Decimal("1234567.00000000000000000001"), "raw": b"\0\xff"}
    value = AvroSerializer(SchemaRegistryClient({"url": registry.url}), json.dumps(schema))(expected, context())
    await learn(registry, value)
    found = decode_json(value, ()).data
    assert {name: found[name.replace("-", "")] for name in logical} == {
        name: want for name, (_, _, want) in logical.items()
    }
    assert dumps([found["money"], found["raw"]]) == '[1234567.00000000000000000001,"\\u0000ÿ"]'.encode()


async def test_a_schema_may_refer_to_others(registry: FakeRegistry) -> None:
    """Those of those, too; each is asked for once."""
    client = SchemaRegistryClient({"url": registry.url})
    place = {"type": "record", "name": "acme.Place", "fields": [{"name": "city", "type": "string"}]}
    person = {"type": "record", "name": "acme.Person", "fields": [{"name": "home", "type": "acme.Place"}]}
    registry.add(place, subject="place/v")
    registry.add(person, references=[{"name": "acme.Place", "subject": "place/v", "version": 1}], subject="person")
    schema = {"type": "record", "name": "acme.Ask", "fields": [
        {"name": "who", "type": "acme.Person"}, {"name": "where", "type": "acme.Place"}]}  # fmt: skip
    references = [SchemaReference("acme.Person", "person", 1), SchemaReference("acme.Place", "place/v", 1)]
    serializer = AvroSerializer(client, ConfluentSchema(json.dumps(schema), "AVRO", references))
    expected = {"who": {"home": {"city": "Bern"}}, "where": {"city": "Ulm"}}
    value = serializer(expected, context())
    registry.asked.clear()
    await learn(registry, value)
    assert decode_json(value, ()).data == expected
    assert sorted(registry.asked) == ["/schemas/ids/3", "/subjects/person/versions/1", "/subjects/place%2Fv/versions/1"]


@pytest.mark.parametrize(
    ("schema", "body", "expected"),
    [
        ('{"type": "array", "items": "int"}', b"\2", "does not fit its Avro schema"),
        ('{"type": "array", "items": "int"}', b"\0left", "4 bytes are left"),
        ('{"type": "record", "name": "R", "fields": [{"name": "x", "type": "double"}]}',
         b"\0\0\0\0\0\0\xf8\x7f", "value.x: nan is not JSON"),
        ('{"type": "record", "name": "N", "fields": [{"name": "n", "type": ["null", "N"]}]}',
         b"\2" * 500_000 + b"\0", "does not fit its Avro schema"),
        ('{"type": "record", "name": "N", "fields": [{"name": "n", "type": {"type": "map", "values": "N"}}]}',
         b"\2\0" * 500_000 + b"\0", "does not fit its Avro schema"),
    ],
)  # fmt: skip
def test_bytes_that_do_not_fit_are_one_sentence(schema: str, body: bytes, expected: str) -> None:
    """Also those that would end the process in fastavro's C code."""
    with pytest.raises(ValueError, match=expected) as caught:
        reader_of(Schema("AVRO", schema))(body)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("AVRO", "{", "is no Avro schema"), ("AVRO", '{"type": "record"}', "is no Avro schema"),
        ("AVRO", '{"type": "array", "items": "null"}', "items take no bytes"),
        ("AVRO", '{"type": "map", "values": {"type": "array", "items": {"type": "record", "name": "E", "fields": []}}}',
         "items take no bytes"),
        ("AVRO", '{"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}}', "items take no bytes"),
        ("AVRO", '"acme.Unknown"', "is no Avro schema"), ("THRIFT", "", "schemas of type 'THRIFT' cannot be read"),
        ("PROTOBUF", "message A {}", "is no Protobuf schema"), ("PROTOBUF", "AAAA", "is no Protobuf schema"),
    ],
)  # fmt: skip
def test_what_is_no_schema_is_one_sentence(kind: str, text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        reader_of(Schema(kind, text))


def proto_file() -> Any:
    """acme.Task with a nested type, an enum, a map, well-known types, and fields with and without `optional`."""
    kinds = FieldDescriptorProto
    file = FileDescriptorProto(name="acme/task.proto", package="acme", syntax="proto3")
    file.dependency.extend(["google/protobuf/struct.proto", "google/protobuf/timestamp.proto"])
    file.message_type.add(name="Before")
    task = file.message_type.add(name="Task")
    inner = task.nested_type.add(name="Metadata")
    inner.field.add(name="ordering_key", number=1, type=kinds.TYPE_STRING, label=1)
    inner.field.add(
        name="not_before", number=2, type=kinds.TYPE_MESSAGE, label=1, type_name=".google.protobuf.Timestamp"
    )
    inner.field.add(name="retries", number=3, type=kinds.TYPE_INT32, label=1, oneof_index=0, proto3_optional=True)
    inner.oneof_decl.add(name="_retries")
    entry = task.nested_type.add(name="LabelsEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kinds.TYPE_INT32, label=1)
    entry.field.add(name="value", number=2, type=kinds.TYPE_INT64, label=1)
    kind = task.enum_type.add(name="Kind")
    for number, name in enumerate(("unknown", "agent")):
        kind.value.add(name=name, number=number)
    for number, (name, type_, label, type_name) in enumerate((
        ("id", kinds.TYPE_STRING, 1, ""), ("type", kinds.TYPE_ENUM, 1, ".acme.Task.Kind"), ("target", kinds.TYPE_STRING, 1, ""),
        ("payload", kinds.TYPE_MESSAGE, 1, ".google.protobuf.Struct"), ("metadata", kinds.TYPE_MESSAGE, 1, ".acme.Task.Metadata"),
        ("capabilities", kinds.TYPE_STRING, 3, ""), ("labels", kinds.TYPE_MESSAGE, 3, ".acme.Task.LabelsEntry"),
        ("raw", kinds.TYPE_BYTES, 1, ""), ("success", kinds.TYPE_BOOL, 1, ""), ("confidence", kinds.TYPE_DOUBLE, 1, ""),
        ("plan_id", kinds.TYPE_STRING, 1, ""), ("big", kinds.TYPE_UINT64, 1, ""),
    ), 1):  # fmt: skip
        task.field.add(name=name, number=number, type=type_, label=label, type_name=type_name or None)
    pool = DescriptorPool()
    for module in (struct_pb2, timestamp_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return pool.FindFileByName(file.name)


async def test_protobuf_is_read_as_the_json_message(registry: FakeRegistry) -> None:
    file = proto_file()
    kind = GetMessageClass(file.message_types_by_name["Task"])
    message = kind(id="t1", type=1, target="a1", capabilities=["x"], labels={7: -1}, raw=b"\xff", big=2**64 - 1)
    message.payload.update({"n": 3, "deep": {"list": [True, None, "é"]}})
    message.metadata.not_before.FromDatetime(DEADLINE)
    message.metadata.retries = 0
    serializer = ProtobufSerializer(
        kind, SchemaRegistryClient({"url": registry.url}), conf={"use.deprecated.format": False}
    )
    value = serializer(message, context())
    await learn(registry, value)
    assert decode_json(value, ()).data == {
        "id": "t1", "type": "agent", "target": "a1", "payload": {"n": 3, "deep": {"list": [True, None, "é"]}},
        "metadata": {"notBefore": "2026-11-29T12:00:00.123Z", "retries": 0}, "capabilities": ["x"], "labels": {"7": -1},
        "raw": "/w==", "success": False, "confidence": 0.0, "big": 2**64 - 1,
    }  # fmt: skip
    assert decode(Task, value, ()).metadata.retries == 0
    headers: list[tuple[str, bytes]] = []
    conf = {"schema.id.serializer": header_schema_id_serializer, "use.deprecated.format": False}
    beside = ProtobufSerializer(kind, SchemaRegistryClient({"url": registry.url}), conf=conf)(message, context(headers))
    await learn(registry, beside, headers)
    assert decode(Task, beside, headers).id == "t1"
    with pytest.raises(Rejected, match=r"names message \[9\]"):
        decode_json(value[:5] + b"\2\x12" + value[8:], ())
    with pytest.raises(Rejected, match="does not fit its Protobuf schema"):
        decode_json(value[:-1], ())


async def test_a_data_point_in_avro_is_one(registry: FakeRegistry) -> None:
    schema = {"type": "record", "name": "Point", "fields": [
        {"name": "agentId", "type": "string"}, {"name": "patternName", "type": "string"}, {"name": "taskType", "type": "string"},
        {"name": "confidence", "type": "double"}, {"name": "success", "type": "boolean"},
        {"name": "timestamp", "type": "long"}, {"name": "executionTime", "type": "double"}]}  # fmt: skip
    expected = {"agentId": "a1", "patternName": "", "taskType": "agent", "confidence": 0.9, "success": True,
            "timestamp": 1_795_354_620_123, "executionTime": 12.5}  # fmt: skip
    value = AvroSerializer(SchemaRegistryClient({"url": registry.url}), json.dumps(schema))(expected, context())
    await learn(registry, value)
    assert decode(ConfidenceDataPoint, value, ()).timestamp == 1_795_354_620_123
    assert len(SCHEMAS) == 1
