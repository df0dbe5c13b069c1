"""Latency between idle and saturated: open-loop load, instant agents, a read_committed reader, on real Kafka.

    make bench-latency     or   python -m tests.bench.latency [--rates 5,200] [--roles dispatch,all] [--stages] [--beside TREE]

Out: for each rate and role, p50 and p99 of the time from when a task was due to be sent until its result could be read, and the
CPU a task of worker and broker. With `--beside TREE` the worker of another checkout takes turns with this one's on the same
broker, so that ratios mean something. A row is the median of `--repeat` runs; in brackets, the best: other work on the machine
only ever adds. With `--stages` one more run of each row here prints how long tasks take from one stage to the next.
Nothing is asserted. Three seconds of load before each run warm it up and are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from tests.bench.load import Reader, percentile, send
from tests.bench.throughput import AGENTS, LIMITS, PAYLOAD
from tests.support.kafka import KafkaCluster
from tests.support.rig import ROOT, Process, apply_topics, cpu_s, instant_agent, register

WARM_S = 3.0
LATE_S = 15.0
"""How long to wait for the last results."""
IDS = [f"a{n}" for n in range(AGENTS)]
STAGES = ("due", "acknowledged", "fetched", "polled", "processed", "called", "answered", "completed", "begun", "partitions_sent",
          "partitions_done", "group_done", "produce_done", "offsets_done", "end_sent", "end_done", "committed",
          "seen")  # fmt: skip


@dataclass
class Run:
    """One load on one worker. Milliseconds; CPU in microseconds a task."""

    p50: float
    p99: float
    cpu_us: float
    broker_us: float
    missing: int
    stages: list[dict[str, float]] = field(default_factory=list)


@dataclass
class Row:
    """All runs of one kind."""

    tree: str
    roles: str
    rate: float
    runs: list[Run] = field(default_factory=list)

    def cell(self, name: str) -> str:
        """The median, and in brackets the best."""
        figures = [getattr(run, name) for run in self.runs]
        form = ",.0f" if name.endswith("us") else ".1f"
        best = f" ({min(figures):{form}})" if len(figures) > 1 else ""
        return f"{median(figures):{form}}{best}"


def task(agent: str, number: int) -> bytes:
    """A task of about 350 bytes."""
    payload = {**PAYLOAD, "n": number}
    return json.dumps({"id": f"{agent}-{number}", "type": "agent", "target": agent, "payload": payload}).encode()


def start(tree: Path, bootstrap: str, prefix: str, roles: str, marks: str) -> Process:
    """A worker of that checkout, ready."""
    script = str(ROOT / "tests/bench/marked_worker.py")
    words = ["worker", "--bootstrap-servers", bootstrap, "--topic-prefix", prefix, "--app-id", prefix.rstrip(".")]
    words += ["--web-port", "0", "--grpc-port", "0", *([] if roles == "all" else ["--roles", roles])]
    worker = Process([sys.executable, script, str(tree), marks, *words])
    worker.line(90)
    return worker


@dataclass
class Bench:
    """A broker and an agent. `broker_pid`: None where the broker is not ours."""

    bootstrap: str
    endpoint: str
    broker_pid: int | None
    seconds: float

    def run(self, tree: Path, roles: str, rate: float, marks: Path | None = None) -> Run:
        """One run; with `marks` also its stages."""
        prefix = f"latency-{time.time_ns() // 1_000_000}."
        apply_topics(self.bootstrap, prefix)
        register(self.bootstrap, prefix, *({"id": name, "endpoint": self.endpoint, "limits": LIMITS} for name in IDS))
        with ExitStack() as stack:
            worker = start(tree, self.bootstrap, prefix, roles, "-" if marks is None else str(marks))
            stack.callback(worker.stop)
            reader = Reader(self.bootstrap, f"{prefix}results")
            reader.start()
            stack.callback(reader.close)
            warm = max(rate, 40.0)  # also at low rates each partition has had its first records
            send(self.bootstrap, f"{prefix}tasks", IDS, warm, WARM_S, lambda agent, n: task(agent, n + 10_000_000))
            time.sleep(1.0)
            cpu, broker, acknowledged = worker.cpu_s(), self._broker_s(), {} if marks is not None else None
            due = send(self.bootstrap, f"{prefix}tasks", IDS, rate, self.seconds, task, acknowledged=acknowledged)
            end = time.monotonic() + LATE_S
            while not due.keys() <= reader.results.keys() and time.monotonic() < end:
                time.sleep(0.05)
            cpu, broker = worker.cpu_s() - cpu, self._broker_s() - broker
        took = [(reader.results[name][0] - at) * 1000 for name, at in due.items() if name in reader.results]
        a_task = 1e6 / len(due)
        run = Run(
            percentile(took, 0.5), percentile(took, 0.99), cpu * a_task, broker * a_task, len(due) - len(took)
        )  # fmt: skip
        for text in marks.read_text("utf-8").splitlines() if marks is not None and acknowledged is not None else ():
            passed = json.loads(text)
            name = passed["id"]
            if name in due and name in reader.results:
                passed |= {"due": due[name], "acknowledged": acknowledged[name], "seen": reader.results[name][0]}
                run.stages.append(passed)
        return run

    def _broker_s(self) -> float:
        return cpu_s(self.broker_pid) if self.broker_pid is not None else float("nan")


def show(console: Console, rows: list[Row]) -> None:
    """The table of all rows."""
    table = Table(title=f"{os.cpu_count()} cores; due -> readable under read_committed; median (best)")
    for column in ("tree", "roles", "tasks/s", "p50 ms", "p99 ms", "worker us/task", "broker us/task", "missing"):
        table.add_column(column, justify="left" if column in ("tree", "roles") else "right")
    for row in rows:
        cells = [row.cell(name) for name in ("p50", "p99", "cpu_us", "broker_us")]
        table.add_row(row.tree, row.roles, f"{row.rate:,.0f}", *cells, str(sum(run.missing for run in row.runs)))
    console.print(table)


def show_stages(console: Console, roles: str, runs: dict[float, Run]) -> None:
    """How long tasks take from one stage to the next, at each rate; p50 / p99, ms."""
    table = Table(title=f"{roles}: from one stage to the next, p50 / p99 ms")
    table.add_column("until")
    for rate in runs:
        table.add_column(f"{rate:,.0f}/s", justify="right")
    for before, stage in pairwise(STAGES):
        cells = []
        for run in runs.values():
            took = [(task[stage] - task[before]) * 1000 for task in run.stages if stage in task and before in task]
            cells.append(f"{percentile(took, 0.5):.1f} / {percentile(took, 0.99):.1f}")
        table.add_row(stage, *cells)
    for name, pick in (("tasks in a commit", "batch"), ("AddPartitions sent", "partitions_times")):
        counts = [[task[pick] for task in run.stages if pick in task] for run in runs.values()]
        table.add_row(name, *(f"{percentile(each, 0.5):.0f} / {percentile(each, 0.99):.0f}" for each in counts))
    console.print(table)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", default="5,50,200,500,1000")
    parser.add_argument("--roles", default="dispatch,all")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--stages", action="store_true")
    parser.add_argument("--beside", type=Path, action="append", default=[], metavar="TREE")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--bootstrap")
    options = parser.parse_args()
    console = Console(width=150)
    trees = [*options.beside, ROOT]
    rates = [float(text) for text in options.rates.split(",")]
    rows: list[Row] = []
    with ExitStack() as stack:
        broker_pid = None
        if (bootstrap := options.bootstrap) is None:
            cluster = stack.enter_context(KafkaCluster(brokers=1))
            bootstrap, broker_pid = cluster.bootstrap_servers, cluster.pid(0)
        _, endpoint = stack.enter_context(instant_agent())
        bench = Bench(bootstrap, endpoint, broker_pid, options.seconds)
        marks = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "marks"
        for roles in options.roles.split(","):
            for rate in rates:
                new = [Row(tree.name, roles, rate) for tree in trees]
                for _ in range(options.repeat):
                    for tree, row in zip(trees, new, strict=True):
                        row.runs.append(run := bench.run(tree, roles, rate))
                        console.print(f"{row.tree} {roles} {rate:,.0f}/s: p50 {run.p50:.1f}, p99 {run.p99:.1f} ms; "
                                      f"{run.cpu_us:,.0f} us", style="dim", highlight=False)  # fmt: skip
                rows += new
            if options.stages:
                show_stages(console, roles, {rate: bench.run(ROOT, roles, rate, marks) for rate in rates})
    show(console, rows)


if __name__ == "__main__":
    main()
