"""Offsets that are wrong: a group without its offsets, a topic made anew, a log that lost its end. Nothing is lost or doubled.

The window of ids is a second where a worker starts afterwards, so that remembered ids hide nothing. One that runs while the log
changes may answer some of what is new before it notices, and needs them.
"""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.support.kafka import KafkaCluster
from tests.support.rig import Process, Tap, committed, log_ends, parallax, produce, register, start_worker
from tests.support.wait import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
ENV = {"PARALLAX_CACHE__ENABLED": "false", "PARALLAX_DISPATCH__STALL_AFTER": "6s"}
FORGETFUL = {"PARALLAX_DISPATCH__IDEMPOTENCY_WINDOW": "1s"}


@pytest.fixture
def asked() -> Iterator[tuple[str, list[bytes]]]:
    """An agent's endpoint, and what it was asked."""
    calls: list[bytes] = []

    class Agent(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            calls.append(self.rfile.read(int(self.headers["Content-Length"])))
            body = b'{"value": 1, "confidence": 0.9}'
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *given: Any) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Agent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", calls
        server.shutdown()


class Work:
    """Tasks of one agent in topics of one partition each, and their results."""

    def __init__(self, address: str, prefix: str, endpoint: str, forgetful: bool) -> None:
        self.address, self.prefix = address, prefix
        self.env = ENV | (FORGETFUL if forgetful else {})
        options = ("--partitions", "1", "--bootstrap-servers", address, "--topic-prefix", prefix)
        assert Process(parallax("topics", "apply", *options)).run() == 0
        limits = {"maxRequests": 100_000, "windowMs": 60_000, "maxConcurrency": 20}
        register(address, prefix, {"id": "a1", "endpoint": endpoint, "limits": limits})
        self.group = f"{prefix.rstrip('.')}-dispatch"

    def worker(self, *options: str) -> Process:
        """One that dispatches; it has told that it is ready."""
        return start_worker(self.address, self.prefix, "--roles", "dispatch", *options, env=self.env)

    def send(self, kind: str, count: int) -> None:
        """Tasks `<kind>0` and on."""
        row = {"type": "agent", "target": "a1", "payload": 0}
        tasks = [json.dumps(row | {"id": f"{kind}{n}"}).encode() for n in range(count)]
        produce(self.address, f"{self.prefix}tasks", ((b"a1", task) for task in tasks))

    def results(self, count: int, timeout_s: float = 60.0) -> Counter[str]:
        """How often each task has a result, once there are `count` and no more come."""
        tap = Tap(self.address, f"{self.prefix}results")
        try:
            return Counter(json.loads(m.value())["taskId"] for m in tap.until(count, timeout_s, quiet_s=3))
        finally:
            tap.close()

    def at_end(self) -> None:
        """Wait until the group has committed all of `tasks`."""
        topic = f"{self.prefix}tasks"
        wait_until(lambda: committed(self.address, self.group, topic) == log_ends(self.address, topic), 20)


def names(**counts: int) -> Counter[str]:
    """Each task once."""
    return Counter(f"{kind}{n}" for kind, count in counts.items() for n in range(count))


@pytest.mark.parametrize("how", ["expired", "set back"])
def test_a_group_whose_offsets_are_lost_goes_on_where_it_was(
    kafka: KafkaCluster, prefix: str, asked: tuple[str, list[bytes]], how: str
) -> None:
    """Deleted, as after a week without a worker; or set back to the beginning by hand."""
    work = Work(kafka.bootstrap_servers, prefix, asked[0], forgetful=True)
    worker = work.worker()
    work.send("a", 20)
    assert work.results(20) == names(a=20)
    work.at_end()
    assert worker.stop() == 0
    admin = AdminClient({"bootstrap.servers": work.address})
    if how == "expired":
        for future in admin.delete_consumer_groups([work.group]).values():
            future.result()
    else:
        back = [TopicPartition(f"{prefix}tasks", 0, 0)]
        for future in admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(work.group, back)]).values():
            future.result()
    worker = work.worker()
    try:
        work.send("b", 5)
        assert work.results(25) == names(a=20, b=5)
        assert len(asked[1]) == 25
        work.at_end()
    finally:
        worker.stop()


