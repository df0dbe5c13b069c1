"""The main promise on real Kafka: plain tasks of a foreign client in, each answered exactly once, also when a worker dies."""

from __future__ import annotations

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.kafka import KafkaCluster
from tests.support.rig import (
    Tap,
    apply_topics,
    committed,
    fake_agent,
    instant_agent,
    log_ends,
    produce,
    register,
    start_worker,
    stopping,
)
from tests.support.wait import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]
WIDE = {"maxRequests": 1_000_000, "windowMs": 60_000, "maxConcurrency": 50}


@pytest.fixture
def topics(kafka: KafkaCluster, prefix: str) -> str:
    """The broker's address; this test's topics exist on it."""
    apply_topics(kafka.bootstrap_servers, prefix)
    return kafka.bootstrap_servers


def task(number: int, agent: str, **more: Any) -> bytes:
    return json.dumps(
        {"id": f"t{number}", "type": "agent", "target": agent, "payload": {"n": number, "task": "look"}, **more}
    ).encode()


def values(tap: Tap, count: int, timeout_s: float = 60.0, quiet_s: float = 1.0) -> list[dict[str, Any]]:
    try:
        return [json.loads(message.value()) for message in tap.until(count, timeout_s, quiet_s)]
    finally:
        tap.close()


@pytest.fixture
def agents() -> Iterator[str]:
    with instant_agent("--vary") as (_, endpoint):
        yield endpoint


def test_twenty_thousand_plain_tasks_are_each_answered_once(topics: str, prefix: str, agents: str) -> None:
    """20,000 results, points and pairs of events; every id once; inputs committed to their end; windows equal a recount."""
    count = 20_000
    register(topics, prefix, *({"id": f"a{i}", "endpoint": agents, "limits": WIDE} for i in range(10)))
    with (
        stopping(start_worker(topics, prefix, "--roles", "stats")),
        stopping(start_worker(topics, prefix, "--roles", "dispatch")),
    ):
        produce(topics, f"{prefix}tasks", ((None, task(i, f"a{i % 10}")) for i in range(count)))
        results = values(Tap(topics, f"{prefix}results"), count, 120, quiet_s=2)
        assert len(results) == count
        assert {r["taskId"] for r in results} == {f"t{i}" for i in range(count)}
        assert {r["status"] for r in results} == {"success"}
        points = values(Tap(topics, f"{prefix}data-points"), count)
        assert len(points) == count
        assert sorted(p["confidence"] for p in points) == sorted(r["confidence"] for r in results)
        events = Counter(e["type"] for e in values(Tap(topics, f"{prefix}events"), 2 * count))
        assert events["task:started"] == events["task:completed"] == count
        group = f"{prefix.rstrip('.')}-dispatch"
        for name in ("tasks", "dispatch"):
            ends = log_ends(topics, prefix + name)
            wait_for(lambda name=name: committed(topics, group, prefix + name), ends)
        wait_for(lambda: minute_windows(topics, prefix), recount(points))


def wait_for(look: Callable[[], Any], wanted: Any) -> None:
    """Wait until `look` finds what is wanted; the error shows what it found."""
    found: list[Any] = [None]

    def wanted_found() -> bool:
        found[0] = look()
        return bool(found[0] == wanted)

    wait_until(wanted_found, why=lambda: f"{found[0]!r} is not {wanted!r}")


def rounded(count: int, mean: float, variance: float) -> tuple[int, float, float]:
    return count, round(mean, 12), round(variance, 12)


def recount(points: list[dict[str, Any]]) -> dict[tuple[str, str], tuple[int, float, float]]:
    """Count, mean and population variance of confidence by agent and minute, with the standard library alone."""
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for point in points:
        groups[point["agentId"], point["timestamp"][:16]].append(point["confidence"])
    return {key: rounded(len(c), statistics.fmean(c), statistics.pvariance(c)) for key, c in groups.items()}


