"""The benchmark of fairness in a backlog: what three sick agents cost seventeen well ones when all work is there at once.

    make bench-backlog-fairness   or   python -m tests.bench.backlog_fairness [--tasks 12000] [--rounds 3]

20 agents of 200 ms with ten places each, one worker with all roles. The worker is ready and stopped (SIGSTOP) while the backlog
is produced; the clock starts with SIGCONT. W: all agents are well. S: one accepts calls and hangs, one takes ten times as long,
one answers every other call with 500. Measured are the other seventeen: tasks/s until the last of their results can be read under
read_committed, and when half and 99 % of them could. Runs take turns W S W S; the ratios compare them. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from tests.bench.draining import SESSION_S
from tests.bench.fairness import AGENTS, LIMITS, sick_agents, task
from tests.bench.load import Reader, percentile
from tests.support.kafka import KafkaCluster
from tests.support.rig import apply_topics, instant_agent, produce, register, start_worker

WELL_MS = 200
SLOW_MS = 10 * WELL_MS
SICK = ("a0", "a1", "a2")
IDS = [f"a{number}" for number in range(AGENTS)]
WARM = 400
WAIT_S = 240.0


@dataclass
class Run:
    """One run. `times`: seconds from SIGCONT to each result of a well agent."""

    name: str
    times: list[float]
    expected: int
    fates: Counter[str] = field(default_factory=Counter)
    doubled: int = 0

    @property
    def tasks_s(self) -> float:
        """Of the well agents; 0 if one of their results did not come."""
        return len(self.times) / max(self.times) if len(self.times) == self.expected else 0.0


def run(bootstrap: str, name: str, tasks: int, sick: bool) -> Run:
    """One backlog of `tasks`, equally many for each agent."""
    prefix = f"backlog-{name.lower()}-{time.time_ns() // 1_000_000}."
    apply_topics(bootstrap, prefix)
    with ExitStack() as stack:
        _, well = stack.enter_context(instant_agent("--delay-ms", str(WELL_MS)))
        endpoints = dict.fromkeys(IDS, well)
        if sick:
            endpoints |= zip(SICK, sick_agents(stack, WELL_MS, SLOW_MS), strict=True)
        register(bootstrap, prefix, *({"id": i, "endpoint": e, "limits": LIMITS} for i, e in endpoints.items()))
        worker = start_worker(bootstrap, prefix, "--session-timeout", f"{SESSION_S}s")
        stack.callback(worker.stop)
        reader = Reader(bootstrap, f"{prefix}results")
        reader.start()
        stack.callback(reader.close)
        _send(bootstrap, prefix, [i for i in IDS if i not in SICK], "warm", WARM)
        _wait(lambda: len(reader.results) >= WARM)
        os.kill(worker.pid, signal.SIGSTOP)
        try:
            _send(bootstrap, prefix, IDS, "b", tasks)
        finally:
            os.kill(worker.pid, signal.SIGCONT)
        began = time.time()
        expected = {f"{i}-b{n}" for n in range(tasks) if (i := IDS[n % AGENTS]) not in SICK}
        _wait(lambda: len(expected & reader.results.keys()) == len(expected))
        found = {i: seen for i, seen in reader.results.items() if i.partition("-")[2].startswith("b")}
    fates = Counter(f"{'sick' if i.partition('-')[0] in SICK else 'well'}: {code}" for i, (_, code) in found.items())
    return Run(
        name, [at - began for i, (at, _) in found.items() if i in expected], len(expected), fates, reader.doubled
    )


def _send(bootstrap: str, prefix: str, agents: list[str], name: str, count: int) -> None:
    chosen = ((agents[n % len(agents)], f"{name}{n}") for n in range(count))
    records = ((agent.encode(), task(agent, number)) for agent, number in chosen)
    produce(bootstrap, f"{prefix}tasks", records, partitioner="murmur2_random")


def _wait(done: Callable[[], bool]) -> None:
    limit = time.monotonic() + WAIT_S
    while not done() and time.monotonic() < limit:
        time.sleep(0.05)


def report(runs: list[Run], console: Console) -> None:
    """The table and the ratios."""
    table = Table(title=f"{AGENTS} agents of {WELL_MS} ms, all tasks at once, {os.cpu_count()} cores")
    for column in ("", "well: tasks/s", "half done s", "99 % done s", "last s", "doubled"):
        table.add_column(column, justify="right")
    for one in runs:
        moments = (f"{percentile(one.times, share):.2f}" for share in (0.5, 0.99, 1))
        table.add_row(one.name, f"{one.tasks_s:.0f}", *moments, str(one.doubled))
    console.print(table)
    for one in runs:
        console.print(f"{one.name}: {dict(one.fates)}, well results missing {one.expected - len(one.times)}")
    well, sick = runs[::2], runs[1::2]
    speed = sum(one.tasks_s for one in sick) / sum(one.tasks_s for one in well)
    tail = sum(percentile(one.times, 0.99) for one in sick) / sum(percentile(one.times, 0.99) for one in well)
    console.print(f"all rounds together: throughput {speed:.3f} (wanted >= 0.95), p99 {tail:.3f} (wanted <= 1.2)")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=12_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with ExitStack() as stack:
        bootstrap = stack.enter_context(KafkaCluster(brokers=1, measured=True)).bootstrap_servers
        run(bootstrap, "warm", 1000, sick=False)  # a broker that has just started is slow at everything
        kinds = ("W", "S") * options.rounds
        runs = [run(bootstrap, f"{kind}{n // 2 + 1}", options.tasks, kind == "S") for n, kind in enumerate(kinds)]
    report(runs, Console(width=130))


if __name__ == "__main__":
    main()
