"""A worker that wakes from a freeze: its partitions have another owner, and it calls no agent from its own memory."""

from __future__ import annotations

import http.server
import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.kafka import KafkaCluster
from tests.support.rig import Tap, apply_topics, produce, register, start_worker

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]
SESSION = ("--roles", "dispatch", "--session-timeout", "6s")
LIMIT, WINDOW_S = 20, 5


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """An agent's endpoint, and the ids of the tasks it was called with, in order."""
    calls: list[str] = []

    class Agent(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            calls.append(self.headers["Idempotency-Key"] or "")
            self.rfile.read(int(self.headers["Content-Length"]))
            body = b'{"value": 1, "confidence": 0.9}'
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *given: Any) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Agent) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", calls
        server.shutdown()


def test_a_worker_that_wakes_calls_nobody(kafka: KafkaCluster, prefix: str, asked: tuple[str, list[str]]) -> None:
    """40 tasks, 20 called, then the freeze; the heir calls the other 20. Each task is called once, whoever wakes."""
    address = kafka.bootstrap_servers
    endpoint, calls = asked
    apply_topics(address, prefix)
    limits = {"maxRequests": LIMIT, "windowMs": WINDOW_S * 1000, "maxConcurrency": LIMIT}
    register(address, prefix, {"id": "a1", "endpoint": endpoint, "limits": limits})
    old = start_worker(address, prefix, *SESSION)
    heir = None
    tap = Tap(address, f"{prefix}results")
    try:
        row = {"type": "agent", "target": "a1", "metadata": {"timeout": 120_000}}
        tasks = [json.dumps(row | {"id": f"t{n}", "payload": {"n": n}}).encode() for n in range(2 * LIMIT)]
        produce(address, f"{prefix}tasks", ((b"a1", task) for task in tasks))
        results = tap.until(LIMIT, 30)
        assert len(results) == LIMIT
        os.kill(old.pid, signal.SIGSTOP)
        assert len(calls) == LIMIT
        heir = start_worker(address, prefix, *SESSION, wait=False)
        results += tap.until(LIMIT, 60)
        assert len(calls) == 2 * LIMIT
        os.kill(old.pid, signal.SIGCONT)
        results += tap.until(1, 8)
        assert len(calls) == 2 * LIMIT, f"the worker that woke called {Counter(calls[2 * LIMIT :])}"
        ids = Counter(json.loads(result.value())["taskId"] for result in results)
        assert ids == Counter(f"t{n}" for n in range(2 * LIMIT))
        produce(address, f"{prefix}tasks", [(b"a1", json.dumps(row | {"id": "after", "payload": 0}).encode())])
        assert [json.loads(r.value())["taskId"] for r in tap.until(1, 30)] == ["after"], "the group goes on"
    finally:
        tap.close()
        os.kill(old.pid, signal.SIGCONT)
        for worker in (old, heir):
            if worker is not None:
                worker.stop()
