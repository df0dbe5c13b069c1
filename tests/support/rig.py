"""Workers and agents as real processes, and a foreign client (confluent-kafka) to feed and read them."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from streams.broker.processes import tied_to_parent

ROOT = Path(__file__).resolve().parents[2]
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def clean_environment() -> dict[str, str]:
    """The environment without settings of ours: those of whoever runs the tests must not reach what is tested."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("PARALLAX_", "OTEL_", "PYTEST_"))}


class Process:
    """A child whose standard output is read line by line and which dies with us."""

    def __init__(self, arguments: list[str], env: dict[str, str] | None = None) -> None:
        with Path(os.environ.get("TEST_WORKER_LOG", os.devnull)).open("ab") as log:
            self.popen = subprocess.Popen(
                tied_to_parent(arguments),
                cwd=ROOT,
                env=clean_environment() | (env or {}),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        with self.popen.stdout as stdout:
            for line in stdout:
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def run(self, timeout_s: float = 60.0) -> int:
        """Wait for its end by itself; the exit code."""
        code = self.popen.wait(timeout_s)
        self._reader.join(5)
        return code

    def line(self, timeout_s: float = 60.0) -> str:
        """The next line of its output."""
        line = self._lines.get(timeout=timeout_s)
        if line is None:
            raise AssertionError(f"process ended with {self.popen.wait(5)} before it said anything: {self.popen.args}")
        return line

    @property
    def pid(self) -> int:
        return self.popen.pid

    def cpu_s(self) -> float:
        """CPU seconds, user and system, used so far, also by the processes it started that run."""
        return sum(map(cpu_s, self.family()))

    def peak_mib(self) -> float:
        """The largest resident size so far, MiB; of several processes the sum of theirs."""
        return sum(memory_mib(pid, "VmHWM") for pid in self.family())

    def family(self) -> list[int]:
        """Its pid, and those of the processes it started that run."""
        return family(self.pid)

    def kill(self) -> None:
        """SIGKILL."""
        self.popen.kill()
        self.run(10)

    def stop(self, timeout_s: float = 30.0) -> int:
        """SIGTERM, and the exit code."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            try:
                self.popen.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.popen.kill()
        return self.run(10)


def family(pid: int) -> list[int]:
    """A process and those that it started and that run."""
    try:
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    except FileNotFoundError:
        return [pid]


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def cpu_s(pid: int) -> float:
    """CPU seconds, user and system, that a process used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def parallax(*words: str) -> list[str]:
    """The command line of the console script."""
    return [str(Path(sys.executable).parent / "parallax"), *words]


def apply_topics(bootstrap: str, prefix: str, *options: str) -> None:
    """`parallax topics apply`."""
    command = parallax("topics", "apply", "--bootstrap-servers", bootstrap, "--topic-prefix", prefix, *options)
    assert Process(command).run() == 0


def start_worker(
    bootstrap: str, prefix: str, *options: str, env: dict[str, str] | None = None, wait: bool = True
) -> Process:
    """`parallax worker` on free ports; returns once it printed that it is ready."""
    arguments = parallax("worker", "--bootstrap-servers", bootstrap)
    arguments += [
        "--topic-prefix",
        prefix,
        "--app-id",
        prefix.rstrip("."),
        "--web-port",
        "0",
        "--grpc-port",
        "0",
        *options,
    ]
    worker = Process(arguments, env)
    if wait:
        worker.line(90)
    return worker


@contextmanager
def instant_agent(*options: str) -> Iterator[tuple[Process, str]]:
    """The benchmark's agent; yields its process and endpoint."""
    agent = Process([sys.executable, "-u", str(ROOT / "tests/bench/instant_agent.py"), *options])
    try:
        yield agent, f"http://127.0.0.1:{agent.line().split()[-1]}"
    finally:
        agent.stop(5)


@contextmanager
def fake_agent(*options: str) -> Iterator[str]:
    """A scripted agent (`python -m agents_io.fakes.http`) as a process; yields its endpoint."""
    agent = Process([sys.executable, "-u", "-m", "agents_io.fakes.http", "--port", "0", *options])
    try:
        yield json.loads(agent.line())["endpoint"]
    finally:
        agent.stop(5)


@contextmanager
def stopping(process: Process) -> Iterator[Process]:
    """Stops it at the end, kindly, and insists that it goes well."""
    try:
        yield process
    finally:
        assert process.stop() == 0


def produce(bootstrap: str, topic: str, records: Iterable[tuple[bytes | None, bytes | None]], **config: Any) -> int:
    """Send (key, value) records and wait for every acknowledgement."""
    failures: list[str] = []
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "acks": "all", **config})

    def told(error: Any, _message: Any) -> None:
        if error is not None:
            failures.append(str(error))

    count = 0
    for key, value in records:
        while True:
            try:
                producer.produce(topic, value=value, key=key, on_delivery=told)
                break
            except BufferError:
                producer.poll(0.05)
        count += 1
        if count % 1000 == 0:
            producer.poll(0)
    assert producer.flush(60) == 0
    assert not failures, failures[:3]
    return count


