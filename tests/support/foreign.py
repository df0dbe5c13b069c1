"""A consumer in another language, run beside a worker, an agent and an anomaly: what it must print of them.

In: its process, started with a number of tasks. Out: nothing, or an AssertionError with what it printed.
"""

from __future__ import annotations

import time
from typing import Any

from streams.rules.live.task_status import ENDS
from tests.support.rig import Process

ANOMALY: dict[str, Any] = {
    "id": "a1",
    "type": "sudden_drop",
    "agentId": "summarizer",
    "severity": "high",
    "state": "firing",
    "detectedAt": "2026-11-29T12:00:00.000Z",
    "details": {"detector": "deviation"},
}
"""As statistics write it; see `schemas/json/Anomaly.json`."""


def check(consumer: Process, count: int, timeout_s: float = 90.0) -> None:
    """Each task it sent has its result, its begin and its end once; and the anomaly is there. Then SIGTERM ends it well."""
    deadline = time.monotonic() + timeout_s
    lines: list[str] = []
    try:
        while not _complete(lines, count):
            lines.append(consumer.line(max(0.1, deadline - time.monotonic())))
    except Exception as error:
        raise AssertionError(f"{error!r}; it printed:\n" + "\n".join(lines[-50:])) from None
    assert consumer.stop() in (0, 143), lines  # a JVM says 143 for SIGTERM


def _complete(lines: list[str], count: int) -> bool:
    words = [line.split() for line in lines]
    tasks = {row[1] for row in words if row[0] == "task"}
    results = [row[1] for row in words if row[:1] == ["result"] and row[2:5] == ["success", "0.9", '"short"']]
    ended = [row[2] for row in words if row[0] == "event" and row[1] in ENDS]
    assert len(results) == len(set(results)), "a result came twice"
    anomaly = ["anomaly", "sudden_drop", "firing", "high", "summarizer"]
    return len(tasks) == count and tasks == set(results) == set(ended) and anomaly in words
