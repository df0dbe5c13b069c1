"""Schedules on real Kafka: each time makes one task with one result, though the worker is killed again and again."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.kafka import KafkaCluster
from tests.support.rig import Tap, apply_topics, fake_agent, produce, register, start_worker, stopping

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
SCHEDULES, SPAN_S, BEGIN_S = 5, 30, 6
LIMITS = {"maxRequests": 1_000_000, "windowMs": 60_000, "maxConcurrency": 100}
OPTIONS = ("--roles", "dispatch,schedules", "--instance-id", "w1", "--session-timeout", "6s")


def test_each_time_of_a_schedule_makes_one_task(kafka: KafkaCluster, prefix: str, tmp_path: Path) -> None:
    """Three kills within half a minute of times a second apart."""
    broker = kafka.bootstrap_servers
    apply_topics(broker, prefix)
    with fake_agent("--behaviour", "answer") as endpoint:
        register(broker, prefix, {"id": "bot", "endpoint": endpoint, "limits": LIMITS})
        made, results = Tap(broker, f"{prefix}tasks"), Tap(broker, f"{prefix}results")
        begin_s = int(time.time()) + BEGIN_S
        wanted = {
            f"s{n}@{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(begin_s + second))}.000Z"
            for n in range(SCHEDULES)
            for second in range(SPAN_S)
        }
        rows = [(f"s{n}".encode(), schedule(f"s{n}", begin_s)) for n in range(SCHEDULES)]
        produce(broker, f"{prefix}schedules", rows, partitioner="murmur2_random")
        worker = start_worker(broker, prefix, *OPTIONS)
        for _ in range(3):
            time.sleep(max(6.0, begin_s + 2.5 - time.time()) if time.time() < begin_s else 6.0)
            worker.kill()
            worker = start_worker(broker, prefix, *OPTIONS)
        with stopping(worker):
            answered = results.until(len(wanted), 90, quiet_s=2)
        results.close()
        came = made.until(len(wanted), 5, quiet_s=1)
        made.close()
    assert Counter(json.loads(row.value())["id"] for row in came) == Counter(wanted)
    assert Counter(json.loads(row.value())["taskId"] for row in answered) == Counter(wanted)
    assert {json.loads(row.value())["status"] for row in answered} == {"success"}
    for row in came:
        task_id = json.loads(row.value())["id"]
        assert (
            time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(row.timestamp()[1] / 1000)) >= task_id.partition("@")[2][:19]
        )


def schedule(name: str, begin_s: int) -> bytes:
    """One that makes a task each second, for a while."""
    body = {
        "id": name,
        "everyMs": 1000,
        "startAt": begin_s * 1000,
        "endAt": (begin_s + SPAN_S) * 1000,
        "task": {"type": "agent", "target": "bot", "payload": {"n": name}, "metadata": {"cache": False}},
    }
    return json.dumps(body).encode()
