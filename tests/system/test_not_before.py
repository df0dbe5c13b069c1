"""Tasks with `metadata.notBefore` on real Kafka: called once and at their time, though the worker is killed again and again."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.kafka import KafkaCluster
from tests.support.rig import Tap, apply_topics, fake_agent, produce, register, start_worker, stopping
from tests.support.written import calls_of

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
TASKS, FIRST_S, SPAN_S = 600, 15.0, 24.0
LIMITS = {"maxRequests": 1_000_000, "windowMs": 60_000, "maxConcurrency": 100}
OPTIONS = ("--roles", "dispatch,schedules", "--instance-id", "w1", "--session-timeout", "6s")


def test_each_task_is_released_once_and_not_before_its_time(kafka: KafkaCluster, prefix: str, tmp_path: Path) -> None:
    """Three kills, while tasks are taken in and while they come due. Those for an hour later are cancelled."""
    broker, log = kafka.bootstrap_servers, tmp_path / "calls"
    apply_topics(broker, prefix)
    with fake_agent("--behaviour", "answer", "--log", str(log)) as endpoint:
        register(broker, prefix, {"id": "bot", "endpoint": endpoint, "limits": LIMITS})
        results, released = Tap(broker, f"{prefix}results"), Tap(broker, f"{prefix}dispatch")
        waiting = Tap(broker, f"{prefix}scheduled")
        begun = time.time()
        due = {f"t{n}": begun + FIRST_S + SPAN_S * n / TASKS for n in range(TASKS)}
        rows = [task(name, at) for name, at in due.items()] + [task(f"far{n}", begun + 3600) for n in range(50)]
        worker = start_worker(broker, prefix, *OPTIONS)
        produce(broker, f"{prefix}tasks", rows, partitioner="murmur2_random")
        waiting.until(TASKS // 4, 30)
        waiting.close()
        for pause_s in (0.0, 6.0, 6.0):
            time.sleep(pause_s)
            worker.kill()
            worker = start_worker(broker, prefix, *OPTIONS)
        with stopping(worker):
            cancels = [
                (f"far{n}".encode(), json.dumps({"type": "cancel", "taskId": f"far{n}"}).encode()) for n in range(50)
            ]
            produce(broker, f"{prefix}controls", cancels, partitioner="murmur2_random")
            found = results.until(TASKS + 50, 90, quiet_s=2)
        results.close()
        came = released.until(TASKS // 2, 10, quiet_s=2)
        released.close()
    ended = Counter((row["taskId"].startswith("far"), row["status"]) for row in map(read, found))
    assert ended == {(False, "success"): TASKS, (True, "cancelled"): 50}
    assert len({read(message)["taskId"] for message in found}) == TASKS + 50
    ids = Counter(read(message)["id"] for message in came)
    assert set(ids.values()) == {1}, "released once"
    assert len(ids) >= TASKS // 2, "those that were late when they were taken in did not wait"
    for call in calls_of(log):
        assert call["key"] in due, "a task for later was called"
        assert call["at"] >= due[call["key"]] - 0.05, call


def read(message: object) -> dict[str, str]:
    """A record's JSON."""
    found: dict[str, str] = json.loads(message.value())  # type: ignore[attr-defined]
    return found


def task(name: str, at: float) -> tuple[bytes, bytes]:
    """A task for the agent, not before then (epoch seconds)."""
    metadata = {"notBefore": round(at * 1000), "cache": False}
    body = {"id": name, "type": "agent", "target": "bot", "payload": {"n": name}, "metadata": metadata}
    return b"bot", json.dumps(body).encode()