def minute_windows(bootstrap: str, prefix: str) -> dict[tuple[str, str], tuple[int, float, float]]:
    """The newest revision of every minute window on `aggregates`."""
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for window in values(Tap(bootstrap, f"{prefix}aggregates"), 1, 10, quiet_s=1):
        key = window["agentId"], window["windowStart"][:16]
        if window["interval"] == "minute" and window["revision"] >= newest.get(key, window)["revision"]:
            newest[key] = window
    return {key: rounded(w["count"], w["avgConfidence"], w["variance"]) for key, w in newest.items()}


def test_a_killed_worker_leaves_each_result_once(topics: str, prefix: str) -> None:
    """SIGKILL twice in the middle of agents of different speeds: nothing lost, nothing doubled, and work was really cut off."""
    count = 8_000
    with instant_agent("--delay-ms", "5") as (_, quick), instant_agent("--delay-ms", "120") as (_, slow):
        endpoints = [quick, quick, slow, quick]
        register(topics, prefix, *({"id": f"a{i}", "endpoint": endpoints[i % 4], "limits": WIDE} for i in range(12)))
        options = ("--roles", "dispatch", "--instance-id", "w1", "--session-timeout", "6s")
        worker = start_worker(topics, prefix, *options)
        produce(topics, f"{prefix}tasks", ((None, task(i, f"a{i % 12}")) for i in range(count)))
        tap = Tap(topics, f"{prefix}results")
        seen: list[Any] = []
        for share in (0.25, 0.6):
            seen += tap.until(int(count * share) - len(seen), 60)
            worker.kill()
            assert len(seen) < count, "the kill came too late to be felt"
            worker = start_worker(topics, prefix, *options)
        try:
            seen += tap.until(count - len(seen), 120, quiet_s=3)
            ids = Counter(json.loads(message.value())["taskId"] for message in seen)
            assert len(ids) == count
            assert [i for i, n in ids.items() if n > 1] == []
            started = Counter(
                e["data"]["taskId"]
                for e in values(Tap(topics, f"{prefix}events"), 2 * count)
                if e["type"] == "task:started"
            )
            assert max(started.values()) > 1, "no call was cut off by a kill: the fault was not felt"
        finally:
            tap.close()
            assert worker.stop() == 0


BAD: dict[str, bytes | None] = {
    "not JSON": b"hello",
    "not UTF-8": b'{"id": "\xff"}',
    "an array": b"[1, 2]",
    "null value": None,
    "empty": b"",
    "NaN": b'{"id":"b","type":"agent","target":"good","payload":{"x":NaN}}',
    "no id": b'{"type":"agent","target":"good","payload":{}}',
    "a number as id": b'{"id":7,"type":"agent","target":"good","payload":{}}',
    "unknown type": b'{"id":"b","type":"robot","target":"good","payload":{}}',
    "no target": b'{"id":"b","type":"agent","payload":{}}',
    "timeout as text": b'{"id":"b","type":"agent","target":"good","payload":{},"metadata":{"timeout":"soon"}}',
    "too deep": b'{"id":"b","type":"agent","target":"good","payload":' + b"[" * 400 + b"]" * 400 + b"}",
    "half a structured CloudEvent": b'{"specversion":"1.0"}',
}


