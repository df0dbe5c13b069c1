"""Partitions are added while workers run: cancels and registrations on new partitions arrive; one topic alone stops nothing."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewPartitions

from schemas.partitioning import owner_partition
from schemas.topics import INTAKE
from streams.engine import follower as module
from streams.engine.follower import Follower
from tests.support.kafka import KafkaCluster
from tests.support.rig import (
    Process,
    Tap,
    apply_topics,
    fake_agent,
    instant_agent,
    parallax,
    partition_count,
    produce,
    register,
    start_worker,
)
from tests.support.wait import until
from tests.support.written import calls_of

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(200)]


def grow(bootstrap: str, topic: str, partitions: int) -> None:
    """Raises if the broker refuses."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_partitions([NewPartitions(topic, partitions)]).values():
        future.result(30)


def write(bootstrap: str, topic: str, partition: int, *rows: tuple[bytes, bytes]) -> None:
    """Key and value of records, once the partition is known."""
    for _ in range(100):
        failed: list[str] = []
        producer = Producer({"bootstrap.servers": bootstrap})
        try:
            for key, value in rows:
                producer.produce(
                    topic, key=key, value=value, partition=partition,
                    on_delivery=lambda error, _, failed=failed: error and failed.append(str(error)),
                )  # fmt: skip
        except KafkaException as error:
            failed.append(str(error))
        assert producer.flush(30) == 0
        if not failed:
            return
        assert all("partition" in error.lower() for error in failed), failed
        time.sleep(0.2)
    raise AssertionError("the partition stays unknown")


@pytest.mark.parametrize("from_end", [False, True])
async def test_a_follower_reads_partitions_that_are_added(
    kafka: KafkaCluster, prefix: str, monkeypatch: pytest.MonkeyPatch, from_end: bool
) -> None:
    """From their beginning, also if it began with the end of the others; nothing is applied twice."""
    monkeypatch.setattr(module, "METADATA_MAX_AGE_MS", 300)
    broker, topic = kafka.bootstrap_servers, f"{prefix}controls"
    await asyncio.to_thread(apply_topics, broker, prefix)
    count = partition_count(broker, topic)
    await asyncio.to_thread(write, broker, topic, 0, (b"old", b"{}"))
    applied: list[bytes] = []
    follower = Follower(
        {"bootstrap_servers": broker}, topic, lambda record: applied.append(record.key), from_end=from_end
    )
    await follower.start()
    try:
        await asyncio.to_thread(grow, broker, topic, count + 2)
        await asyncio.to_thread(write, broker, topic, count + 1, (b"new", b"{}"))
        await asyncio.to_thread(write, broker, topic, 0, (b"other", b"{}"))
        try:
            await until(lambda: {b"new", b"other"} <= set(applied), 60)
        except TimeoutError:
            raise AssertionError(f"applied {applied}, problem {follower.problem}") from None
        await follower.catch_up()
        expected = [b"new", b"other"] if from_end else [b"new", b"old", b"other"]
        assert sorted(applied) == expected
    finally:
        await follower.stop()


def test_growing_one_topic_alone_stops_no_worker(kafka: KafkaCluster, prefix: str) -> None:
    """What is on the partitions that all topics have is answered, by two workers; the rest once all have as many."""
    broker = kafka.bootstrap_servers
    apply_topics(broker, prefix)
    count = partition_count(broker, f"{prefix}tasks")
    options = ("--roles", "dispatch", "--session-timeout", "6s")
    workers = [start_worker(broker, prefix, *options) for _ in range(2)]
    tap = Tap(broker, f"{prefix}results")
    try:
        with instant_agent() as (_, endpoint):
            limits = {"maxRequests": 100_000, "windowMs": 60_000, "maxConcurrency": 20}
            register(broker, prefix, *({"id": f"a{n}", "endpoint": endpoint, "limits": limits} for n in range(8)))
            grow(broker, f"{prefix}tasks", 2 * count)
            sent = _send(broker, prefix, "a", 2 * count)
            there = {task for task, partition in sent.items() if partition < count}
            found = _read(tap, len(there), 90)
            assert set(found) == there
            assert all(worker.popen.poll() is None for worker in workers)
            for topic in ("dispatch", "parked", "state"):
                grow(broker, f"{prefix}{topic}", 2 * count)
            found += _read(tap, len(sent) - len(there), 90)
            assert found == Counter(sent.keys())
    finally:
        tap.close()
        codes = [worker.stop() for worker in workers]
    assert codes == [0, 0]


