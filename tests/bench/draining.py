"""A backlog of tasks, drained by one system: tasks/s, CPU a task, peak memory. What `make bench` and its like are made of.

In: a `Load` (how many tasks, of what size, for how many agents) and what starts the system. Out: a `Row`. Every row has its own
topics. Warm-up tasks are left out: starts, the broker's first index entries, JIT compilers. The agent answers at once; broker,
agent, system and reader share the machine.

All work that belongs to the measured tasks must fall between the two looks at the clock, and no other. Two cases:

1. The whole backlog is drained. The warm system is idle, and is stopped (SIGSTOP) while the backlog is produced; the clock starts
   with SIGCONT. A clock that started at the first results would hide what was read and done ahead of them.
2. A part of a long backlog is drained. Then the system starts on the backlog, and the clock runs from one result to another far
   behind it: what is done ahead is the same at both.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from tests.support.rig import Process, Tap, apply_topics, produce, register, start_worker
from tests.support.rig_error import RigError

AGENTS = 16
CONVERSATIONS = 1000
LIMITS = {"maxRequests": 100_000_000, "windowMs": 60_000, "maxConcurrency": 64}
PAYLOAD = {"task": "classify this", "data": {"text": "x" * 200, "tags": ["a", "b"]}}
PAYLOAD_BYTES = 300
READ_S = 0.02
"""How long a read of results waits for more: an error of at most this in the time of a row."""
IDLE_S = 0.5
"""After the last warm-up result, for commits and acknowledgements that trail it."""
SESSION_S = 60
"""Of workers and peers: while a large backlog is produced on a busy machine, a stopped process must keep its partitions."""
FIRST_RESULTS_S = 90.0
LAST_RESULT_S = 300.0


@dataclass(frozen=True)
class Load:
    """`tasks` are measured, after `warm` before them. `behind`: more of them that stay on the topic (case 2).

    `key`: `agent` (each task in its agent's partition), `random`, or `conversation` (1,000 keys in turn).
    """

    tasks: int
    warm: int = 2000
    behind: int = 0
    partitions: int = 8
    agents: int = AGENTS
    payload_bytes: int = PAYLOAD_BYTES
    key: str = "agent"

    def record(self, number: int) -> tuple[bytes | None, bytes]:
        """Key and value of a task."""
        agent = f"a{number % self.agents}"
        keys = {"agent": agent.encode(), "random": None, "conversation": f"c{number % CONVERSATIONS}".encode()}
        return keys[self.key], task(f"task-{number:07d}", agent, number, self.payload_bytes)


@dataclass
class Row:
    """One measurement. CPU in microseconds a task; memory in MiB, at its peak. `note`: why there are no figures."""

    name: str
    tasks_s: float = float("nan")
    cpu_us: float = float("nan")
    peak_mib: float = float("nan")
    note: str = ""


def task(task_id: str, agent: str, number: int, payload_bytes: int = PAYLOAD_BYTES) -> bytes:
    """A task; no two payloads are alike. Of 300 bytes of payload it has about 350."""
    payload = {**PAYLOAD, "n": number}
    if payload_bytes > PAYLOAD_BYTES:
        payload["more"] = "x" * (payload_bytes - PAYLOAD_BYTES)
    return json.dumps({"id": task_id, "type": "agent", "target": agent, "payload": payload}).encode()


Start = Callable[[str], Sequence[Process]]
"""From a prefix of topics to the processes of a system, all of them ready."""


class Bench:
    """One broker, one agent, several rows."""

    def __init__(self, bootstrap: str, endpoint: str) -> None:
        self.bootstrap = bootstrap
        self.endpoint = endpoint

    def prepare(self, load: Load) -> str:
        """Topics and registered agents; returns the prefix."""
        prefix = f"bench-{time.time_ns() // 1_000_000}."
        apply_topics(self.bootstrap, prefix, "--partitions", str(load.partitions))
        agents = ({"id": f"a{i}", "endpoint": self.endpoint, "limits": LIMITS} for i in range(load.agents))
        register(self.bootstrap, prefix, *agents)
        return prefix

    def produce(self, prefix: str, load: Load, start: int, count: int) -> None:
        """Put the tasks with these numbers on their topic."""
        records = map(load.record, range(start, start + count))
        produce(self.bootstrap, f"{prefix}tasks", records, partitioner="murmur2_random")

    def row(self, name: str, load: Load, start: Start) -> Row:
        """Start a system on topics of its own and measure it. Raises `RigError` if it cannot run here, or results stay away."""
        prefix = self.prepare(load)
        with ExitStack() as stack:
            if load.behind:
                self.produce(prefix, load, 0, load.warm + load.tasks + load.behind)
            processes = start(prefix)
            for process in processes:
                stack.callback(process.stop)
            return self.drain(name, load, prefix, processes)

    def drain(self, name: str, load: Load, prefix: str, processes: Sequence[Process]) -> Row:
        """Measure a system that is ready. Raises `RigError` if results stay away."""
        tap = Tap(self.bootstrap, f"{prefix}results")
        try:
            if not load.behind:
                self.produce(prefix, load, 0, load.warm)
            warm = _read(tap, load.warm, FIRST_RESULTS_S)
            if warm >= load.warm and not load.behind:
                time.sleep(IDLE_S)
                _signal(processes, signal.SIGSTOP)
                self.produce(prefix, load, load.warm, load.tasks)
                _signal(processes, signal.SIGCONT)
            cpu, began = _cpu_s(processes), time.monotonic()
            count = _read(tap, load.warm + load.tasks - warm, LAST_RESULT_S)
            seconds, cpu = time.monotonic() - began, _cpu_s(processes) - cpu
        finally:
            tap.close()
        if warm + count < load.warm + load.tasks:
            raise RigError(f"{warm + count} results for {load.warm + load.tasks} tasks within {LAST_RESULT_S:.0f} s")
        return Row(name, count / seconds, cpu / count * 1e6, sum(process.peak_mib() for process in processes))

    def start_workers(self, prefix: str, count: int = 1) -> list[Process]:
        """Dispatch workers with everything on, in one group."""
        options = ("--roles", "dispatch", "--session-timeout", f"{SESSION_S}s")
        workers = [start_worker(self.bootstrap, prefix, *options, wait=False) for _ in range(count)]
        for worker in workers:
            worker.line(90)
        return workers


def _cpu_s(processes: Sequence[Process]) -> float:
    return sum(process.cpu_s() for process in processes)


def _signal(processes: Sequence[Process], number: signal.Signals) -> None:
    for process in processes:
        for pid in process.family():
            os.kill(pid, number)


def _read(tap: Tap, count: int, timeout_s: float) -> int:
    found, end = 0, time.monotonic() + timeout_s
    while found < count and time.monotonic() < end:
        found += len(tap.read(READ_S))
    return found
