"""Few slow calls among thousands of quick ones: the commit does not stay behind them, and each is made once. On real Kafka."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from schemas.partitioning import owner_partition
from tests.support.kafka import KafkaCluster
from tests.support.rig import (
    Tap,
    apply_topics,
    committed,
    fake_agent,
    instant_agent,
    log_ends,
    partition_count,
    produce,
    register,
    start_worker,
    stopping,
)
from tests.support.written import calls_of

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
WIDE = {"maxRequests": 1_000_000, "windowMs": 60_000, "maxConcurrency": 750}
QUICK, EVERY = 30_000, 40
SLOW_S = 45
OPTIONS = ("--roles", "dispatch", "--instance-id", "w1", "--session-timeout", "6s")


def task(name: str, agent: str) -> tuple[bytes, bytes]:
    """One task with two minutes' time."""
    body = {"id": name, "type": "agent", "target": agent, "payload": {"n": name}, "metadata": {"timeout": 120_000}}
    return agent.encode(), json.dumps(body).encode()


def test_the_commit_does_not_wait_for_slow_calls(kafka: KafkaCluster, prefix: str, tmp_path: Path) -> None:
    """750 calls of 45 seconds among 30,000 quick ones in one partition: it commits past them while they last."""
    broker, log = kafka.bootstrap_servers, tmp_path / "calls"
    apply_topics(broker, prefix)
    partitions = partition_count(broker, f"{prefix}tasks")
    partition = owner_partition("slow", partitions)
    quick = next(name for name in (f"quick{n}" for n in range(1000)) if owner_partition(name, partitions) == partition)
    step = f"answer:delay_ms={SLOW_S * 1000}"
    with fake_agent("--behaviour", step, "--log", str(log)) as slow, instant_agent() as (_, endpoint):
        register(
            broker,
            prefix,
            {"id": "slow", "endpoint": slow, "limits": WIDE},
            {"id": quick, "endpoint": endpoint, "limits": WIDE},
        )
        with stopping(start_worker(broker, prefix, *OPTIONS)):
            results = Tap(broker, f"{prefix}results")
            tasks = []
            for n in range(QUICK):
                tasks.append(task(f"q{n}", quick))
                if n % EVERY == 0:
                    tasks.append(task(f"s{n}", "slow"))
            produce(broker, f"{prefix}tasks", tasks, partitioner="murmur2_random")
            found = read(results, QUICK)
            slow_done = sum(result["taskId"][0] == "s" for result in found)
            at = committed(broker, f"{prefix.rstrip('.')}-dispatch", f"{prefix}tasks")[partition]
            moved = log_ends(broker, f"{prefix}parked")[partition]
            found += read(results, len(tasks) - len(found))
        results.close()
    assert slow_done < 100, "the slow calls must still be under way when the quick ones are done"
    assert moved >= 50
    assert at > QUICK / 6
    assert Counter(result["taskId"] for result in found) == {json.loads(value)["id"]: 1 for _, value in tasks}
    assert {result["status"] for result in found} == {"success"}
    assert Counter(keys(log)) == {f"s{n}": 1 for n in range(0, QUICK, EVERY)}


def keys(log: Path) -> list[str]:
    """The ids of the slow agent's calls."""
    return [call["key"] for call in calls_of(log)]


def read(tap: Tap, count: int) -> list[dict[str, Any]]:
    """The next results."""
    return [json.loads(message.value()) for message in tap.until(count, 120)]
