"""A steady load and eyes on it, for runs in which brokers fail: three threads around confluent-kafka and the workers' web pages.

In: a rate, a topic, processes. Out: which tasks were acknowledged, every result with its arrival, and each second of each
worker: memory, /livez, /readyz. They never end a process and never decide whether a run was good.
"""

from __future__ import annotations

import json
import math
import threading
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from tests.support.rig import Process, Tap, rss_mib

QUICK: dict[str, Any] = {
    "reconnect.backoff.max.ms": 500,
    "socket.timeout.ms": 10_000,
    "topic.metadata.refresh.interval.ms": 5_000,
}
"""A foreign client that comes back soon: what is measured is ours, not its backoff."""
TICK_S = 0.02
FLUSH_S = 120.0
PROBE_TIMEOUT_S = 5.0


class _Thread(threading.Thread, ABC):
    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Until `over`; what went wrong is raised by `finish`."""
        try:
            self.work()
        except BaseException as error:
            self.error = error

    @abstractmethod
    def work(self) -> None:
        """What it does until `over` is set."""

    def finish(self, timeout_s: float = 30.0) -> None:
        """End it, and raise what it died of."""
        self.over.set()
        self.join(timeout_s)
        if self.error is not None:
            raise self.error
        assert not self.is_alive(), "a thread of the rig hangs"


class Load(_Thread):
    """`rate` tasks a second, idempotent, acks from all replicas in sync. A task that was not acknowledged may exist or not."""

    def __init__(self, bootstrap: str, topic: str, rate: float, make: Callable[[int], bytes]) -> None:
        super().__init__()
        self.acked: dict[str, float] = {}
        """Task id -> when (monotonic seconds)."""
        self.failed: list[str] = []
        self._rate, self._topic, self._make = rate, topic, make
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 5,
                "request.timeout.ms": 5000,
                "log_level": 0,
                "error_cb": lambda _: None,
                **QUICK,
            }
        )

    def work(self) -> None:
        """Send evenly."""
        began, sent = time.monotonic(), 0
        while not self.over.is_set():
            due = int((time.monotonic() - began) * self._rate)
            for number in range(sent, due):
                try:
                    self._producer.produce(self._topic, self._make(number), on_delivery=self._told)
                except BufferError:
                    due = number
                    break
            sent = due
            self._producer.poll(0)
            time.sleep(TICK_S)
        assert self._producer.flush(FLUSH_S) == 0, "tasks neither acknowledged nor refused"

    def _told(self, error: KafkaError | None, message: Message) -> None:
        task_id = json.loads(message.value() or b"{}")["id"]
        if error is None:
            self.acked[task_id] = time.monotonic()
        else:
            self.failed.append(f"{task_id}: {error}")


class Results(_Thread):
    """Reads results, committed ones only; a record read again (same offset) counts once."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        super().__init__()
        self.places: dict[tuple[int, int], dict[str, Any]] = {}
        self.ids: Counter[str] = Counter()
        self.came: dict[str, float] = {}
        """Task id -> when its first result came."""
        self.last = time.monotonic()
        self.gaps: list[float] = []
        """Times without a result, while a load ran."""
        self._tap = Tap(bootstrap, topic, log_level=0, **QUICK)

    def work(self) -> None:
        """Read."""
        try:
            while not self.over.is_set():
                found = self._tap.read(0.1)
                if not found:
                    continue
                now = time.monotonic()
                self.gaps.append(now - self.last)
                self.last = now
                for message in found:
                    place = (message.partition(), message.offset())
                    if place not in self.places:
                        result = self.places[place] = json.loads(message.value())
                        self.ids[result["taskId"]] += 1
                        self.came.setdefault(result["taskId"], now)
        finally:
            self._tap.close()


@dataclass
class Seen:
    """One look at one worker: seconds since the watch began, MiB, and the two answers (0: none)."""

    at_s: float
    rss_mib: float
    livez: int
    readyz: int


@dataclass
class Watched:
    """A worker and what was seen of it."""

    process: Process
    url: str
    pid: int
    looks: list[Seen] = field(default_factory=list)

    def growth_mib(self, since_s: float, until_s: float = math.inf) -> float:
        """From the first look after `since_s` to the largest, up to `until_s`."""
        sizes = [look.rss_mib for look in self.looks if since_s <= look.at_s <= until_s]
        return max(sizes) - sizes[0] if sizes else 0.0

    @property
    def ready(self) -> bool:
        """At the last look."""
        return bool(self.looks) and self.looks[-1].readyz == 200


class Watch(_Thread):
    """Looks at every worker once a second."""

    def __init__(self, workers: list[Watched]) -> None:
        super().__init__()
        self.workers = workers
        self.began = time.monotonic()

    def now(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began

    def work(self) -> None:
        """Look."""
        while not self.over.wait(1.0):
            for worker in self.workers:
                if worker.process.popen.poll() is None:
                    livez, readyz = _status(f"{worker.url}/livez"), _status(f"{worker.url}/readyz")
                    worker.looks.append(Seen(self.now(), rss_mib(worker.pid), livez, readyz))


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=PROBE_TIMEOUT_S) as answer:  # noqa: S310 - our own worker
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
