"""Growth: what partitions, agents, payloads, a backlog and a second process do to throughput and CPU a task, on real Kafka.

    make bench-growth   or   python -m tests.bench.growth [--tasks 20000] [--only partitions,agents] [--bootstrap HOST:PORT]

In: nothing. Out: a Markdown table; each row differs from the base row in one thing, and the ratios are to the base row of the
same run. The base row is measured at the beginning and at the end: how far the two differ is the noise of the run. Of a long
backlog only the first tasks are drained. Large payloads come in fewer tasks, at most 100 MB of them. Nothing is asserted.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

from tests.bench.draining import AGENTS, PAYLOAD_BYTES, Bench, Load, Row
from tests.bench.tables import figure, machine, markdown
from tests.support.kafka import KafkaCluster
from tests.support.rig import Process, instant_agent

BASE = "base"
GROUPS = ("partitions", "agents", "payload", "backlog", "processes")
ALL_BYTES = 100_000_000
WARM = 2000


def cases(base: Load, groups: frozenset[str] | set[str]) -> Iterator[tuple[str, Load, int]]:
    """Name, load and number of processes of each row but the base.

    >>> [name for name, *_ in cases(Load(20_000), {"agents", "processes"})]
    ['10 agents', '1,000 agents', '2 processes']
    """
    if "partitions" in groups:
        yield "1 partition", replace(base, partitions=1), 1
        yield "32 partitions", replace(base, partitions=32), 1
    if "agents" in groups:
        yield "10 agents", replace(base, agents=10), 1
        yield "1,000 agents", replace(base, agents=1000), 1
    if "payload" in groups:
        yield "payload of 10 KB", of_size(base, 10_000), 1
        yield "payload of 100 KB", of_size(base, 100_000), 1
    if "backlog" in groups:
        for total in (10_000, 100_000, 1_000_000):
            tasks = min(base.tasks, total - base.warm)
            yield f"backlog of {total:,}", replace(base, tasks=tasks, behind=total - base.warm - tasks), 1
    if "processes" in groups:
        yield "2 processes", base, 2


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


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--only", default=",".join(GROUPS), help="of %(default)s")
    parser.add_argument("--bootstrap")
    options = parser.parse_args()
    groups = set(options.only.split(","))
    if unknown := groups - set(GROUPS):
        parser.error(f"--only: unknown {', '.join(sorted(unknown))}; known: {', '.join(GROUPS)}")
    where = machine()
    base = Load(options.tasks, warm=WARM)
    with ExitStack() as stack:
        bootstrap = options.bootstrap or stack.enter_context(KafkaCluster(brokers=1)).bootstrap_servers
        _, endpoint = stack.enter_context(instant_agent())
        bench = Bench(bootstrap, endpoint)
        rows = [measure(bench, BASE, base)]
        rows += [measure(bench, *case) for case in cases(base, groups)]
        rows.append(measure(bench, f"{BASE}, again", base))
    cells = [
        [row.name, figure(row.tasks_s), figure(row.tasks_s / rows[0].tasks_s, 2), figure(row.cpu_us),
         figure(row.cpu_us / rows[0].cpu_us, 2), figure(row.peak_mib)]
        for row in rows
    ]  # fmt: skip
    print(
        f"\nbase: {options.tasks:,} tasks, 8 partitions, {AGENTS} agents, payloads of {PAYLOAD_BYTES} bytes; {where}\n"
    )
    print(markdown(["", "tasks/s", "x base", "CPU us/task", "x base", "peak MiB"], cells))


if __name__ == "__main__":
    main()