def test_bad_input_costs_its_own_record_only(topics: str, prefix: str, agents: str) -> None:
    """Each bad record lies on the dead-letter topic with its bytes and a reason; its neighbours are answered."""
    register(topics, prefix, {"id": "good", "endpoint": agents, "limits": WIDE})
    worker = start_worker(topics, prefix, "--roles", "dispatch")
    try:
        records: list[tuple[bytes | None, bytes | None]] = []
        for number, bad in enumerate(BAD.values()):
            records += [(b"k", task(number, "good")), (b"k", bad)]
        huge = json.dumps({"id": "huge", "type": "agent", "target": "good", "payload": "x" * 5_242_880}).encode()
        junk = b"y" * 5_242_880
        records += [(b"k", huge), (b"k", junk), (b"k", task(1000, "nobody")), (b"k", task(1001, "good"))]
        produce(topics, f"{prefix}tasks", records, **{"message.max.bytes": 8_000_000})
        expected = len(BAD) + 3
        results = {r["taskId"]: r for r in values(Tap(topics, f"{prefix}results"), expected)}
        assert len(results) == expected
        assert results["t1001"]["status"] == "success"
        assert results["huge"]["error"]["code"] == "too_large"
        assert "1048576" in results["huge"]["error"]["message"]
        assert results["t1000"]["error"]["code"] == "no_agent"
        letters = Tap(topics, f"dlq.{prefix}tasks")
        found = letters.until(len(BAD) + 1, 30, quiet_s=1)
        letters.close()
        assert Counter(m.value() for m in found) == Counter([*BAD.values(), junk])
        for message in found:
            headers = dict(message.headers())
            assert headers["__dlq.errors.topic"] == f"{prefix}tasks".encode()
            assert headers["__dlq.errors.message"], headers
            assert message.key() == b"k"
        reasons = {m.value(): dict(m.headers())["__dlq.errors.message"].decode() for m in found}
        assert reasons[BAD["no id"]].startswith("id:")
        assert reasons[BAD["timeout as text"]].startswith("metadata.timeout:")
        assert reasons[None] == "value: is null"
    finally:
        assert worker.stop() == 0


SICK = {
    "html": ("html", "bad_response"),
    "empty": ("empty", "bad_response"),
    "nan": ("nan", "bad_response"),
    "garbage": ("garbage", "bad_response"),
    "five-hundred": ("status:code=500", "http_5xx"),
    "refuses": ("status:code=422", "http_4xx"),
    "hangs": ("hang", "timeout"),
    "resets": ("reset", "connection"),
    "huge": ("huge", "too_large"),
}


def test_sick_agents_cost_their_own_tasks_only(topics: str, prefix: str, agents: str) -> None:
    """Each way an agent can be sick ends its task with the right code; a well agent in the same partitions is untouched."""
    with ExitStack() as stack:
        registrations = [{"id": "well", "endpoint": agents, "limits": WIDE}]
        for name, (behaviour, _) in SICK.items():
            fake = stack.enter_context(fake_agent("--behaviour", behaviour))
            registrations.append({"id": name, "endpoint": fake})
        registrations.append({"id": "gone", "endpoint": "http://127.0.0.1:9"})
        register(topics, prefix, *registrations)
        worker = stack.enter_context(stopping(start_worker(topics, prefix, "--roles", "dispatch")))
        quick = {"metadata": {"timeout": 2500, "retries": 1, "mine": "kept"}}
        produce(
            topics,
            f"{prefix}tasks",
            [
                (None, task(i, name, **quick) if i % 4 == 0 else task(i, "well"))
                for i, name in enumerate(spread(registrations))
            ],
        )
        count = 4 * len(registrations)
        results = {r["taskId"]: r for r in values(Tap(topics, f"{prefix}results"), count, 60)}
        assert len(results) == count
        for number, name in enumerate(spread(registrations)):
            result = results[f"t{number}"]
            if number % 4 or name == "well":
                assert result["status"] == "success", result
                continue
            code = "connection" if name == "gone" else SICK[name][1]
            assert result["error"]["code"] == code, (name, result)
            assert result["status"] == ("timeout" if code == "timeout" else "failure")
            assert result["error"]["agentId"] == name
            assert result["metadata"]["mine"] == "kept"
            assert result["error"]["message"]
        assert worker.popen.poll() is None


def spread(registrations: list[dict[str, Any]]) -> list[str]:
    """Every agent's id, four times in a row."""
    return [r["id"] for r in registrations for _ in range(4)]
