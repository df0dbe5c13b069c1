"""Producers with Confluent's serializers on real Kafka: JSON Schema with no setting at all, Avro by a registry that goes away."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient, header_schema_id_serializer
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from tests.support.kafka import KafkaCluster
from tests.support.rig import (
    Tap,
    alive,
    apply_topics,
    clean_environment,
    instant_agent,
    parallax,
    produce,
    start_worker,
)
from tests.support.schema_registry import FakeRegistry
from tests.support.wait import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

TASK = {
    "type": "record", "name": "Task", "fields": [
        {"name": "id", "type": "string"}, {"name": "type", "type": "string"}, {"name": "target", "type": "string"},
        {"name": "payload", "type": {"type": "map", "values": "long"}}],
}  # fmt: skip
POINT = {
    "type": "record", "name": "Point", "fields": [
        {"name": "agentId", "type": "string"}, {"name": "patternName", "type": "string"}, {"name": "taskType", "type": "string"},
        {"name": "confidence", "type": "double"}, {"name": "success", "type": "boolean"},
        {"name": "executionTime", "type": "double"},
        {"name": "timestamp", "type": {"type": "long", "logicalType": "timestamp-millis"}}],
}  # fmt: skip
OBJECT = json.dumps({"type": "object", "title": "Message"})
STRING = json.dumps({"type": "string", "title": "Key"})
LIMITS = {"maxRequests": 1_000_000, "windowMs": 60_000, "maxConcurrency": 50}


class Confluent:
    """A producer with Confluent's serializers, for keys too. `beside`: schemas are named in headers."""

    def __init__(self, bootstrap: str, prefix: str, registry: FakeRegistry) -> None:
        self._producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
        self._prefix = prefix
        client = SchemaRegistryClient({"url": registry.url})
        self._values: dict[tuple[str, bool], Any] = {}
        self._keys: dict[bool, Any] = {}
        for beside in (False, True):
            conf = {"schema.id.serializer": header_schema_id_serializer} if beside else {}
            self._keys[beside] = JSONSerializer(STRING, client, conf=conf)
            self._values["json", beside] = JSONSerializer(OBJECT, client, conf=conf)
            self._values["avro", beside] = AvroSerializer(client, json.dumps(TASK), conf=conf)
            self._values["point", beside] = AvroSerializer(client, json.dumps(POINT), conf=conf)

    def send(self, topic: str, key: str, value: Any, kind: str = "json", beside: bool = False, **more: Any) -> None:
        """One record."""
        headers: list[tuple[str, bytes]] = []
        name = self._prefix + topic
        raw = self._keys[beside](key, SerializationContext(name, MessageField.KEY, headers))
        value = self._values[kind, beside](value, SerializationContext(name, MessageField.VALUE, headers))
        self._producer.produce(name, key=raw, value=value, headers=headers, **more)

    def flush(self) -> None:
        """All are acknowledged."""
        assert self._producer.flush(30) == 0


def task(name: str) -> dict[str, Any]:
    return {"id": name, "type": "agent", "target": "a1", "payload": {"n": 1}}


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as made:
        yield made