def register(bootstrap: str, prefix: str, *registrations: dict[str, Any]) -> None:
    """Write registrations as any client would."""
    produce(bootstrap, f"{prefix}agents", [(r["id"].encode(), json.dumps(r).encode()) for r in registrations])


class Tap:
    """Reads a topic from its beginning, committed records only. `config`: more for confluent-kafka."""

    def __init__(self, bootstrap: str, topic: str, **config: Any) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": f"tap-{time.monotonic_ns()}",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 50,
                **config,
            }
        )
        self._topic = topic
        self._partitions: set[int] = set()
        self.follow()

    def follow(self) -> None:
        """Read partitions too that were added, from their beginning."""
        numbers = set(self._consumer.list_topics(self._topic, timeout=10).topics[self._topic].partitions)
        if added := sorted(numbers - self._partitions):
            self._consumer.incremental_assign([TopicPartition(self._topic, number, 0) for number in added])
            self._partitions |= numbers

    def read(self, timeout_s: float = 0.5) -> list[Any]:
        """The next records, raw."""
        return [m for m in self._consumer.consume(1000, timeout=timeout_s) if m.error() is None]

    def until(self, count: int, timeout_s: float, quiet_s: float = 0.0) -> list[Any]:
        """Records until there are `count`, then `quiet_s` longer to see whether more come."""
        found: list[Any] = []
        end = time.monotonic() + timeout_s
        while len(found) < count and time.monotonic() < end:
            found += self.read()
        end = time.monotonic() + quiet_s
        while time.monotonic() < end:
            found += self.read(0.2)
        return found

    def close(self) -> None:
        self._consumer.close()


def committed(bootstrap: str, group: str, topic: str) -> dict[int, int]:
    """The group's committed offset of each partition."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
    numbers = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    found = consumer.committed([TopicPartition(topic, number) for number in numbers], timeout=10)
    consumer.close()
    return {tp.partition: tp.offset for tp in found}


def rss_mib(pid: int) -> float:
    """The memory that a process and those it started have in RAM, MiB; 0 if it is gone."""
    return sum(memory_mib(one, "VmRSS") for one in family(pid))


def memory_mib(pid: int, row: str) -> float:
    """A row of `/proc/PID/status`, MiB; 0 if there is no such process."""
    try:
        rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in rows if line.startswith(row)), 0.0)


def log_ends(bootstrap: str, topic: str) -> dict[int, int]:
    """The end offset of each partition. A broker that has just started is asked again until it leads them."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "ends"})
    give_up = time.monotonic() + 20
    try:
        while True:
            try:
                numbers = consumer.list_topics(topic, timeout=10).topics[topic].partitions
                return {n: consumer.get_watermark_offsets(TopicPartition(topic, n), timeout=10)[1] for n in numbers}
            except KafkaException:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.2)
    finally:
        consumer.close()


def partition_count(bootstrap: str, topic: str) -> int:
    """How many partitions it has."""
    return len(AdminClient({"bootstrap.servers": bootstrap}).list_topics(topic, timeout=10).topics[topic].partitions)


def topics(bootstrap: str) -> set[str]:
    """All topic names."""
    return set(AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=10).topics)
