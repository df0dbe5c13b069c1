"""Conversations on real Kafka: of each, one task at a time and in order, though the worker is killed in the middle."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka import Producer

from schemas.partitioning import owner_partition
from tests.support.kafka import KafkaCluster
from tests.support.rig import (
    Tap,
    apply_topics,
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
KEYS, EACH = 12, 15
AT_ONCE = {"maxRequests": 1_000_000, "windowMs": 60_000, "maxConcurrency": KEYS}
WIDE = {"maxRequests": 1_000_000, "windowMs": 60_000, "maxConcurrency": 250}
QUICK, EVERY, CHATS = 30_000, 40, 250
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
        register(broker, prefix, {"id": "bot", "endpoint": endpoint, "limits": AT_ONCE})
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
    check_calls(calls, killed_at, 0.14)
    assert first_calls(calls) == {f"chat-{n}": list(range(EACH)) for n in range(KEYS)}
    answered: dict[str, list[int]] = defaultdict(list)
    for message in found:
        result = json.loads(message.value())
        assert result["status"] == "success"
        key, _, number = result["taskId"].partition("/")
        answered[key].append((message.timestamp()[1], int(number)))
    assert {key: [number for _, number in sorted(rows)] for key, rows in answered.items()} == {
        f"chat-{n}": list(range(EACH)) for n in range(KEYS)
    }


def test_relocated_messages_keep_their_place(kafka: KafkaCluster, prefix: str, tmp_path: Path) -> None:
    """750 messages for an agent that hangs hold the commit back and are relocated; at the next owner they go on in order."""
    broker, log = kafka.bootstrap_servers, tmp_path / "calls"
    apply_topics(broker, prefix)
    partitions = partition_count(broker, f"{prefix}tasks")
    partition = owner_partition("bot", partitions)
    quick = next(name for name in (f"quick{n}" for n in range(1000)) if owner_partition(name, partitions) == partition)
    with (
        fake_agent("--behaviour", "hang", "--log", str(log)) as slow,
        instant_agent() as (_, endpoint),
    ):
        register(
            broker,
            prefix,
            {"id": "bot", "endpoint": slow, "limits": WIDE},
            {"id": quick, "endpoint": endpoint, "limits": WIDE},
        )
        worker = start_worker(broker, prefix, *OPTIONS)
        results = Tap(broker, f"{prefix}results")
        tasks = []
        for number in range(QUICK):
            body = {"id": f"q{number}", "type": "agent", "target": quick, "payload": {"n": number}}
            tasks.append((quick.encode(), json.dumps(body).encode()))
            if number % EVERY == 0:
                tasks.append(message(number // EVERY))
        produce(broker, f"{prefix}tasks", tasks, partitioner="murmur2_random")
        found = results.until(QUICK, 120)
        moved = log_ends(broker, f"{prefix}parked")[partition]
        worker.kill()
        killed_at = time.time()
        httpx.post(f"{slow}/script", json=["answer:delay_ms=500"], timeout=30).raise_for_status()
        with stopping(start_worker(broker, prefix, *OPTIONS)):
            found += results.until(len(tasks) - len(found), 120)
        results.close()
    assert moved >= 50, "the messages held the commit back"
    assert len({json.loads(row.value())["taskId"] for row in found}) == len(found) == len(tasks)
    calls = sorted(calls_of(log), key=lambda call: float(call["at"]))
    assert len(calls) > QUICK // EVERY, "the kill was felt: calls under way were made again"
    assert first_calls(calls) == {f"chat-{n}": list(range(QUICK // EVERY // CHATS)) for n in range(CHATS)}
    check_calls(calls, killed_at, 0.45)


def test_a_relocated_message_that_cannot_be_read_yet_keeps_its_place(kafka: KafkaCluster, prefix: str) -> None:
    """The transaction that relocated it has ended, and its end has not reached `parked` yet: held up here as long as needed.

    A new owner waits for it before it begins a later message of the conversation; other tasks go on.
    """
    broker = kafka.bootstrap_servers
    apply_topics(broker, prefix)
    partition = owner_partition("bot", partition_count(broker, f"{prefix}tasks"))
    earlier, later = (
        json.dumps({"id": name, "type": "agent", "target": "bot", "payload": 1, "metadata": {"orderingKey": "chat"}})
        for name in ("earlier", "later")
    )
    other = json.dumps({"id": "other", "type": "agent", "target": "bot", "payload": 2})
    relocating = Producer({"bootstrap.servers": broker, "transactional.id": f"{prefix}relocating"})
    relocating.init_transactions(30)
    relocating.begin_transaction()
    headers = [("parallax-agent", b"bot"), ("parallax-task", b"earlier"), ("parallax-order", b"tasks/0")]
    relocating.produce(f"{prefix}parked", earlier, b"bot", partition=partition, headers=headers)
    assert relocating.flush(30) == 0
    with instant_agent() as (_, endpoint), stopping(start_worker(broker, prefix, *OPTIONS)):
        register(broker, prefix, {"id": "bot", "endpoint": endpoint, "limits": AT_ONCE})
        results = Tap(broker, f"{prefix}results")
        produce(
            broker, f"{prefix}tasks", [(b"bot", other.encode()), (b"bot", later.encode())], partitioner="murmur2_random"
        )
        found = results.until(2, 4)
        relocating.commit_transaction(30)
        found += results.until(3 - len(found), 30)
        results.close()
    assert [json.loads(row.value())["taskId"] for row in found] == ["other", "earlier", "later"]


def message(number: int) -> tuple[bytes, bytes]:
    """One message of many conversations with a slow agent."""
    key = f"chat-{number % CHATS}"
    metadata = {"orderingKey": key, "cache": False, "timeout": 240_000}
    name = f"{key}/{number // CHATS}"
    return b"bot", json.dumps(
        {"id": name, "type": "agent", "target": "bot", "payload": {"n": name}, "metadata": metadata}
    ).encode()


def first_calls(calls: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Of each conversation, its messages in the order of their first calls."""
    first: dict[str, list[int]] = defaultdict(list)
    for call in calls:
        key, _, number = call["key"].partition("/")
        if int(number) not in first[key]:
            first[key].append(int(number))
    return dict(first)


def check_calls(calls: list[dict[str, Any]], killed_at: float, apart_s: float) -> None:
    """No call of a conversation begins while another one of the same worker is under way."""
    by_key: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for call in calls:
        by_key[call["key"].partition("/")[0]].append(call)
    for rows in by_key.values():
        for early, late in pairwise(rows):
            if early["at"] > killed_at or late["at"] < killed_at:
                assert late["at"] - early["at"] > apart_s, (early, late)
