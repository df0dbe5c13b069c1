"""Growth: what partitions, agents, payloads, a backlog and a second process do to throughput and CPU a task, on real Kafka.

    make bench-growth   or   python -m tests.bench.growth [--tasks 20000] [--only partitions,agents] [--bootstrap HOST:PORT]

In: nothing. Out: a Markdown table; each row differs from the base row in one thing. The base row is measured before and after
each group of rows, whose ratios are to the mean of the two; its own ratios, to the mean of all base rows, are the noise of the
run. Of a long backlog only the first tasks are drained. Large payloads come in fewer tasks, at most 100 MB. Nothing is asserted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from statistics import fmean

from tests.bench.draining import AGENTS, PAYLOAD_BYTES, Bench, Load, Row
from tests.bench.tables import figure, machine, markdown
from tests.support.kafka import KafkaCluster
from tests.support.rig import Process, instant_agent

BASE = "base"
ALL_BYTES = 100_000_000
WARM = 2000


Case = tuple[str, Load, int]
"""Name, load and number of processes of a row."""


def groups_of(base: Load) -> dict[str, list[Case]]:
    """The rows beside the base row, by what grows.

    >>> [name for name, *_ in groups_of(Load(20_000))["agents"]]
    ['10 agents', '1,000 agents']
    """
    return {
        "partitions": [
            ("1 partition", replace(base, partitions=1), 1),
            ("32 partitions", replace(base, partitions=32), 1),
        ],
        "agents": [("10 agents", replace(base, agents=10), 1), ("1,000 agents", replace(base, agents=1000), 1)],
        "payload": [("payload of 10 KB", of_size(base, 10_000), 1), ("payload of 100 KB", of_size(base, 100_000), 1)],
        "backlog": [behind(base, total) for total in (10_000, 100_000, 1_000_000)],
        "processes": [("2 processes", base, 2)],
    }


def behind(base: Load, total: int) -> Case:
    """The first tasks of a backlog of `total`.

    >>> behind(Load(20_000, warm=2000), 100_000)[1].behind, behind(Load(20_000, warm=2000), 10_000)[1].tasks
    (78000, 8000)
    """
    tasks = min(base.tasks, total - base.warm)
    return f"backlog of {total:,}", replace(base, tasks=tasks, behind=total - base.warm - tasks), 1


def of_size(base: Load, payload_bytes: int) -> Load:
    """The same with larger payloads, in so many tasks that they fit into `ALL_BYTES`.

    >>> of_size(Load(20_000, warm=2000), 100_000).tasks, of_size(Load(20_000), 100_000).warm
    (800, 200)
    """
    total = min(base.tasks + base.warm, ALL_BYTES // payload_bytes)
    warm = min(base.warm, total // 5)
    return replace(base, tasks=total - warm, warm=warm, payload_bytes=payload_bytes)


def measure(bench: Bench, name: str, load: Load, processes: int = 1) -> Row:
    """One row."""

    def start(prefix: str) -> list[Process]:
        return bench.start_workers(prefix, processes)

    row = bench.row(name, load, start)
    print(f"{row.name}: {row.tasks_s:,.0f} tasks/s, {row.cpu_us:,.0f} us", flush=True)
    return row


def cells_of(row: Row, bases: Sequence[Row]) -> list[str]:
    """A row beside the mean of some base rows."""
    tasks_s, cpu_us = fmean(base.tasks_s for base in bases), fmean(base.cpu_us for base in bases)
    figures = figure(row.tasks_s), figure(row.tasks_s / tasks_s, 2), figure(row.cpu_us), figure(row.cpu_us / cpu_us, 2)
    return [row.name, *figures, figure(row.peak_mib)]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument(
        "--only", default="", help="groups: partitions, agents, payload, backlog, processes; default all"
    )
    parser.add_argument("--bootstrap")
    options = parser.parse_args()
    base = Load(options.tasks, warm=WARM)
    groups = groups_of(base)
    wanted = options.only.split(",") if options.only else list(groups)
    if unknown := set(wanted) - groups.keys():
        parser.error(f"--only: unknown {', '.join(sorted(unknown))}; known: {', '.join(groups)}")
    where = machine()
    cells: list[list[str]] = []
    with ExitStack() as stack:
        bootstrap = options.bootstrap or stack.enter_context(KafkaCluster(brokers=1, measured=True)).bootstrap_servers
        _, endpoint = stack.enter_context(instant_agent())
        bench = Bench(bootstrap, endpoint)
        bases = [measure(bench, BASE, base)]
        for name in wanted:
            rows = [measure(bench, *case) for case in groups[name]]
            bases.append(measure(bench, BASE, base))
            cells += [cells_of(row, bases[-2:]) for row in rows]
    cells = [*(cells_of(row, bases) for row in bases), *cells]
    print(
        f"\nbase: {options.tasks:,} tasks, 8 partitions, {AGENTS} agents, payloads of {PAYLOAD_BYTES} bytes; {where}\n"
    )
    print(markdown(["", "tasks/s", "x base", "CPU us/task", "x base", "peak MiB"], cells))


if __name__ == "__main__":
    main()