def command(bootstrap: str, prefix: str, *words: str) -> str:
    """What it printed on stdout."""
    where = ("--bootstrap-servers", bootstrap, "--topic-prefix", prefix, "-o", "json")
    done = subprocess.run(
        parallax(*words, *where), env=clean_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_json_schema_needs_no_setting(kafka: KafkaCluster, prefix: str, registry: FakeRegistry) -> None:
    """Agents, tasks and schedules with a schema before or beside key and value are as plain ones; Avro becomes a dead letter."""
    bootstrap = kafka.bootstrap_servers
    apply_topics(bootstrap, prefix)
    confluent = Confluent(bootstrap, prefix, registry)
    with instant_agent("--vary") as (_, address):
        confluent.send("agents", "a1", {"id": "a1", "endpoint": address, "limits": LIMITS})
        for number in range(20):
            confluent.send("tasks", "a1", task(f"t{number}"), beside=number % 2 == 1)
        confluent.send("tasks", "a1", task("binary"), "avro")
        schedule = {"id": "s1", "everyMs": 1000, "task": {"type": "agent", "target": "a1", "payload": {"n": 2}}}
        confluent.send("schedules", "s1", schedule, beside=True)
        confluent.flush()
        worker = start_worker(bootstrap, prefix, "--roles", "dispatch,schedules")
        try:
            found = [json.loads(m.value()) for m in Tap(bootstrap, f"{prefix}results").until(23, 60)]
            ends = Counter(row["taskId"] for row in found if not row["taskId"].startswith("s1"))
            assert ends == {f"t{number}": 1 for number in range(20)}
            assert {row["status"] for row in found} == {"success"}
            assert len(found) >= 23, "the schedule fires"
            [letter] = Tap(bootstrap, f"dlq.{prefix}tasks").until(1, 20, 1)
            told = dict(letter.headers())["__dlq.errors.message"].decode()
            assert "set kafka.schema_registry_url" in told
            assert letter.value()[:1] == b"\0", "as it came"
            tasks = [json.loads(line) for line in command(bootstrap, prefix, "tail", "tasks", "--from-beginning",
                                                           "--no-follow").splitlines()]  # fmt: skip
            assert {row["id"] for row in tasks if isinstance(row, dict)} >= {f"t{number}" for number in range(20)}
            assert [row["id"] for row in json.loads(command(bootstrap, prefix, "agents", "ls"))] == ["a1"]
            command(bootstrap, prefix, "agents", "rm", "a1")
            assert json.loads(command(bootstrap, prefix, "agents", "ls")) == []
        finally:
            assert worker.stop() == 0


def test_avro_waits_for_a_registry_that_is_away(kafka: KafkaCluster, prefix: str, registry: FakeRegistry) -> None:
    """Nothing is lost and nothing is a dead letter: other partitions go on, and the worker says why one waits."""
    bootstrap = kafka.bootstrap_servers
    apply_topics(bootstrap, prefix, "--partitions", "2")
    confluent = Confluent(bootstrap, prefix, registry)
    results, points = Tap(bootstrap, f"{prefix}results"), Tap(bootstrap, f"{prefix}aggregates")
    with instant_agent("--vary") as (_, address):
        confluent.send("agents", "a1", {"id": "a1", "endpoint": address, "limits": LIMITS})
        confluent.send("tasks", "", task("before"), partition=0)
        for number in range(5):
            confluent.send("tasks", "", task(f"avro{number}"), "avro", beside=number % 2 == 1, partition=0)
        confluent.send("tasks", "", task("after"), partition=0)
        confluent.send("tasks", "", task("other"), partition=1)
        point = {"agentId": "mine", "patternName": "", "taskType": "agent", "confidence": 0.9, "success": True,
                 "timestamp": round(time.time() * 1000) - 180_000, "executionTime": 1.0}  # fmt: skip
        confluent.send("data-points", "mine", point, "point", partition=1)
        confluent.flush()
        registry.status = 503
        env = {"PARALLAX_KAFKA__SCHEMA_REGISTRY_URL": registry.url, "PARALLAX_KAFKA__SCHEMA_REGISTRY_USERNAME": "me",
               "PARALLAX_KAFKA__SCHEMA_REGISTRY_PASSWORD": "pw"}  # fmt: skip
        worker = start_worker(bootstrap, prefix, "-o", "json", "--roles", "dispatch,stats", env=env, wait=False)
        try:
            address = json.loads(worker.line(90))["web"]
            first = results.until(2, 60, 1)
            assert {json.loads(m.value())["taskId"] for m in first} == {"before", "other"}
            assert "it answers 503" in status(address)["schemaRegistry"]
            assert status(address)["ready"] is True
            registry.status = 200
            rest = results.until(6, 60, 1)
            ends = Counter(json.loads(m.value())["taskId"] for m in rest)
            assert ends == {"after": 1} | {f"avro{number}": 1 for number in range(5)}
            assert status(address)["schemaRegistry"] is None
            assert Tap(bootstrap, f"dlq.{prefix}tasks").until(1, 1) == []
            mine = [m for m in points.until(1, 60) if b'"mine"' in m.value()]
            assert mine, "the point is counted"
            registry.status = 503
            unknown = b"\0\0\0\0\x63\4t1"
            for topic in ("tasks", "data-points", "agents", "controls"):
                produce(bootstrap, f"{prefix}{topic}", [(b"a1", unknown)])
            wait_until(lambda: "schema 99" in (status(address)["schemaRegistry"] or ""))
            assert alive(worker.pid)
        finally:
            assert worker.stop() == 0


def status(address: str) -> dict[str, Any]:
    """What the worker says of itself."""
    found: dict[str, Any] = httpx.get(f"{address}/api/v1/worker", timeout=10).json()
    return found
