"""What many agents cost the statistics role: memory with every window there is, a start on all of it, queries under load.

    python -m tests.bench.statistics_many [--agents 10000] [--windows 112] [--queries 500] [--load 2000]   (10 minutes)

Every agent has spoken in each of the last 60 minutes, 24 hours and 30 days, as event time has it, so that it has all the windows
that are kept. One worker with `--roles stats`, in a process of its own. Nothing is asserted but that every point was counted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx

from schemas.times import format_time
from tests.bench.load import percentile
from tests.support.kafka import KafkaCluster
from tests.support.rig import Process, apply_topics, produce, start_worker

MINUTE_MS = 60_000
PATTERNS = 5
"""An agent has one of them; a question about a pattern concerns a fifth of all agents."""
START_S = 600.0


def moments(now_ms: int) -> list[int]:
    """One time in each window that is kept, oldest first."""
    minutes = [now_ms - MINUTE_MS * back for back in range(60)]
    hours = [now_ms - 60 * MINUTE_MS * back for back in range(1, 24)]
    days = [now_ms - 1440 * MINUTE_MS * back for back in range(1, 30)]
    return sorted(minutes + hours + days)


def points(agents: int, times: list[int], rng: random.Random) -> Iterator[tuple[bytes, bytes]]:
    """One point of each agent at each of the times."""
    for at in times:
        when = format_time(at)
        for number in range(agents):
            name = f"agent-{number}"
            confidence = rng.betavariate(17, 3)
            point = {
                "agentId": name,
                "patternName": f"triage-{number % PATTERNS}",
                "taskType": "agent",
                "confidence": confidence,
                "success": rng.random() < confidence,
                "timestamp": when,
                "executionTime": rng.lognormvariate(4, 1),
            }
            yield name.encode(), json.dumps(point).encode()


class Role:
    """One worker of the role, and what its pages say."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        began = time.monotonic()
        self.process: Process = start_worker(bootstrap, prefix, "--roles", "stats", "-o", "jsonl", wait=False)
        self._pages = httpx.Client(base_url=json.loads(self.process.line(START_S))["web"], timeout=30)
        self.start_s = time.monotonic() - began

    def counted(self) -> int:
        """Points counted so far."""
        for line in self._pages.get("/metrics").text.splitlines():
            if line.startswith("parallax_stats_points_total"):
                return int(float(line.split()[-1]))
        return 0

    def ask(self, path: str) -> float:
        """One query; seconds."""
        began = time.monotonic()
        self._pages.get(f"/api/v1/{path}/stats").raise_for_status()
        return time.monotonic() - began

    def until(self, count: int, timeout_s: float) -> None:
        """Wait until so many points are counted."""
        end = time.monotonic() + timeout_s
        while self.counted() < count:
            if time.monotonic() > end:
                raise SystemExit(f"{self.counted()} of {count} points after {timeout_s:.0f} s")
            time.sleep(0.5)


def run(bootstrap: str, agents: int, windows: int, queries: int, load: int) -> None:
    """All of it, a line for each figure."""
    prefix, rng = f"many-{time.time_ns() // 1_000_000}.", random.Random(4)
    apply_topics(bootstrap, prefix)
    times = moments(time.time_ns() // 1_000_000)[-windows:]
    total = produce(bootstrap, f"{prefix}data-points", points(agents, times, rng))
    with ExitStack() as stack:
        role = Role(bootstrap, prefix)
        stack.callback(lambda: role.process.stop())
        cpu, began = role.process.cpu_s(), time.monotonic()
        role.until(total, 1800)
        seconds = time.monotonic() - began
        time.sleep(5)  # windows close by the clock, and are written
        print(
            f"{agents} agents, {len(times)} windows of minutes, hours and days each: {total} points, "
            f"{total / seconds:.0f}/s, {(role.process.cpu_s() - cpu) / total * 1e6:.0f} us CPU a point, "
            f"peak {role.process.peak_mib():.0f} MiB"
        )
        role.process.stop(60)
        role = Role(bootstrap, prefix)
        print(f"a start on all of it: {role.start_s:.1f} s, peak {role.process.peak_mib():.0f} MiB")
        pressed = Repeating(lambda: produce(bootstrap, f"{prefix}data-points", moment(agents, load, rng)), 1.0)
        time.sleep(3)
        print(
            f"{queries} queries of an agent's statistics while {load} points/s come: {asked(role, agents, queries, rng)}"
        )
        wide: list[float] = []
        beside = Repeating(lambda: wide.append(role.ask(f"patterns/triage-{rng.randrange(PATTERNS)}")), 0.0)
        print(f"the same while questions about a pattern's {agents // PATTERNS} agents never end: ", end="")
        print(f"{asked(role, agents, queries, rng)}; of a pattern {percentile(wide, 0.5):.2f} s")
        beside.stop()
        pressed.stop()
        print(f"peak {role.process.peak_mib():.0f} MiB")


def moment(agents: int, load: int, rng: random.Random) -> Iterator[tuple[bytes, bytes]]:
    """So many points of now."""
    return itertools.islice(points(agents, [time.time_ns() // 1_000_000], rng), load)


def asked(role: Role, agents: int, queries: int, rng: random.Random) -> str:
    """Questions about agents at random, one after the other; what they took."""
    took = []
    for _ in range(queries):
        took.append(role.ask(f"agents/agent-{rng.randrange(agents)}") * 1000)
        time.sleep(0.02)
    return f"p50 {percentile(took, 0.5):.1f} ms, p99 {percentile(took, 0.99):.1f} ms, longest {max(took):.1f} ms"


class Repeating:
    """Does something over and over in a thread, a period from beginning to beginning at the least."""

    def __init__(self, work: Callable[[], object], period_s: float) -> None:
        self._work, self._period_s = work, period_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            due = time.monotonic() + self._period_s
            self._work()
            self._ended.wait(max(0.0, due - time.monotonic()))

    def stop(self) -> None:
        """After what is under way."""
        self._ended.set()
        self._thread.join(60)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=10_000)
    parser.add_argument("--windows", type=int, default=1000, help="the newest so many windows of each agent alone")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--load", type=int, default=2000)
    parser.add_argument("--bootstrap")
    options = parser.parse_args()
    with ExitStack() as stack:
        bootstrap = options.bootstrap or stack.enter_context(KafkaCluster(brokers=1, measured=True)).bootstrap_servers
        run(bootstrap, options.agents, options.windows, options.queries, options.load)


if __name__ == "__main__":
    main()
