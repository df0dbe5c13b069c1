"""What a partition knows survives its worker: answered ids, cached answers, an open circuit, a full rate limit. On real Kafka."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.kafka import KafkaCluster
from tests.support.rig import Tap, apply_topics, fake_agent, produce, register, start_worker, stopping
from tests.support.written import calls_of

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]
WIDE = {"maxRequests": 1_000_000, "windowMs": 60_000, "maxConcurrency": 20}
OPTIONS = ("--roles", "dispatch", "--instance-id", "w1", "--session-timeout", "6s")


def task(name: str, **fields: Any) -> tuple[None, bytes]:
    """One task; with a target unless capabilities are given."""
    target = {} if "capabilities" in fields else {"target": "well"}
    return None, json.dumps({"id": name, "type": "agent", "payload": {"n": name}} | target | fields).encode()


def calls(log: Path) -> Counter[str]:
    """Calls per task id."""
    return Counter(call["key"] for call in calls_of(log))


def values(tap: Tap, count: int, quiet_s: float = 0.0) -> list[dict[str, Any]]:
    """The next records of a topic."""
    return [json.loads(message.value()) for message in tap.until(count, 60, quiet_s)]


def duplicates(tap: Tap, count: int) -> int:
    """How many `task:duplicate` there are, once there are `count`."""
    found, end = 0, time.monotonic() + 30
    while found < count and time.monotonic() < end:
        found += sum(json.loads(message.value())["type"] == "task:duplicate" for message in tap.read())
    return found


def test_ids_sent_again_are_answered_once_also_after_a_kill(kafka: KafkaCluster, prefix: str, tmp_path: Path) -> None:
    """Twice before the kill, once after it; the agent sees each id once. What was answered is in the cache after it too."""
    broker, log = kafka.bootstrap_servers, tmp_path / "calls"
    apply_topics(broker, prefix)
    with fake_agent("--log", str(log)) as endpoint:
        register(broker, prefix, {"id": "well", "endpoint": endpoint, "limits": WIDE, "capabilities": ["any"]})
        tasks = [task(f"t{n}") for n in range(300)] + [task(f"c{n}", capabilities=["any"]) for n in range(100)]
        worker = start_worker(broker, prefix, *OPTIONS)
        results, events = Tap(broker, f"{prefix}results"), Tap(broker, f"{prefix}events")
        produce(broker, f"{prefix}tasks", tasks + tasks)
        first = values(results, 400, quiet_s=2)
        worker.kill()
        with stopping(start_worker(broker, prefix, *OPTIONS)):
            produce(broker, f"{prefix}tasks", tasks)
            again = [task(f"again{n}", payload={"n": f"t{n}"}) for n in range(300)]
            produce(broker, f"{prefix}tasks", again)
            second = values(results, 300, quiet_s=2)
            told = duplicates(events, 800)
        results.close()
        events.close()
    assert Counter(result["taskId"] for result in first) == {json.loads(value)["id"]: 1 for _, value in tasks}
    assert Counter(result["taskId"] for result in second) == {f"again{n}": 1 for n in range(300)}
    assert {result["status"] for result in first + second} == {"success"}
    assert {result["cached"] for result in second} == {True}
    assert told == 800
    assert set(calls(log).values()) == {1}
    assert len(calls(log)) == 400


def test_circuit_and_rate_limit_survive_a_kill(kafka: KafkaCluster, prefix: str, tmp_path: Path) -> None:
    """A sick agent is not called again because its worker died; a limited one gets no second helping."""
    broker, log = kafka.bootstrap_servers, tmp_path / "calls"
    apply_topics(broker, prefix)
    tight = {"maxRequests": 10, "windowMs": 600_000, "maxConcurrency": 10}
    breaker = {"failureThreshold": 3, "resetTimeout": 600_000, "monitoringPeriod": 60_000}
    with fake_agent("--log", str(log)) as endpoint, fake_agent("--behaviour", "status:code=503") as sick:
        register(
            broker,
            prefix,
            {"id": "well", "endpoint": endpoint, "limits": tight},
            {"id": "sick", "endpoint": sick, "limits": WIDE, "breaker": breaker},
        )
        ill = {"target": "sick", "metadata": {"retries": 0, "expiresIn": 20_000}}
        worker = start_worker(broker, prefix, *OPTIONS)
        results = Tap(broker, f"{prefix}results")
        produce(broker, f"{prefix}tasks", [task(f"t{n}") for n in range(7)] + [task(f"s{n}", **ill) for n in range(3)])
        first = values(results, 10)
        worker.kill()
        with stopping(start_worker(broker, prefix, *OPTIONS)):
            produce(broker, f"{prefix}tasks", [task(f"t{n}", metadata={"expiresIn": 20_000}) for n in range(7, 14)])
            produce(broker, f"{prefix}tasks", [task("s3", **ill)])
            second = values(results, 8, quiet_s=1)
        results.close()
    assert Counter(result["status"] for result in first) == {"success": 7, "failure": 3}
    codes = Counter((result["taskId"][0], result.get("error", {}).get("code")) for result in second)
    assert codes == {("t", None): 3, ("t", "expired"): 4, ("s", "expired"): 1}
    waited_for = {"t": "its rate limit has no turn", "s": "its circuit stays open"}
    assert all(waited_for[row["taskId"][0]] in row["error"]["message"] for row in second if "error" in row)
    assert len(calls(log)) == 10
