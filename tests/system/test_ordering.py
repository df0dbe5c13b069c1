"""Conversations on real Kafka: of each, one task at a time and in order, though the worker is killed in the middle."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from schemas.partitioning import owner_partition
from tests.support.kafka import KafkaCluster
from tests.support.rig import (
    Tap,
    apply_topics,
    fake_agent,
    partition_count,
    produce,
    register,
    start_worker,
    stopping,
)
from tests.support.written import calls_of

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
KEYS, EACH = 12, 15
WIDE = {"maxRequests": 1_000_000, "windowMs": 60_000, "maxConcurrency": 50}
OPTIONS = ("--roles", "dispatch", "--instance-id", "w1", "--session-timeout", "6s")


def task(number: int, agent: str, by_agent: bool) -> tuple[bytes, bytes]:
    """One message of a conversation; written to its agent's partition, or to another that forwards it."""
    key = f"chat-{number % KEYS}"
    name = f"{key}/{number // KEYS}"
    metadata = {"orderingKey": key, "cache": False, "priority": number % 3}
    body = {"id": name, "type": "agent", "target": agent, "payload": {"n": name}, "metadata": metadata}
    return (agent if by_agent else key).encode(), json.dumps(body).encode()


def test_conversations_stay_in_order_through_a_kill(kafka: KafkaCluster, prefix: str, tmp_path: Path) -> None:
    """Calls of one conversation never overlap but with those of the killed worker; each message is answered once, in order."""
    broker, log = kafka.bootstrap_servers, tmp_path / "calls"
    apply_topics(broker, prefix)
    partitions = partition_count(broker, f"{prefix}tasks")
    assert len({owner_partition(f"chat-{n}", partitions) for n in range(KEYS)}) > 1
    with fake_agent("--behaviour", "answer:delay_ms=150", "--log", str(log)) as endpoint:
        register(broker, prefix, {"id": "bot", "endpoint": endpoint, "limits": WIDE})
        worker = start_worker(broker, prefix, *OPTIONS)
        results = Tap(broker, f"{prefix}results")
        produce(
            broker,
            f"{prefix}tasks",
            [task(number, "bot", number % KEYS % 2 == 0) for number in range(KEYS * EACH)],
            partitioner="murmur2_random",
        )
        found = results.until(KEYS * EACH // 3, 60)
        worker.kill()
        before = len(calls_of(log))
        killed_at = time.time()
        with stopping(start_worker(broker, prefix, *OPTIONS)):
            found += results.until(KEYS * EACH - len(found), 120, quiet_s=2)
        results.close()
    calls = sorted(calls_of(log), key=lambda call: float(call["at"]))
    assert KEYS < before < KEYS * EACH, "it was killed in the middle"
    assert len(calls) > KEYS * EACH, "the kill was felt: calls under way were made again"
    check_calls(calls, killed_at)
    answered: dict[str, list[int]] = defaultdict(list)
    for message in found:
        result = json.loads(message.value())
        assert result["status"] == "success"
        key, _, number = result["taskId"].partition("/")
        answered[key].append((message.timestamp()[1], int(number)))
    assert {key: [number for _, number in sorted(rows)] for key, rows in answered.items()} == {
        f"chat-{n}": list(range(EACH)) for n in range(KEYS)
    }


def check_calls(calls: list[dict[str, Any]], killed_at: float) -> None:
    """First calls of each conversation are in order, and none begins while another of the same worker is under way."""
    first: dict[str, list[int]] = defaultdict(list)
    for call in calls:
        key, _, number = call["key"].partition("/")
        if int(number) not in first[key]:
            first[key].append(int(number))
    assert dict(first) == {f"chat-{n}": list(range(EACH)) for n in range(KEYS)}
    by_key: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for call in calls:
        by_key[call["key"].partition("/")[0]].append(call)
    for rows in by_key.values():
        for early, late in pairwise(rows):
            if early["at"] > killed_at or late["at"] < killed_at:
                assert late["at"] - early["at"] > 0.14, (early, late)
