"""Data points for tests: a seeded fleet, a plain recount with the standard library, and the last revision of every aggregate."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from schemas.times import format_time, parse_time
from streams.engine.group import partition_numbers

SIZES_MS = {"minute": 60_000, "hour": 3_600_000, "day": 86_400_000}
MEASURES = ("waitTime", "inputTokens", "outputTokens", "totalTokens", "cost")
Key = tuple[str, str, str, str, int]
"""agentId, patternName, taskType, interval, windowStart (epoch ms)."""


def fleet(
    seed: int, count: int, agents: int, start_ms: int, step_ms: float = 10.0, drops: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """`count` points of `agents` agents with three patterns each, slightly out of order; agents in `drops` fall at half way."""
    rng = random.Random(seed)
    points = []
    for index in range(count):
        agent = f"agent-{rng.randrange(agents)}"
        mean = 0.35 if agent in drops and index > count // 2 else 0.85
        confidence = rng.betavariate(mean * 20, (1 - mean) * 20)
        time_ms = start_ms + int(index * step_ms) - rng.randrange(3000)
        points.append(
            {
                "agentId": agent,
                "patternName": rng.choice(("", "triage", "extract")),
                "taskType": "agent",
                "confidence": confidence,
                "success": rng.random() < mean,
                "timestamp": format_time(time_ms),
                "executionTime": rng.lognormvariate(4, 1),
                "waitTime": 7.0 * (index * 37 % 101),
                **({"totalTokens": index % 3001, "cost": index % 3001 / 1e6} if index % 3 else {}),
                "taskId": f"task-{seed}-{index}",
            }
        )
    return points


async def produce(
    bootstrap: str, topic: str, points: Iterable[dict[str, Any] | bytes], *, idempotent: bool = False
) -> int:
    """Write points (or raw bytes) keyed by agent; returns how many. `idempotent`: none twice; the embedded broker cannot."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=5, enable_idempotence=idempotent)
    await producer.start()
    count = 0
    try:
        for point in points:
            if isinstance(point, bytes):
                await producer.send(topic, point, key=b"agent-0", headers=[("mine", b"kept")])
            else:
                await producer.send(topic, json.dumps(point).encode(), key=point["agentId"].encode())
            count += 1
        await producer.flush()
    finally:
        await producer.stop()
    return count


def recount(points: Iterable[Mapping[str, Any]]) -> dict[Key, dict[str, Any]]:
    """Every window by a plain loop over all points."""
    groups: dict[Key, list[Mapping[str, Any]]] = defaultdict(list)
    for point in points:
        time_ms = parse_time(point["timestamp"])
        for interval, size in SIZES_MS.items():
            start = time_ms - time_ms % size
            groups[point["agentId"], point["patternName"], point["taskType"], interval, start].append(point)
    return {key: _figures(group) for key, group in groups.items()}


def _figures(group: list[Mapping[str, Any]]) -> dict[str, Any]:
    confidences = [point["confidence"] for point in group]
    successes = sum(point["success"] for point in group)
    return {
        "count": len(group),
        "successCount": successes,
        "avgConfidence": statistics.fmean(confidences),
        "minConfidence": min(confidences),
        "maxConfidence": max(confidences),
        "variance": statistics.pvariance(confidences),
        "successRate": successes / len(group),
        "avgExecutionTime": statistics.fmean(point["executionTime"] for point in group),
        "brier": statistics.fmean((point["confidence"] - point["success"]) ** 2 for point in group),
        **{name: _measure(name, group) for name in MEASURES if any(name in point for point in group)},
    }


def _measure(name: str, group: list[Mapping[str, Any]]) -> dict[str, float]:
    held = [point[name] for point in group if name in point]
    return {"count": len(held), "sum": math.fsum(held), "mean": statistics.fmean(held)}


def compare(records: Iterable[Mapping[str, Any]], points: Iterable[Mapping[str, Any]]) -> list[str]:
    """What differs between the newest revisions of aggregates and a recount; empty when nothing does."""
    found = newest(records)
    expected = recount(points)
    wrong = [f"missing {key}" for key in expected.keys() - found.keys()]
    wrong += [f"surplus {key}" for key in found.keys() - expected.keys()]
    for key in expected.keys() & found.keys():
        for name, value in expected[key].items():
            if not _equal(found[key].get(name), value):
                wrong.append(f"{key} {name}: {found[key].get(name)} is not {value}")
    return wrong


def _equal(found: Any, value: Any) -> bool:
    if isinstance(value, dict):
        return isinstance(found, dict) and all(_equal(found.get(name), part) for name, part in value.items())
    return found is not None and math.isclose(found, value, rel_tol=1e-9, abs_tol=1e-12)


def newest(records: Iterable[Mapping[str, Any]]) -> dict[Key, Mapping[str, Any]]:
    """The record of the highest revision of every window."""
    found: dict[Key, Mapping[str, Any]] = {}
    for record in records:
        start = parse_time(record["windowStart"])
        key = (record["agentId"], record["patternName"], record["taskType"], record["interval"], start)
        if key not in found or record["revision"] >= found[key]["revision"]:
            found[key] = record
    return found


async def read_all(bootstrap: str, topic: str) -> list[Any]:
    """Every record that lies on the topic now, as aiokafka gives them."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, auto_offset_reset="earliest", isolation_level="read_committed"
    )
    await consumer.start()
    try:
        partitions = [
            TopicPartition(topic, number)
            for number in sorted(consumer.partitions_for_topic(topic) or await _ask(consumer, topic))
        ]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        await consumer.seek_to_beginning(*partitions)
        records: list[Any] = []
        while any([await consumer.position(tp) < ends[tp] for tp in partitions]):
            for batch in (await consumer.getmany(timeout_ms=500)).values():
                records += batch
        return records
    finally:
        await consumer.stop()


async def _ask(consumer: AIOKafkaConsumer, topic: str) -> set[int]:
    found = await partition_numbers(consumer, topic)
    assert found
    return found