@pytest.mark.parametrize("when", ["frozen", "stopped"])
def test_a_topic_that_is_made_anew_unseen_is_read_from_its_beginning(
    kafka: KafkaCluster, prefix: str, asked: tuple[str, list[bytes]], when: str
) -> None:
    """Also if it holds more by then than the old one did: no offset tells the two apart."""
    work = Work(kafka.bootstrap_servers, prefix, asked[0], forgetful=when == "stopped")
    worker = work.worker("--session-timeout", "20s")
    try:
        work.send("a", 10)
        assert work.results(10) == names(a=10)
        work.at_end()
        if when == "frozen":
            os.kill(worker.pid, signal.SIGSTOP)
        else:
            assert worker.stop() == 0
        _make_anew(AdminClient({"bootstrap.servers": work.address}), f"{prefix}tasks")
        work.send("b", 30)
        if when == "frozen":
            os.kill(worker.pid, signal.SIGCONT)
        else:
            worker = work.worker()
        assert work.results(40) == names(a=10, b=30)
    finally:
        worker.stop()


def test_the_loss_of_what_was_remembered_is_reported(
    kafka: KafkaCluster, prefix: str, asked: tuple[str, list[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`state` is made anew while no worker runs: ids sent again have a second result, which no worker could prevent."""
    work = Work(kafka.bootstrap_servers, prefix, asked[0], forgetful=False)
    worker = work.worker()
    work.send("a", 10)
    assert work.results(10) == names(a=10)
    work.at_end()
    assert worker.stop() == 0
    _make_anew(AdminClient({"bootstrap.servers": work.address}), f"{prefix}state")
    monkeypatch.setenv("TEST_WORKER_LOG", str(tmp_path / "log"))
    worker = work.worker()
    try:
        work.send("a", 10)
        assert set(work.results(20).values()) == {2}
    finally:
        worker.stop()
    [reported] = [
        line for line in (tmp_path / "log").read_text().splitlines() if "state of a partition is gone" in line
    ]
    assert f"{prefix}state" in reported


def _make_anew(admin: AdminClient, topic: str) -> None:
    for future in admin.delete_topics([topic]).values():
        future.result()
    for _ in range(200):
        try:
            for future in admin.create_topics([NewTopic(topic, 1, 1)]).values():
                future.result()
        except KafkaException:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the topic could not be made again")


@pytest.mark.parametrize("after", [10, 40], ids=["shorter", "longer"])
@pytest.mark.parametrize("when", ["running", "stopped"])
def test_a_log_that_lost_its_end_is_read_on_from_there(
    asked: tuple[str, list[bytes]], tmp_path: Path, when: str, after: int
) -> None:
    """A volume of an hour ago is put back: new tasks take offsets that were done, and are answered all the same."""
    with KafkaCluster(1) as cluster:
        work = Work(cluster.bootstrap_servers, "back.", asked[0], forgetful=when == "stopped")
        worker = work.worker("--session-timeout", "20s")
        try:
            work.send("a", 20)
            assert work.results(20) == names(a=20)
            log, copy = cluster.nodes[0].home / "data" / "back.tasks-0", tmp_path / "copy"
            cluster.kill(0)
            shutil.copytree(log, copy)
            cluster.restart(0)
            work.send("b", 20)
            assert work.results(40) == names(a=20, b=20)
            work.at_end()
            time.sleep(2)  # another look at the log
            if when == "stopped":
                assert worker.stop() == 0
            # Before Kafka 4 nothing tells a lone broker that was killed and came back at once from one that went on.
            cluster.shut_down(0)
            shutil.rmtree(log)
            shutil.copytree(copy, log)
            cluster.restart(0)
            assert log_ends(work.address, "back.tasks")[0] < 40
            work.send("c", after)
            if when == "stopped":
                worker = work.worker()
            assert work.results(40 + after) == names(a=20, b=20, c=after)
        finally:
            worker.stop()
