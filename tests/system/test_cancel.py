"""`parallax cancel` against a real worker: the agent sees its connection close, the result says who asked."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.support.kafka import KafkaCluster
from tests.support.rig import (
    Process,
    Tap,
    apply_topics,
    fake_agent,
    parallax,
    produce,
    register,
    start_worker,
    stopping,
)
from tests.support.wait import wait_until
from tests.support.written import calls_of

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]


def test_a_running_task_is_cancelled_down_to_the_agent(kafka: KafkaCluster, prefix: str, tmp_path: Path) -> None:
    """A hanging call ends within seconds of the request, long before its deadline, with the reason in its result."""
    broker, log = kafka.bootstrap_servers, tmp_path / "calls.jsonl"
    apply_topics(broker, prefix)
    with fake_agent("--behaviour", "hang", "--log", str(log)) as endpoint:
        register(broker, prefix, {"id": "a", "endpoint": endpoint})
        with stopping(start_worker(broker, prefix, "--roles", "dispatch")):
            task = {"id": "t1", "type": "agent", "target": "a", "payload": {}, "metadata": {"timeout": 60_000}}
            produce(broker, f"{prefix}tasks", [(b"a", json.dumps(task).encode())])
            events = Tap(broker, f"{prefix}events")
            assert [json.loads(m.value())["type"] for m in events.until(1, 20)] == ["task:started"]
            where = ("--bootstrap-servers", broker, "--topic-prefix", prefix)
            assert Process(parallax("cancel", "t1", "--reason", "too dear", *where)).run() == 0
            results = Tap(broker, f"{prefix}results")
            [message] = results.until(1, 20, quiet_s=1)
            results.close()
            result = json.loads(message.value())
            assert (result["status"], result["error"]["code"]) == ("cancelled", "cancelled")
            assert "too dear" in result["error"]["message"]
            assert {json.loads(m.value())["type"] for m in events.until(1, 10)} == {"task:cancelled"}
            events.close()
            [call] = wait_until(lambda: calls_of(log), 10)
            assert call["ended"] == "closed"


def test_a_request_counts_from_when_kafka_has_it(kafka: KafkaCluster, prefix: str) -> None:
    """Not from the clock of who wrote it, which may be hours behind: the task that waits on its topic is cancelled too."""
    broker = kafka.bootstrap_servers
    apply_topics(broker, prefix)
    with fake_agent("--behaviour", "hang") as endpoint:
        register(broker, prefix, {"id": "a", "endpoint": endpoint, "limits": {"maxConcurrency": 1}})
        env = {"PARALLAX_DISPATCH__MAX_HELD_BYTES": "1"}
        with stopping(start_worker(broker, prefix, "--roles", "dispatch", env=env)):
            tasks = [{"id": name, "type": "agent", "target": "a", "payload": name} for name in ("called", "waits")]
            produce(broker, f"{prefix}tasks", [(b"a", json.dumps(task).encode()) for task in tasks])
            events = Tap(broker, f"{prefix}events")
            assert [json.loads(m.value())["type"] for m in events.until(1, 20)] == ["task:started"]
            events.close()
            producer = Producer({"bootstrap.servers": broker})
            request = json.dumps({"type": "cancel", "taskId": "waits"})
            producer.produce(f"{prefix}controls", request, b"waits", timestamp=int(time.time() * 1000) - 3 * 3_600_000)
            assert producer.flush(30) == 0
            results = Tap(broker, f"{prefix}results")
            found = [json.loads(message.value()) for message in results.until(1, 15)]
            results.close()
    assert [(result["taskId"], result["status"]) for result in found] == [("waits", "cancelled")]
