"""Tasks that are removed from their topic before they were worked on, on real Kafka: counted once, reported in each place.

Records are deleted by hand here. Retention moves the begin of a log in the same way, only later.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from prometheus_client.parser import text_string_to_metric_families

from tests.support.kafka import KafkaCluster
from tests.support.rig import Process, Tap, parallax, produce, register, start_worker
from tests.support.wait import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
QUIET_S = 3.0


@contextmanager
def gated_agent() -> Iterator[tuple[str, threading.Event]]:
    """An agent that answers once its gate is open."""
    gate = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            gate.wait(60)
            body = b'{"value":1,"confidence":0.9}'
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *given: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", gate
        finally:
            gate.set()
            server.shutdown()


class Work:
    """Tasks of one agent on topics of one partition each, and what becomes of them."""

    def __init__(self, address: str, prefix: str, endpoint: str, log: Path) -> None:
        self.address, self.prefix, self.log = address, prefix, log
        options = ("--partitions", "1", "--bootstrap-servers", address, "--topic-prefix", prefix)
        assert Process(parallax("topics", "apply", *options)).run() == 0
        limits = {"maxRequests": 100_000, "windowMs": 60_000, "maxConcurrency": 4}
        register(address, prefix, {"id": "a1", "endpoint": endpoint, "limits": limits})
        self.sent = 0
        self.web = ""

    def worker(self, roles: str = "dispatch") -> Process:
        """Once it is ready."""
        options = ("--roles", roles, "--session-timeout", "30s", "--instance-id", "w1", "-o", "json")
        # So little memory that most of 600 tasks stay on their topic.
        env = {"PARALLAX_DISPATCH__MAX_HELD_BYTES": "1048576"}
        worker = start_worker(self.address, self.prefix, *options, env=env, wait=False)
        self.web = json.loads(worker.line(90))["web"]
        return worker

    def send(self, count: int) -> None:
        """The next tasks."""
        tasks = [
            json.dumps(
                {"id": f"t{n}", "type": "agent", "target": "a1", "payload": n, "metadata": {"cache": False}}
            ).encode()
            for n in range(self.sent, self.sent + count)
        ]
        self.sent += count
        produce(self.address, f"{self.prefix}tasks", ((b"a1", task) for task in tasks))

    def delete_before(self, offset: int, topic: str = "tasks") -> None:
        """The topic begins there from now on."""
        admin = AdminClient({"bootstrap.servers": self.address})
        for future in admin.delete_records([TopicPartition(f"{self.prefix}{topic}", 0, offset)]).values():
            future.result()

    def results(self, count: int) -> Counter[str]:
        """How often each task has a result, once there are `count` and no more come."""
        return Counter(record["taskId"] for record in self.read("results", count))

    def reported(self) -> list[dict[str, Any]]:
        """The events of it."""
        return [event["data"] for event in self.read("events", 1) if event["type"] == "records:expired"]

    def read(self, topic: str, count: int) -> list[dict[str, Any]]:
        tap = Tap(self.address, f"{self.prefix}{topic}")
        try:
            return [json.loads(message.value()) for message in tap.until(count, 60, quiet_s=QUIET_S)]
        finally:
            tap.close()

    def row(self, topic: str = "tasks") -> dict[str, Any]:
        """That of the topic at `/api/v1/partitions`."""
        rows = httpx.get(f"{self.web}/api/v1/partitions", timeout=10).json()
        return next(row for row in rows if row["topic"] == f"{self.prefix}{topic}")

    def metric(self, name: str) -> float:
        """Of the topic `tasks`, at `/metrics`."""
        page = httpx.get(f"{self.web}/metrics", timeout=10).text
        samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
        [value] = [s.value for s in samples if s.name == name and s.labels["topic"] == f"{self.prefix}tasks"]
        return value

    def lines(self) -> list[str]:
        """What workers logged of it."""
        return [line for line in self.log.read_text().splitlines() if "records expired before" in line]


@pytest.fixture
def work(
    kafka: KafkaCluster, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Work, threading.Event]]:
    """Topics and an agent, and the agent's gate."""
    log = tmp_path / "worker.log"
    monkeypatch.setenv("TEST_WORKER_LOG", str(log))
    with gated_agent() as (endpoint, gate):
        yield Work(kafka.bootstrap_servers, prefix, endpoint, log), gate


