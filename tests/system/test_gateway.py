"""Agents that dial in, on real Kafka: the worker that holds their streams is killed, and every task has one good result."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.support.kafka import KafkaCluster
from tests.support.rig import ROOT, Process, Tap, apply_topics, produce, register, start_worker, stopping
from tests.support.wait import wait_until
from tests.support.written import calls_of

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
WIDE = {"maxRequests": 1_000_000, "windowMs": 60_000, "maxConcurrency": 10}
NAMES = [f"dialled-{n}" for n in range(6)]
TASKS = 1200


def worker(broker: str, prefix: str, name: str) -> tuple[Process, dict[str, str]]:
    """A worker and its addresses."""
    options = ("--roles", "dispatch", "--instance-id", name, "--session-timeout", "6s", "-o", "json")
    process = start_worker(broker, prefix, *options, wait=False)
    return process, json.loads(process.line(90))


def partitions(at: dict[str, str]) -> int:
    """How many partitions a worker owns."""
    with urlopen(at["web"] + "/api/v1/partitions", timeout=5) as page:  # noqa: S310 - our own worker
        return len({row["partition"] for row in json.loads(page.read())})


def test_killing_the_worker_that_holds_the_streams_loses_and_doubles_nothing(
    kafka: KafkaCluster, prefix: str, tmp_path: Path
) -> None:
    """SIGKILL with calls under way; some agents have their partition on the worker killed, some not; all dial in elsewhere."""
    broker = kafka.bootstrap_servers
    apply_topics(broker, prefix)
    register(broker, prefix, *({"id": name, "endpoint": f"gateway://{name}", "limits": WIDE} for name in NAMES))
    survivor, at_survivor = worker(broker, prefix, "w1")
    victim, at_victim = worker(broker, prefix, "w2")
    logs = [tmp_path / name for name in NAMES]
    results, events = Tap(broker, f"{prefix}results"), Tap(broker, f"{prefix}events")
    with ExitStack() as stack:
        stack.enter_context(stopping(survivor))
        for name, log in zip(NAMES, logs, strict=True):
            words = [
                "--id",
                name,
                "--gateway",
                at_victim["grpc"],
                "--gateway",
                at_survivor["grpc"],
                "--delay-ms",
                "200",
                "--log",
                str(log),
            ]
            agent = Process([sys.executable, "-u", str(ROOT / "tests/support/dialled_agent.py"), *words])
            stack.callback(agent.kill)
            assert agent.line(30).startswith("connected")
        fresh = {"type": "agent", "payload": {"n": 1}, "metadata": {"cache": False, "timeout": 60_000}}
        tasks = [{"id": f"t{n}", "target": NAMES[n % len(NAMES)]} | fresh for n in range(TASKS)]
        produce(broker, f"{prefix}tasks", [(None, json.dumps(task).encode()) for task in tasks])
        wait_until(lambda: len(calls_of(*logs)) >= TASKS // 4, 60)
        assert partitions(at_victim), "the worker to be killed owns no partition"
        assert partitions(at_survivor), "the worker to be killed owns every partition"
        victim.kill()
        killed_at = time.time()
        found = [json.loads(message.value()) for message in results.until(TASKS, 90, quiet_s=3)]
    told = [json.loads(message.value()) for message in events.until(10_000, 5)]
    results.close()
    events.close()
    assert Counter(result["taskId"] for result in found) == {task["id"]: 1 for task in tasks}
    assert {result["status"] for result in found} == {"success"}, [r for r in found if r["status"] != "success"][:3]
    cut_off = [call for call in calls_of(*logs) if call["ended"] == "cancelled"]
    assert cut_off, "no call was under way when the worker was killed"
    assert len({call["node"] for call in calls_of(*logs)}) == 2
    assert len([call for call in calls_of(*logs) if call["at"] > killed_at]) > TASKS // 4
    assert not [event for event in told if event["type"] == "circuit:open"]
