"""Latency between idle and saturated: open-loop load, instant agents, a read_committed reader, on real Kafka.

    make bench-latency     or   python -m tests.bench.latency [--rates 5,200] [--roles dispatch,all] [--stages] [--beside TREE]
                                                              [--peers floor,parallel-consumer]

Out: for each rate and role, p50 and p99 of the time from when a task was due to be sent until its result could be read, and the
CPU a task of worker and broker. With `--beside TREE` the worker of another checkout takes turns with this one's on the same
broker, so that ratios mean something; with `--peers` other systems do (see `peers/launch.py`), under the same load and reader,
their producers without linger. A row is the median of `--repeat` runs; in brackets, the best: other work on the machine only
ever adds. With `--stages` one more run of each row here prints how long tasks take from one stage to the next.
Nothing is asserted. Three seconds of load before each run warm it up and are left out; a JVM has its warm-up tasks before that.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from tests.bench import draining
from tests.bench.draining import AGENTS, LIMITS
from tests.bench.load import Reader, percentile, send
from tests.bench.peers.launch import PEERS, start_peer
from tests.bench.tables import machine, markdown
from tests.support.kafka import KafkaCluster
from tests.support.rig import ROOT, Process, apply_topics, cpu_s, instant_agent, produce, register
from tests.support.rig_error import RigError

WARM_S = 3.0
WARM_UP_S = 120.0
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


@dataclass(frozen=True)
class System:
    """Whose latency is measured. `start`: from topic prefix and file of marks (`-`: none) to a process that is ready."""

    name: str
    roles: str
    start: Callable[[str, str], Process]
    warm_tasks: int = 0


@dataclass
class Row:
    """All runs of one system at one rate. `note`: why there are none."""

    name: str
    roles: str
    rate: float
    runs: list[Run] = field(default_factory=list)
    note: str = ""

    def cell(self, name: str) -> str:
        """The median, and in brackets the best."""
        if not self.runs:
            return ""
        figures = [getattr(run, name) for run in self.runs]
        form = ",.0f" if name.endswith("us") else ".1f"
        best = f" ({min(figures):{form}})" if len(figures) > 1 else ""
        return f"{median(figures):{form}}{best}"


def task(agent: str, number: int) -> bytes:
    """A task of about 350 bytes."""
    return draining.task(f"{agent}-{number}", agent, number)


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

    def worker(self, tree: Path, roles: str) -> System:
        """A worker of that checkout."""
        return System(tree.name, roles, lambda prefix, marks: start(tree, self.bootstrap, prefix, roles, marks))

    def peer(self, name: str) -> System:
        """Another system. Its producer does not linger: latency is what is measured."""
        begin = partial(start_peer, name, self.bootstrap, endpoint=self.endpoint, linger_ms=0)
        return System(name, "", lambda prefix, _: begin(prefix), PEERS[name].warm_tasks)

    def run(self, system: System, rate: float, marks: Path | None = None) -> Run:
        """One run; with `marks` also its stages. Raises `RigError` when the system cannot run here."""
        prefix = f"latency-{time.time_ns() // 1_000_000}."
        apply_topics(self.bootstrap, prefix)
        register(self.bootstrap, prefix, *({"id": name, "endpoint": self.endpoint, "limits": LIMITS} for name in IDS))
        with ExitStack() as stack:
            worker = system.start(prefix, "-" if marks is None else str(marks))
            stack.callback(worker.stop)
            reader = Reader(self.bootstrap, f"{prefix}results")
            reader.start()
            stack.callback(reader.close)
            self._warm_up(prefix, system.warm_tasks, reader)
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

    def _warm_up(self, prefix: str, count: int, reader: Reader) -> None:
        if count == 0:
            return
        records = ((IDS[n % AGENTS].encode(), task(IDS[n % AGENTS], n + 20_000_000)) for n in range(count))
        produce(self.bootstrap, f"{prefix}tasks", records, partitioner="murmur2_random")
        end = time.monotonic() + WARM_UP_S
        while len(reader.results) < count:
            if time.monotonic() > end:
                raise SystemExit(f"{len(reader.results)} of {count} warm-up tasks within {WARM_UP_S:.0f} s")
            time.sleep(0.1)

    def _broker_s(self) -> float:
        return cpu_s(self.broker_pid) if self.broker_pid is not None else float("nan")


def table_of(rows: list[Row]) -> str:
    """The table of all rows, as Markdown."""
    cells = []
    for row in rows:
        name = f"{row.name}: {row.note}" if row.note else " ".join(filter(None, (row.name, row.roles)))
        missing = str(sum(run.missing for run in row.runs)) if row.runs else ""
        cells.append([name, f"{row.rate:,.0f}", *map(row.cell, ("p50", "p99", "cpu_us", "broker_us")), missing])
    return markdown(["", "tasks/s", "p50 ms", "p99 ms", "CPU us/task", "broker us/task", "missing"], cells)


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


def measure(console: Console, bench: Bench, systems: list[System], rate: float, repeat: int) -> list[Row]:
    """The rows of one rate. The systems take turns, so that other work on the machine hits all alike."""
    rows = [Row(system.name, system.roles, rate) for system in systems]
    for _ in range(repeat):
        for system, row in zip(systems, rows, strict=True):
            if row.note:
                continue
            try:
                row.runs.append(run := bench.run(system, rate))
            except RigError as error:
                row.note = str(error).partition("\n")[0]
                continue
            console.print(f"{row.name} {row.roles} {rate:,.0f}/s: p50 {run.p50:.1f}, p99 {run.p99:.1f} ms; "
                          f"{run.cpu_us:,.0f} us", style="dim", highlight=False)  # fmt: skip
    return rows


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
    parser.add_argument("--peers", default="", help=f"of {','.join(PEERS)}")
    options = parser.parse_args()
    peers = [name for name in options.peers.split(",") if name]
    if unknown := set(peers) - PEERS.keys():
        parser.error(f"--peers: unknown {', '.join(sorted(unknown))}; known: {', '.join(PEERS)}")
    console = Console(width=150)
    trees = [*options.beside, ROOT]
    rates = [float(text) for text in options.rates.split(",")]
    where = machine()
    rows: list[Row] = []
    with ExitStack() as stack:
        broker_pid = None
        if (bootstrap := options.bootstrap) is None:
            cluster = stack.enter_context(KafkaCluster(brokers=1, measured=True))
            bootstrap, broker_pid = cluster.bootstrap_servers, cluster.pid(0)
        _, endpoint = stack.enter_context(instant_agent())
        bench = Bench(bootstrap, endpoint, broker_pid, options.seconds)
        marks = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "marks"
        roles = options.roles.split(",")
        systems = [*map(bench.peer, peers), *(bench.worker(tree, role) for role in roles for tree in trees)]
        for rate in rates:
            rows += measure(console, bench, systems, rate, options.repeat)
        for role in roles if options.stages else ():
            here = bench.worker(ROOT, role)
            show_stages(console, role, {rate: bench.run(here, rate, marks) for rate in rates})
    print(f"\ndue -> readable under read_committed; median (best) of {options.repeat}; {where}\n")
    print(table_of(rows))


if __name__ == "__main__":
    main()
