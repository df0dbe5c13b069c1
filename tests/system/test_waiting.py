"""Ordinary days on real Kafka: backlogs for agents that are slow, limited or down. Work waits; only calls time out."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from schemas.partitioning import owner_partition
from tests.support.kafka import KafkaCluster
from tests.support.rig import Tap, apply_topics, fake_agent, instant_agent, produce, register, start_worker, stopping

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
WIDE = {"maxRequests": 1_000_000, "windowMs": 60_000, "maxConcurrency": 20}
BREAKER = {"failureThreshold": 3, "resetTimeout": 4000, "monitoringPeriod": 60_000}
OPTIONS = ("--roles", "dispatch", "--instance-id", "w1", "--session-timeout", "6s")


class _Agent:
    """Answers after `seconds`, or with 503 while it is down; counts the most calls at once."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.down = False
        self.most = self._now = 0
        self._counting = threading.Lock()

    def answer(self) -> tuple[int, bytes]:
        with self._counting:
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(0.0 if self.down else self.seconds)
        with self._counting:
            self._now -= 1
        return (503, b"{}") if self.down else (200, b'{"value":"ok","confidence":0.9}')


@contextmanager
def slow_agent(seconds: float) -> Iterator[tuple[_Agent, str]]:
    """An agent in this process; yields it and its endpoint."""
    agent = _Agent(seconds)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self._reply(*agent.answer())

        def do_GET(self) -> None:
            self._reply(200, b"{}")

        def _reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield agent, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def task(number: int, agent: str, **metadata: Any) -> bytes:
    fields = {"id": f"{agent}-{number}", "type": "agent", "target": agent, "payload": {"n": number}}
    return json.dumps(fields | {"metadata": metadata}).encode()


def outcomes(messages: list[Any]) -> Counter[tuple[str, str | None]]:
    """How many results of each status and error code; each task must have one."""
    found = [json.loads(message.value()) for message in messages]
    assert max(Counter(result["taskId"] for result in found).values()) == 1
    return Counter((result["status"], (result.get("error") or {}).get("code")) for result in found)


def heal(endpoint: str) -> None:
    """The scripted agent answers from now on."""
    assert httpx.post(f"{endpoint}/script", json=["answer:confidence=0.9"], timeout=10).is_success


def test_a_burst_waits_for_its_turns_of_the_rate_limit(kafka: KafkaCluster, prefix: str) -> None:
    """Five windows full of tasks at once: each is answered, none fails, and results say how long they waited."""
    broker = kafka.bootstrap_servers
    apply_topics(broker, prefix)
    with instant_agent() as (_, endpoint):
        limits = {"maxRequests": 20, "windowMs": 3000, "maxConcurrency": 10}
        register(broker, prefix, {"id": "a1", "endpoint": endpoint, "limits": limits})
        with stopping(start_worker(broker, prefix, *OPTIONS)):
            results = Tap(broker, f"{prefix}results")
            produce(broker, f"{prefix}tasks", ((b"a1", task(n, "a1")) for n in range(100)))
            seen = results.until(100, 90, quiet_s=2)
            results.close()
    assert outcomes(seen) == {("success", None): 100}
    waits = sorted(json.loads(message.value())["waitTime"] for message in seen)
    assert waits[-1] > 8000 > waits[0], "five windows of 3 s"


def test_a_slow_agent_is_not_blamed_for_its_queue(kafka: KafkaCluster, prefix: str) -> None:
    """Two seconds a call, four at once, twelve tasks behind each other: the attempt's timeout does not run while they wait."""
    broker = kafka.bootstrap_servers
    apply_topics(broker, prefix)
    with slow_agent(2.0) as (agent, endpoint):
        limits = WIDE | {"maxConcurrency": 4}
        register(broker, prefix, {"id": "a1", "endpoint": endpoint, "limits": limits, "breaker": BREAKER})
        with stopping(start_worker(broker, prefix, *OPTIONS)):
            results, events = Tap(broker, f"{prefix}results"), Tap(broker, f"{prefix}events")
            produce(broker, f"{prefix}tasks", ((b"a1", task(n, "a1", timeout=15_000)) for n in range(40)))
            seen = results.until(40, 120)
            kinds = {json.loads(message.value())["type"] for message in events.until(80, 5)}
            results.close()
            events.close()
        assert agent.most == 4
    assert outcomes(seen) == {("success", None): 40}
    assert "circuit:open" not in kinds


def test_an_outage_costs_no_task_that_can_wait(kafka: KafkaCluster, prefix: str) -> None:
    """The agent answers 503 for ten seconds under load: what was called when it went down is tried again, the rest waits."""
    broker = kafka.bootstrap_servers
    apply_topics(broker, prefix)
    with slow_agent(0.05) as (agent, endpoint):
        breaker = {"failureThreshold": 3, "resetTimeout": 1000, "monitoringPeriod": 60_000}
        register(broker, prefix, {"id": "a1", "endpoint": endpoint, "limits": WIDE, "breaker": breaker})
        with stopping(start_worker(broker, prefix, *OPTIONS)):
            results, events = Tap(broker, f"{prefix}results"), Tap(broker, f"{prefix}events")
            for number in range(100):
                agent.down = 20 <= number < 70
                produce(broker, f"{prefix}tasks", [(b"a1", task(number, "a1"))])
                time.sleep(0.2)
            hasty = task(1000, "a1", expiresIn=60_000)
            produce(broker, f"{prefix}tasks", [(b"a1", hasty)])
            seen = results.until(101, 90, quiet_s=2)
            kinds = Counter(json.loads(message.value())["type"] for message in events.read(5))
            results.close()
            events.close()
    assert outcomes(seen) == {("success", None): 101}
    assert kinds["circuit:open"] >= 1, "the outage was felt"


