"""The benchmark of dispatch: tasks/s and CPU a task, beside the floor (a bare aiokafka loop) in the same run.

    make bench        or   python -m tests.bench.throughput [--tasks 30000] [--bootstrap HOST:PORT]

All on one machine: broker, agent, workers and this reader share its cores, so the CPU figures and the ratios mean
something, the tasks/s less. Each row has its own topics; the agent answers at once. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from confluent_kafka import Producer
from rich.console import Console
from rich.table import Table

from tests.support.kafka import KafkaCluster
from tests.support.rig import ROOT, Process, Tap, apply_topics, instant_agent, produce, register, start_worker

AGENTS = 16
LIMITS = {"maxRequests": 100_000_000, "windowMs": 60_000, "maxConcurrency": 64}
WARM = 200
PAYLOAD = {"task": "classify this", "data": {"text": "x" * 200, "tags": ["a", "b"]}}


@dataclass
class Row:
    """One measurement. CPU in microseconds a task; memory in MiB, at its peak."""

    name: str
    tasks_s: float
    cpu_us: float
    peak_mib: float
    note: str = ""


def task(number: int) -> bytes:
    """A task of about 350 bytes."""
    payload = {**PAYLOAD, "n": number}
    return json.dumps(
        {"id": f"task-{number:07d}", "type": "agent", "target": f"a{number % AGENTS}", "payload": payload}
    ).encode()


class Bench:
    """One broker, one agent, several rows."""

    def __init__(self, bootstrap: str, endpoint: str, tasks: int) -> None:
        self.bootstrap = bootstrap
        self.endpoint = endpoint
        self.tasks = tasks

    def prepare(self, name: str, keyed: bool) -> str:
        """Topics and a backlog of tasks; returns the prefix."""
        prefix = f"bench-{name}-{time.time_ns() // 1_000_000}."
        apply_topics(self.bootstrap, prefix)
        register(
            self.bootstrap,
            prefix,
            *({"id": f"a{i}", "endpoint": self.endpoint, "limits": LIMITS} for i in range(AGENTS)),
        )
        records = (((f"a{n % AGENTS}").encode() if keyed else None, task(n)) for n in range(self.tasks))
        produce(self.bootstrap, f"{prefix}tasks", records, partitioner="murmur2_random")
        return prefix

    def drain(
        self, prefix: str, process: Process, name: str, warm: int, note: Callable[[float], str] | None = None
    ) -> Row:
        """Time from the `warm`-th result to the last."""
        tap = Tap(self.bootstrap, f"{prefix}results")
        count = len(tap.until(warm, 60))
        cpu, began = process.cpu_s(), time.monotonic()
        rest = len(tap.until(self.tasks - count, 300))
        seconds, cpu = time.monotonic() - began, process.cpu_s() - cpu
        tap.close()
        if count + rest != self.tasks:
            raise SystemExit(f"{name}: {count + rest} results for {self.tasks} tasks")
        return Row(name, rest / seconds, cpu / rest * 1e6, process.peak_mib(), note(seconds) if note else "")

    def floor(self) -> Row:
        """The bare loop."""
        prefix = self.prepare("floor", keyed=True)
        command = [sys.executable, str(ROOT / "tests/bench/floor.py"), self.bootstrap, prefix, self.endpoint]
        process = Process(command)
        process.line()
        row = self.drain(prefix, process, "bare aiokafka loop + aiohttp, 1 output, no guarantee", self.tasks // 10)
        process.kill()
        return row

    def worker(self, name: str, keyed: bool, stats: bool = False) -> list[Row]:
        """One dispatch worker with everything on; statistics, if asked for, in a second process at the same time."""
        prefix = self.prepare("worker", keyed)
        with ExitStack() as stack:
            second = None
            if stats:
                second = start_worker(self.bootstrap, prefix, "--roles", "stats")
                stack.callback(second.stop)
            process = start_worker(self.bootstrap, prefix, "--roles", "dispatch", wait=False)
            stack.callback(process.stop)
            rows = [self.drain(prefix, process, name, self.tasks // 10)]
            if second is not None:
                began, seen = time.monotonic(), 0
                tap = Tap(self.bootstrap, f"{prefix}aggregates")
                while seen < self.tasks and time.monotonic() - began < 120:
                    newest = {}
                    for message in tap.until(10_000, 1.0):
                        window = json.loads(message.value())
                        if window["interval"] == "minute":
                            newest[window["agentId"], window["windowStart"]] = window["count"]
                    seen = sum(newest.values()) or seen
                tap.close()
                rows.append(
                    Row("  statistics, second process", 0, second.cpu_s() / self.tasks * 1e6, second.peak_mib())
                )
        return rows

    def latency(self, count: int = 600) -> str:
        """Unloaded: task acknowledged -> result readable (read_committed), one at a time; the agent answers at once.

        One producer and one consumer, both connected before. Not counted are the first `WARM` tasks: the broker's first
        index entry of each partition, after 4 KiB, takes 40 ms on some disks, and has nothing to do with us.
        """
        saved, self.tasks = self.tasks, 0
        prefix = self.prepare("latency", keyed=True)
        self.tasks = saved
        took: list[float] = []
        with ExitStack() as stack:
            worker = start_worker(self.bootstrap, prefix, "--roles", "dispatch")
            stack.callback(worker.stop)
            tap = Tap(self.bootstrap, f"{prefix}results")
            stack.callback(tap.close)
            sender = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 0, "partitioner": "murmur2_random"})
            for number in range(WARM + count):
                sender.produce(f"{prefix}tasks", task(number), key=f"a{number % AGENTS}".encode())
                if sender.flush(10):
                    raise SystemExit("a task was not acknowledged within 10 s")
                sent = time.monotonic()
                while not tap.read(0.001):
                    if time.monotonic() - sent > 10:
                        raise SystemExit("no result within 10 s")
                took.append((time.monotonic() - sent) * 1000)
        took = sorted(took[WARM:])
        return f"p50 {took[count // 2]:.1f} ms, p99 {took[int(count * 0.99)]:.1f} ms over {count} tasks"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=30_000)
    parser.add_argument("--bootstrap")
    options = parser.parse_args()
    console = Console(width=120)
    with ExitStack() as stack:
        bootstrap = options.bootstrap or stack.enter_context(KafkaCluster(brokers=1)).bootstrap_servers
        _, endpoint = stack.enter_context(instant_agent())
        bench = Bench(bootstrap, endpoint, options.tasks)
        rows = [bench.floor()]
        rows += bench.worker("dispatch: exactly once, 4 outputs, tasks in their agent's partition", keyed=True)
        rows += bench.worker("dispatch: same, tasks keyed at random (one hop more)", keyed=False)
        rows += bench.worker("dispatch: in their agent's partition, statistics beside it", keyed=True, stats=True)
        latency = bench.latency()
    floor = rows[0]
    table = Table(
        title=f"{options.tasks} tasks, 8 partitions, {AGENTS} agents; {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    for column, justify in (
        ("", "left"),
        ("tasks/s", "right"),
        ("CPU us/task", "right"),
        ("x floor", "right"),
        ("peak MiB", "right"),
    ):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for row in rows:
        speed = f"{row.tasks_s:,.0f}" if row.tasks_s else ""
        table.add_row(row.name, speed, f"{row.cpu_us:,.0f}", f"{row.cpu_us / floor.cpu_us:.2f}", f"{row.peak_mib:,.0f}")
    console.print(table)
    console.print(f"unloaded, task acknowledged -> result readable under read_committed: {latency}")


if __name__ == "__main__":
    main()