def test_growing_all_but_the_topic_state_is_told_by_worker_and_doctor(
    kafka: KafkaCluster, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be remembered of the added partitions: their tasks wait, and both name the topic and the remedy."""
    broker, worker_log = kafka.bootstrap_servers, tmp_path / "log"
    monkeypatch.setenv("TEST_WORKER_LOG", str(worker_log))
    apply_topics(broker, prefix, "--partitions", "2")
    worker = start_worker(broker, prefix, "--roles", "dispatch", "--session-timeout", "6s")
    doctor = parallax("doctor", "--bootstrap-servers", broker, "--topic-prefix", prefix)
    try:
        with instant_agent() as (_, endpoint):
            limits = {"maxRequests": 100_000, "windowMs": 60_000, "maxConcurrency": 20}
            register(broker, prefix, *({"id": f"a{n}", "endpoint": endpoint, "limits": limits} for n in range(8)))
            for topic in INTAKE:
                grow(broker, f"{prefix}{topic}", 4)
            sent = _send(broker, prefix, "a", 4)
            wanted = f"{prefix}state has 2 partitions and none of number 2"
            deadline = time.monotonic() + 90
            while wanted not in worker_log.read_text("utf-8"):
                assert time.monotonic() < deadline
                time.sleep(0.2)
            told = subprocess.run(doctor, capture_output=True, text=True, timeout=60, check=False)
            assert told.returncode == 1
            assert f"{prefix}state has 2" in told.stdout
            apply_topics(broker, prefix)
            tap = Tap(broker, f"{prefix}results")
            try:
                assert _read(tap, len(sent), 90) == Counter(sent.keys())
            finally:
                tap.close()
    finally:
        code = worker.stop()
    assert code == 0


def test_agents_move_with_what_is_known_of_them(kafka: KafkaCluster, prefix: str, tmp_path: Path) -> None:
    """`topics grow` from 4 to 16 with a kill: ids, a rate limit, an open circuit, delayed tasks and a plan go along."""
    broker = kafka.bootstrap_servers
    apply_topics(broker, prefix, "--partitions", "4")
    moved = (name for n in range(1000) if owner_partition(name := f"m{n}", 16) >= 4)
    well, tight, sick, slow = (next(moved) for _ in range(4))
    logs = {name: tmp_path / name for name in (well, tight)}
    options = ("--roles", "dispatch,plans,schedules", "--session-timeout", "6s")
    with (
        fake_agent("--log", str(logs[well])) as at_well,
        fake_agent("--log", str(logs[tight])) as at_tight,
        fake_agent("--behaviour", "status:code=503") as at_sick,
        instant_agent("--delay-ms", "4000") as (_, at_slow),
    ):
        wide = {"maxRequests": 1_000_000, "windowMs": 60_000, "maxConcurrency": 20}
        breaker = {"failureThreshold": 3, "resetTimeout": 600_000, "monitoringPeriod": 60_000}
        register(
            broker, prefix,
            {"id": well, "endpoint": at_well, "limits": wide, "capabilities": ["any"]},
            {"id": tight, "endpoint": at_tight, "limits": {"maxRequests": 10, "windowMs": 600_000, "maxConcurrency": 10}},
            {"id": sick, "endpoint": at_sick, "limits": wide, "breaker": breaker},
            {"id": slow, "endpoint": at_slow, "limits": wide},
        )  # fmt: skip
        workers = {name: start_worker(broker, prefix, *options, "--instance-id", name) for name in ("w1", "w2")}
        try:
            before, tap = _tasks(well, 200, 100), Tap(broker, f"{prefix}results")
            soon = {"expiresIn": 15_000, "retries": 0, "cache": False}
            later = {"notBefore": round((time.time() + 60) * 1000)}
            produce(broker, f"{prefix}tasks", before)
            produce(broker, f"{prefix}tasks", [_task(f"r{n}", tight) for n in range(7)])
            produce(broker, f"{prefix}tasks", [_task(f"s{n}", sick, **soon) for n in range(3)])
            produce(broker, f"{prefix}tasks", [_task(f"l{n}", well, **later) for n in range(20)])
            assert len(tap.until(310, 60)) == 310
            tap.close()
            steps = [{"id": f"p{n}", "type": "agent", "target": slow, "payload": n} for n in range(10)]
            plans = [{"id": f"plan{n}", "kind": "sequential", "tasks": steps} for n in range(8)]
            produce(broker, f"{prefix}plans", [(p["id"].encode(), json.dumps(p).encode()) for p in plans])
            ours = ("--bootstrap-servers", broker, "--topic-prefix", prefix)
            assert Process(parallax("topics", "grow", "--partitions", "6", *ours)).run() == 1, "6 is no multiple of 4"
            growing = Process(
                parallax("topics", "grow", "--partitions", "16", *ours),
                {"PARALLAX_APP_ID": prefix.rstrip(".")},
            )
            produce(broker, f"{prefix}tasks", before)
            assert growing.run() == 0
            workers["w1"].kill()
            workers["w1"] = start_worker(broker, prefix, *options, "--instance-id", "w1")
            produce(broker, f"{prefix}tasks", before)
            produce(broker, f"{prefix}tasks", [_task(f"r{n}", tight, **soon) for n in range(7, 14)])
            produce(broker, f"{prefix}tasks", [_task("s3", sick, **soon)])
            tap, ends = Tap(broker, f"{prefix}results"), Tap(broker, f"{prefix}plan-results")
            expected = 300 + 14 + 4 + 20 + 80
            found = [json.loads(message.value()) for message in tap.until(expected, 120, quiet_s=3)]
            ended = [json.loads(message.value()) for message in ends.until(8, 60)]
            tap.close()
            ends.close()
        finally:
            codes = [worker.stop() for worker in workers.values()]
    assert codes == [0, 0]
    counts = Counter(row["taskId"] for row in found)
    assert set(counts.values()) == {1}, [name for name, count in counts.items() if count > 1]
    assert len(found) == expected
    assert {plan["planId"]: plan["status"] for plan in ended} == {f"plan{n}": "success" for n in range(8)}
    codes_of = Counter((row["taskId"][0], (row.get("error") or {}).get("code")) for row in found)
    assert codes_of["r", None] == 10, "the new owner knows the calls of the window"
    assert codes_of["s", "expired"] == 1, "the circuit is open there too"
    assert len(calls_of(logs[tight])) == 10
    assert set(Counter(call["key"] for call in calls_of(logs[well])).values()) == {1}


def _task(name: str, target: str, **metadata: Any) -> tuple[None, bytes]:
    value = {"id": name, "type": "agent", "target": target, "payload": {"n": name}, "metadata": metadata}
    return None, json.dumps(value).encode()


def _tasks(target: str, named: int, capable: int) -> list[tuple[None, bytes]]:
    """Some name their agent, some only what it can do."""
    tasks = [_task(f"t{n}", target) for n in range(named)]
    for n in range(capable):
        task = {"id": f"c{n}", "type": "agent", "capabilities": ["any"], "payload": {"n": f"c{n}"}}
        tasks.append((None, json.dumps(task).encode()))
    return tasks


def _send(broker: str, prefix: str, kind: str, partitions: int) -> dict[str, int]:
    """Ten tasks on each partition; their ids with it."""
    sent: dict[str, int] = {}
    for partition in range(partitions):
        rows = []
        for n in range(10):
            task = f"{kind}{partition}-{n}"
            sent[task] = partition
            value = json.dumps({"id": task, "type": "agent", "target": f"a{n % 8}", "payload": 0})
            rows.append((task.encode(), value.encode()))
        write(broker, f"{prefix}tasks", partition, *rows)
    return sent


def _read(tap: Tap, count: int, timeout_s: float) -> Counter[str]:
    return Counter(json.loads(m.value())["taskId"] for m in tap.until(count, timeout_s, quiet_s=2))