def test_behind_an_open_circuit_a_deadline_ends_a_task_at_once(kafka: KafkaCluster, prefix: str) -> None:
    """`expired`, with what it would have waited for; a task without a deadline waits and is answered."""
    broker = kafka.bootstrap_servers
    apply_topics(broker, prefix)
    with slow_agent(0.0) as (agent, endpoint):
        breaker = {"failureThreshold": 3, "resetTimeout": 6000, "monitoringPeriod": 60_000}
        register(broker, prefix, {"id": "a1", "endpoint": endpoint, "limits": WIDE, "breaker": breaker})
        agent.down = True
        with stopping(start_worker(broker, prefix, *OPTIONS)):
            results, events = Tap(broker, f"{prefix}results"), Tap(broker, f"{prefix}events")
            produce(broker, f"{prefix}tasks", ((b"a1", task(n, "a1", retries=0)) for n in range(3)))
            opened = [json.loads(m.value())["type"] for m in events.until(7, 30)]
            assert "circuit:open" in opened
            agent.down = False
            produce(broker, f"{prefix}tasks", [(b"a1", task(10, "a1", expiresIn=1500)), (b"a1", task(11, "a1"))])
            seen = {r["taskId"]: r for m in results.until(5, 60) for r in [json.loads(m.value())]}
            results.close()
            events.close()
    assert seen["a1-10"]["error"]["code"] == "expired"
    assert "circuit" in seen["a1-10"]["error"]["message"]
    assert seen["a1-11"]["status"] == "success"


def test_a_flood_waits_on_its_topic_and_lets_others_pass(kafka: KafkaCluster, prefix: str) -> None:
    """3,000 tasks of a slow agent in a worker with memory for few, then 50 of another agent in the same partition."""
    broker = kafka.bootstrap_servers
    apply_topics(broker, prefix)
    flood = "flood"
    other = next(name for n in range(1000) if owner_partition(name := f"b{n}", 8) == owner_partition(flood, 8))
    with instant_agent() as (_, endpoint):
        slow = {"maxRequests": 100, "windowMs": 1000, "maxConcurrency": 10}
        register(
            broker, prefix,
            {"id": flood, "endpoint": endpoint, "limits": slow}, {"id": other, "endpoint": endpoint, "limits": WIDE},
        )  # fmt: skip
        env = {"PARALLAX_DISPATCH__MAX_HELD_BYTES": "500000"}
        worker = start_worker(broker, prefix, *OPTIONS, env=env)
        results = Tap(broker, f"{prefix}results")
        produce(broker, f"{prefix}tasks", ((flood.encode(), task(n, flood, cache=False)) for n in range(3000)))
        produce(broker, f"{prefix}tasks", ((other.encode(), task(n, other, cache=False)) for n in range(50)))
        seen: list[Any] = []
        passed: list[int] = []
        while len(passed) < 50 and len(seen) < 3050:
            for message in results.until(1, 60):
                seen.append(message)
                if json.loads(message.value())["agentId"] == other:
                    passed.append(len(seen))
        assert len(passed) == 50
        assert len(seen) < 2500, "the others did not wait for the flood to end"
        worker.kill()  # what waits on its topic, in memory or at the agent goes on under the next owner
        with stopping(start_worker(broker, prefix, *OPTIONS, env=env)):
            seen += results.until(3050 - len(seen), 120, quiet_s=2)
        results.close()
    assert outcomes(seen) == {("success", None): 3050}
    order = [
        int(r["taskId"].rpartition("-")[2]) for m in seen for r in [json.loads(m.value())] if r["agentId"] == flood
    ]
    moved = max(abs(place - number) for place, number in enumerate(order))
    assert moved < 300, "the order is kept but for calls at once and the worker's death"


def test_tasks_of_an_agent_that_is_down_wait_and_are_answered_once(kafka: KafkaCluster, prefix: str) -> None:
    """300 waiting tasks survive a SIGKILL and are answered once each when the agent is back; a well agent never waits."""
    broker = kafka.bootstrap_servers
    apply_topics(broker, prefix)
    with fake_agent("--behaviour", "status:code=503") as sick, instant_agent() as (_, well):
        register(
            broker,
            prefix,
            {"id": "sick", "endpoint": sick, "limits": WIDE, "breaker": BREAKER},
            {"id": "well", "endpoint": well, "limits": WIDE},
        )
        worker = start_worker(broker, prefix, *OPTIONS)
        events = Tap(broker, f"{prefix}events")
        produce(broker, f"{prefix}tasks", ((None, task(n, "sick", retries=50)) for n in range(300)))
        opened = False
        end = time.monotonic() + 60
        while not opened and time.monotonic() < end:
            opened = any(json.loads(message.value())["type"] == "circuit:open" for message in events.read())
        events.close()
        assert opened
        produce(broker, f"{prefix}tasks", ((None, task(n, "well")) for n in range(300)))
        results = Tap(broker, f"{prefix}results")
        seen = results.until(300, 30)
        assert {json.loads(m.value())["agentId"] for m in seen} == {"well"}
        worker.kill()
        heal(sick)
        with stopping(start_worker(broker, prefix, *OPTIONS)):
            seen += results.until(300, 60, quiet_s=3)
        results.close()
    assert outcomes(seen) == {("success", None): 600}
