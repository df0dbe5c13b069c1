"""Open-loop load of known pace for benches: tasks leave at their times, whatever became of the ones before.

In: what to send and when. Out: for each task when it was due to leave, when its result could be read, and that result.
Latency runs from the time a task was *due* to be produced (a sender that lags counts as latency) to the moment a
read_committed consumer in this process is handed its result; both are wall clock of this one process. Records' own
timestamps are not used: a result's is older than its commit.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from tests.support.rig import Tap


class Reader(threading.Thread):
    """Reads a topic's committed records from now on, in a thread; keeps what `keep` makes of each, with its time."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        super().__init__(daemon=True)
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": f"reader-{time.monotonic_ns()}",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 100,
            }
        )
        numbers = self._consumer.list_topics(topic, timeout=10).topics[topic].partitions
        self._consumer.assign([TopicPartition(topic, number, 0) for number in numbers])
        self._ended = threading.Event()
        self.results: dict[str, tuple[float, str]] = {}
        """Task id -> when it was read, `success` or the error's code."""
        self.doubled = 0

    def run(self) -> None:
        """Until `close`."""
        while not self._ended.is_set():
            message = self._consumer.poll(0.1)
            if message is None or message.error() is not None:
                continue
            seen = time.time()
            result = json.loads(message.value())
            self.doubled += result["taskId"] in self.results
            status = result["status"]
            self.results[result["taskId"]] = seen, status if status == "success" else result["error"]["code"]

    def close(self) -> None:
        """Stop reading."""
        self._ended.set()
        self.join(5)
        self._consumer.close()


def send(
    bootstrap: str,
    topic: str,
    agents: Sequence[str],
    per_second: float,
    seconds: float,
    make: Callable[[str, int], bytes],
    bursts: Iterable[tuple[float, str, Sequence[bytes]]] = (),
    acknowledged: dict[str, float] | None = None,
) -> dict[str, float]:
    """Send to each agent in turn; returns task id -> when it was due. `bursts`: (second, agent, tasks) sent at once.

    `acknowledged`: is filled with when the broker's acknowledgement of each task was read.
    """
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 1, "acks": "all", "partitioner": "murmur2_random",
                         "queue.buffering.max.messages": 200_000})  # fmt: skip
    due: dict[str, float] = {}
    waiting = sorted(bursts, key=lambda burst: burst[0])
    began, number = time.time(), 0
    while (at := number / per_second) < seconds:
        while waiting and waiting[0][0] <= at:
            _, agent, tasks = waiting.pop(0)
            for task in tasks:
                producer.produce(topic, value=task, key=agent.encode())
        late = time.time() - began - at
        if late < 0:
            producer.poll(0)
            time.sleep(min(-late, 0.02 if acknowledged is None else 0.001))
            continue
        agent = agents[number % len(agents)]
        name = f"{agent}-{number}"
        due[name] = began + at
        told = {} if acknowledged is None else {"on_delivery": partial(_acknowledge, acknowledged, name)}
        producer.produce(topic, value=make(agent, number), key=agent.encode(), **told)
        number += 1
    if producer.flush(30):
        raise SystemExit("the broker did not take every task")
    return due


def _acknowledge(acknowledged: dict[str, float], name: str, _error: object, _message: object) -> None:
    acknowledged[name] = time.time()


def relocations(bootstrap: str, prefix: str) -> Counter[str]:
    """How often the record of each task, while it waited, was moved to `parked` (tasks wait on their own topic else)."""
    tap = Tap(bootstrap, f"{prefix}parked")
    found: Counter[str] = Counter()
    while batch := tap.read(2.0):
        found.update(json.loads(message.value())["id"] for message in batch)
    tap.close()
    return found


def reasons(bootstrap: str, prefix: str) -> Counter[tuple[str, str]]:
    """How often a task was reported as waiting, by agent and reason."""
    tap = Tap(bootstrap, f"{prefix}events")
    found: Counter[tuple[str, str]] = Counter()
    while batch := tap.read(2.0):
        for message in batch:
            event: dict[str, Any] = json.loads(message.value())
            if event["type"] == "task:parked":
                found[event["data"].get("agentId") or "any", event["data"]["reason"]] += 1
    tap.close()
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of them lie; they need not be sorted."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")
