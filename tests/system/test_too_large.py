"""What the broker finds too large is written smaller: no task may stop its partition by what it carries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from tests.support.kafka import KafkaCluster
from tests.support.rig import Tap, apply_topics, instant_agent, produce, register, start_worker, stopping

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]
COUNT = 12
"""More than a commit is tried: one smaller form must not cost one try."""


def task(number: int, **more: Any) -> bytes:
    return json.dumps({"id": f"t{number}", "type": "agent", "target": "a", "payload": {"n": number}} | more).encode()


def as_kafka_ships(bootstrap: str, topic: str, most: int = 1_048_588) -> None:
    """The broker's own default limit for this topic, or a lower one: the brokers of the tests allow more."""
    entry = ConfigEntry("max.message.bytes", str(most), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(30)


def test_metadata_as_large_as_a_record_stop_nothing(kafka: KafkaCluster, prefix: str) -> None:
    """Tasks whose metadata fill a record (answered and refused ones): each has its result, without them; neighbours are whole."""
    broker = kafka.bootstrap_servers
    apply_topics(broker, prefix)
    as_kafka_ships(broker, f"{prefix}results")
    with instant_agent() as (_, endpoint):
        register(broker, prefix, {"id": "a", "endpoint": endpoint})
        worker = start_worker(broker, prefix, "--roles", "dispatch")
        try:
            filling = {"metadata": {"mine": "x" * (1024 * 1024 - 110)}}
            beyond = {"metadata": {"mine": "x" * 3_000_000}}
            records = [task(n, **(filling if n % 2 else {"metadata": {"mine": "kept"}})) for n in range(2 * COUNT)]
            records.append(task(99, **beyond))
            produce(broker, f"{prefix}tasks", ((None, value) for value in records), **{"message.max.bytes": 8_000_000})
            tap = Tap(broker, f"{prefix}results")
            found = [json.loads(message.value()) for message in tap.until(len(records), 30, quiet_s=2)]
            tap.close()
            results = {result["taskId"]: result for result in found}
            assert len(found) == len(results) == len(records)
            assert results["t99"]["error"]["code"] == "too_large"
            assert results["t99"]["metadata"] == {}
            for number in range(2 * COUNT):
                result = results[f"t{number}"]
                assert result["status"] == "success", result
                assert result["metadata"] == ({} if number % 2 else {"mine": "kept"})
        finally:
            assert worker.stop() == 0


def test_plans_too_large_for_a_topic_fail_and_stop_no_others(kafka: KafkaCluster, prefix: str, tmp_path: Path) -> None:
    """A plan that is too large with its template for what is remembered of it, and one whose step is too large for `tasks`."""
    broker = kafka.bootstrap_servers
    apply_topics(broker, prefix)
    as_kafka_ships(broker, f"{prefix}plan-state")
    as_kafka_ships(broker, f"{prefix}tasks", 600_000)
    step = {"id": "s", "type": "agent", "target": "a", "payload": 1}
    templates = tmp_path / "templates.jsonl"
    templates.write_text(json.dumps({"name": "wide", "plan": {"tasks": [step | {"payload": "x" * 900_000}]}}))
    pattern = {"id": "s", "type": "pattern", "target": "wide", "payload": "y" * 200_000}
    plans = {"template": pattern, "step": step | {"payload": "z" * 700_000}, "small": step}
    env = {"PARALLAX_PLANS__TEMPLATES": str(templates)}
    with instant_agent() as (_, endpoint):
        register(broker, prefix, {"id": "a", "endpoint": endpoint})
        with stopping(start_worker(broker, prefix, "--roles", "dispatch,plans", env=env)):
            records = [
                (name.encode(), json.dumps({"id": name, "tasks": [one]}).encode()) for name, one in plans.items()
            ]
            produce(broker, f"{prefix}plans", records, **{"message.max.bytes": 8_000_000})
            tap = Tap(broker, f"{prefix}plan-results")
            results = [json.loads(message.value()) for message in tap.until(len(plans), 40, quiet_s=2)]
            tap.close()
    found = {result["planId"]: (result["status"], result.get("error", {}).get("code")) for result in results}
    assert len(results) == len(found)
    assert found == {"template": ("failure", "too_large"), "step": ("failure", "too_large"), "small": ("success", None)}