def names(*numbers: range) -> Counter[str]:
    """Each task once."""
    return Counter(f"t{n}" for one in numbers for n in one)


@pytest.mark.parametrize("when", ["stopped", "frozen"])
def test_unread_tasks_that_are_removed_are_counted_once(work: tuple[Work, threading.Event], when: str) -> None:
    """Ten are done; of the next thirty, twenty are removed while the worker is away. The other ten are answered."""
    one, gate = work
    gate.set()
    worker = one.worker()
    try:
        one.send(10)
        assert one.results(10) == names(range(10))
        wait_until(lambda: one.row()["committable"] == 10)
        if when == "stopped":
            assert worker.stop() == 0
        else:
            os.kill(worker.pid, signal.SIGSTOP)
            time.sleep(1)  # a fetch that was under way is answered
        one.send(30)
        one.delete_before(30)
        if when == "stopped":
            worker = one.worker()
        else:
            os.kill(worker.pid, signal.SIGCONT)
        assert one.results(20) == names(range(10), range(30, 40))
        event = {"topic": f"{one.prefix}tasks", "partition": 0, "first": 10, "last": 29, "count": 20}
        assert one.reported() == [event]
        [line] = one.lines()
        assert "retention.ms" in line
        assert one.row()["expired"] == one.metric("parallax_expired_records_total") == 20
        wait_until(lambda: one.row()["committable"] == 40)
        assert worker.stop() == 0
        worker = one.worker()
        assert one.row()["expired"] == one.metric("parallax_expired_records_total") == 0, (
            "the next owner counts nothing"
        )
        assert one.reported() == [event]
    finally:
        worker.stop()


def test_tasks_that_wait_on_their_topic_and_are_removed_are_counted_once(work: tuple[Work, threading.Event]) -> None:
    """The agent hangs, and most tasks wait on their topic. Those that memory holds are answered nevertheless."""
    one, gate = work
    worker = one.worker()
    try:
        assert one.metric("parallax_topic_retention_seconds") == 7 * 86_400
        one.send(600)
        wait_until(lambda: one.row()["inFlight"] == 600)
        wait_until(lambda: one.row()["oldestAge"] > 2000)
        assert one.metric("parallax_oldest_unfinished_record_age_seconds") > 2
        one.delete_before(500)
        gate.set()
        wait_until(lambda: one.row()["committable"] == 600, 60)
        expired = one.row()["expired"]
        assert 100 < expired < 500
        answered = one.results(600 - expired)
        assert set(answered.values()) == {1}
        assert len(answered) == 600 - expired
        assert answered.keys() >= names(range(500, 600)).keys(), "those that are left are read back"
        assert one.metric("parallax_expired_records_total") == expired
        events = one.reported()
        assert sum(event["count"] for event in events) == expired
        assert all(0 < event["first"] <= event["last"] < 500 for event in events)
        assert len(one.lines()) == len(events)
        wait_until(lambda: one.row()["oldestAge"] == 0)
    finally:
        worker.stop()


def test_plans_that_are_removed_unread_are_counted_too(work: tuple[Work, threading.Event]) -> None:
    """Three of five, while no coordinator runs. The other two end normally."""
    one, gate = work
    gate.set()
    worker = one.worker("dispatch,plans")
    try:
        wait_until(lambda: one.row("plans"))
        assert worker.stop() == 0
        step = {"id": "s", "type": "agent", "target": "a1", "payload": 1}
        plans = [json.dumps({"id": f"p{n}", "kind": "sequential", "tasks": [step]}).encode() for n in range(5)]
        produce(one.address, f"{one.prefix}plans", ((b"p", plan) for plan in plans))
        one.delete_before(3, "plans")
        worker = one.worker("dispatch,plans")
        assert sorted(result["planId"] for result in one.read("plan-results", 2)) == ["p3", "p4"]
        assert one.row("plans")["expired"] == 3
        place = {"topic": f"{one.prefix}plans", "partition": 0}
        assert one.reported() == [place | {"first": 0, "last": 2, "count": 3}]
    finally:
        worker.stop()
