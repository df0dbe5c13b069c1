"""The benchmark of fairness: what sick or flooded agents cost the well ones. W: all well; S: three sick (or one flooded).

    make bench-fairness   or   python -m tests.bench.fairness [--rate 400] [--seconds 75] [--rounds 2] [--slow-ms 150]
    python -m tests.bench.fairness --flood [--flood-tasks 20000]

20 agents, one worker, equal open-loop load for each at a rate the machine carries easily, runs interleaved W S W S so that
noise shows. Sick: one accepts calls and hangs, one takes ten times as long, one answers every other call with 500.
Flood: one agent, a slow one, is sent all its tasks at once while others in its partition get their steady load.
Measured are the other agents, from `WARM_S` on: latency from the time a task was due to be produced until its result is
readable under read_committed (see `load.py`), throughput as results read while load was sent. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from schemas.partitioning import owner_partition
from tests.bench.load import Reader, percentile, reasons, relocations, send
from tests.support.kafka import KafkaCluster
from tests.support.rig import apply_topics, fake_agent, instant_agent, register, start_worker

AGENTS = 20
PARTITIONS = 8
WARM_S = 5.0
WARM_RUN_S = 15.0
SETTLE_S = 75.0
FLOOD_AT_S = 15.0
WELL_MS = 15
LIMITS = {"maxRequests": 100_000_000, "windowMs": 60_000, "maxConcurrency": 10}


@dataclass
class Run:
    """One run: the well agents' figures, what became of the others' tasks, and what the worker used."""

    name: str
    tasks_s: float
    latencies_ms: list[float]
    near_ms: list[float]
    fates: dict[str, Counter[str]]
    relocated: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    cpu: float = 0.0
    peak_mib: float = 0.0
    doubled: int = 0
    worst: list[tuple[int, float]] = field(default_factory=list)


def names(crowded: bool) -> list[str]:
    """Twenty agent ids; if `crowded`, the first six live in one partition."""
    if not crowded:
        return [f"a{number}" for number in range(AGENTS)]
    ids = [f"a{number}" for number in range(1000)]
    same = [one for one in ids if owner_partition(one, PARTITIONS) == owner_partition("a0", PARTITIONS)][:6]
    return same + [one for one in ids if one not in same][: AGENTS - len(same)]


def task(agent: str, number: int | str, expires_ms: int | None = None) -> bytes:
    """A task of about 350 bytes; no two alike, so that none is answered from the cache."""
    payload = {"task": "classify this", "data": {"text": "x" * 200}, "n": number}
    fields = {"id": f"{agent}-{number}", "type": "agent", "target": agent, "payload": payload}
    return json.dumps(fields if expires_ms is None else {**fields, "metadata": {"expiresIn": expires_ms}}).encode()


def sick_agents(stack: ExitStack, well_ms: int, slow_ms: int) -> tuple[str, str, str]:
    """Endpoints of one that hangs, one that is slow, and one that answers every other call with 500."""
    hung = stack.enter_context(fake_agent("--behaviour", "hang"))
    slow = stack.enter_context(instant_agent("--delay-ms", str(slow_ms)))[1]
    failing = stack.enter_context(instant_agent("--delay-ms", str(well_ms), "--fail-every", "2"))[1]
    return hung, slow, failing


class Bench:
    """One broker, several runs, each with its own topics, worker and agents."""

    def __init__(self, bootstrap: str, options: argparse.Namespace) -> None:
        self.bootstrap = bootstrap
        self.options = options
        self.ids = names(options.flood)
        self.odd = self.ids[:1] if options.flood else self.ids[:3]
        self.well = self.ids[len(self.odd) :]

    def endpoints(self, stack: ExitStack, sick: bool) -> dict[str, str]:
        """Start the agents; id -> endpoint."""
        _, well = stack.enter_context(instant_agent("--delay-ms", str(WELL_MS)))
        found = dict.fromkeys(self.ids, well)
        slow = ("--delay-ms", str(self.options.slow_ms))
        if self.options.flood:
            found[self.odd[0]] = stack.enter_context(instant_agent(*slow))[1]
        elif sick:
            found |= zip(self.odd, sick_agents(stack, WELL_MS, self.options.slow_ms), strict=True)
        return found

    def run(self, name: str, sick: bool) -> Run:
        """One run."""
        options = self.options
        prefix = f"fair-{name.lower()}-{time.time_ns() // 1_000_000}."
        apply_topics(self.bootstrap, prefix)
        with ExitStack() as stack:
            endpoints = self.endpoints(stack, sick)
            register(
                self.bootstrap, prefix, *({"id": i, "endpoint": e, "limits": LIMITS} for i, e in endpoints.items())
            )
            worker = start_worker(self.bootstrap, prefix, "--roles", "dispatch")
            stack.callback(worker.stop)
            reader = Reader(self.bootstrap, f"{prefix}results")
            reader.start()
            stack.callback(reader.close)
            bursts = []
            if options.flood and sick:
                flood = [task(self.odd[0], f"f{n}", options.flood_expires) for n in range(options.flood_tasks)]
                bursts.append((FLOOD_AT_S, self.odd[0], flood))
            load = self.well if options.flood else self.ids
            rate = options.rate * len(load) / AGENTS
            cpu, began = worker.cpu_s(), time.time()
            due = send(self.bootstrap, f"{prefix}tasks", load, rate, options.seconds, task, bursts)
            ended = time.time()
            cpu = (worker.cpu_s() - cpu) / (ended - began)
            extra = len(bursts[0][2]) if bursts else 0
            self.settle(reader, len(due) + extra)
            found = self.figures(name, due, reader, began, ended)
            found.cpu, found.peak_mib, found.doubled = cpu, worker.peak_mib(), reader.doubled
            if extra:
                mine = Counter(c for i, (_, c) in reader.results.items() if i.startswith(f"{self.odd[0]}-f"))
                found.fates[self.odd[0]] = mine + Counter({"no result yet": extra - mine.total()})
        found.relocated, found.reasons = relocations(self.bootstrap, prefix), reasons(self.bootstrap, prefix)
        return found

    def settle(self, reader: Reader, expected: int) -> None:
        """Wait until every task has ended, within bounds."""
        limit = time.monotonic() + (self.options.settle if self.options.settle is not None else SETTLE_S)
        while len(reader.results) < expected and time.monotonic() < limit:
            time.sleep(0.2)

    def figures(self, name: str, due: dict[str, float], reader: Reader, began: float, ended: float) -> Run:
        """From times to figures."""
        results = dict(reader.results)
        well, near, fates, count = [], [], {one: Counter[str]() for one in self.odd}, 0
        slowest: dict[int, float] = {}
        partition = owner_partition(self.odd[0], PARTITIONS)
        for task_id, at in due.items():
            agent = task_id.rpartition("-")[0]
            seen, code = results.get(task_id, (time.time(), "no result yet"))
            if agent in fates:
                fates[agent][code] += 1
                continue
            count += began + WARM_S <= seen <= ended
            if code != "success":
                fates.setdefault("well agents", Counter())[code] += 1
            if at >= began + WARM_S:
                ms = (seen - at) * 1000
                well.append(ms)
                slowest[int(at - began)] = max(slowest.get(int(at - began), 0.0), ms)
                if owner_partition(agent, PARTITIONS) == partition:
                    near.append(ms)
        worst = sorted(slowest.items(), key=lambda pair: -pair[1])[:5]
        return Run(name, count / (ended - began - WARM_S), well, near, fates, worst=worst)


def report(runs: Sequence[Run], options: argparse.Namespace, console: Console) -> None:
    """The table, the ratios, and what became of the rest."""
    table = Table(
        title=f"{AGENTS} agents, {options.rate:.0f} tasks/s, {options.seconds:.0f} s a run, {os.cpu_count()} cores"
    )
    for column in (
        "",
        "well: tasks/s",
        "p50 ms",
        "p99 ms",
        "max ms",
        "same partition: p50",
        "p99",
        "worker CPU",
        "MiB",
    ):
        table.add_column(column, justify="right")
    for run in runs:
        far, near = run.latencies_ms, run.near_ms
        table.add_row(run.name, f"{run.tasks_s:.1f}", *(f"{percentile(far, p):.1f}" for p in (0.5, 0.99, 1)),
                      *(f"{percentile(near, p):.1f}" for p in (0.5, 0.99)), f"{run.cpu:.2f}", f"{run.peak_mib:.0f}")  # fmt: skip
    console.print(table)
    for run in runs:
        for agent, fates in run.fates.items():
            console.print(f"{run.name} {agent}: {dict(fates)}")
        if run.reasons:
            console.print(f"{run.name} waited {dict(run.reasons)}")
        if run.relocated:
            console.print(
                f"{run.name} relocated {len(run.relocated)}, most often one task: {max(run.relocated.values())}"
            )
        console.print(
            f"{run.name} worst seconds {[f'{s} s: {ms:.0f} ms' for s, ms in run.worst]}, doubled {run.doubled}"
        )
    pairs = [(runs[i], runs[i + 1]) for i in range(0, len(runs) - 1, 2)]
    for well, sick in pairs:
        ratios = [sick.tasks_s / well.tasks_s]
        ratios += [percentile(sick.latencies_ms, p) / percentile(well.latencies_ms, p) for p in (0.5, 0.99)]
        ratios += [percentile(sick.near_ms, p) / percentile(well.near_ms, p) for p in (0.5, 0.99)]
        labels = ("throughput", "p50", "p99", "same partition p50", "same partition p99")
        console.print(
            f"{sick.name} / {well.name}: " + ", ".join(f"{k} {v:.3f}" for k, v in zip(labels, ratios, strict=True))
        )
    if pairs:
        all_well = [ms for well, _ in pairs for ms in well.latencies_ms]
        all_sick = [ms for _, sick in pairs for ms in sick.latencies_ms]
        speed = sum(s.tasks_s for _, s in pairs) / sum(w.tasks_s for w, _ in pairs)
        tail = percentile(all_sick, 0.99) / percentile(all_well, 0.99)
        console.print(f"all rounds together: throughput {speed:.3f} (wanted >= 0.95), p99 {tail:.3f} (wanted <= 1.2)")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=400.0, help="tasks/s over all agents")
    parser.add_argument("--seconds", type=float, default=75.0, help="load of each run")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--slow-ms", type=int, default=10 * WELL_MS)
    parser.add_argument("--flood", action="store_true")
    parser.add_argument("--flood-tasks", type=int, default=20_000)
    parser.add_argument("--flood-expires", type=int, default=600_000, help="each task of the flood expires after, ms")
    parser.add_argument("--settle", type=float, help="how long to wait for the last results, seconds")
    parser.add_argument("--only", choices=("W", "S"), help="this kind of run alone")
    parser.add_argument("--bootstrap")
    options = parser.parse_args()
    console = Console(width=130)
    with ExitStack() as stack:
        bootstrap = options.bootstrap or stack.enter_context(KafkaCluster(brokers=1, measured=True)).bootstrap_servers
        bench = Bench(bootstrap, options)
        seconds, options.seconds = options.seconds, WARM_RUN_S
        bench.run("warm", sick=False)  # a broker that has just started is slow at everything
        options.seconds = seconds
        runs: list[Run] = []
        for number in range(1, options.rounds + 1):
            kinds = [kind for kind in ("W", "S") if options.only in (None, kind)]
            runs += [bench.run(f"{kind}{number}", sick=kind == "S") for kind in kinds]
    report(runs, options, console)


if __name__ == "__main__":
    main()
