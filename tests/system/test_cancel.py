"""`parallax cancel` against a real worker: the agent sees its connection close, the result says who asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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
