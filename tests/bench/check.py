"""Compares ratios of this run with the committed ones in `ratios.toml`; exit code 1 if one is worse than its noise allows.

    make bench-check   or   python -m tests.bench.check [--tasks 8000] [--rounds 3] [--write] [--bootstrap HOST:PORT]

A round measures the floor, dispatch, and dispatch with one thing grown; ratios are taken within the round, and the median of the
rounds counts. So a slow or busy machine changes little: it hits both sides. With `--write` the medians become the committed
values, and the noise and direction of each stay: do so on a quiet machine only. Needs Java and Maven; 4 minutes.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from tests.bench.draining import Bench, Load, Row
from tests.bench.growth import measure, of_size
from tests.bench.ratios import Bound, Finding, compare, read_bounds
from tests.bench.tables import figure, machine, markdown
from tests.bench.throughput import peer
from tests.support.kafka import KafkaCluster
from tests.support.rig import instant_agent

RATIOS = Path(__file__).with_name("ratios.toml")
HEAD = "# Ratios within one run of `make bench-check`; `--write` renews the values, on a quiet machine. See docs/benchmarks.md.\n"


def one_round(bench: Bench, tasks: int) -> dict[str, float]:
    """All ratios, from rows measured one after the other."""
    base = Load(tasks)
    floor = peer(bench, "floor", tasks)
    dispatch = measure(bench, "dispatch", base)
    grown = {
        "tasks keyed at random": replace(base, key="random"),
        "32 partitions": replace(base, partitions=32),
        "1,000 agents": replace(base, agents=1000),
        "payload of 10 KB": of_size(base, 10_000),
    }
    ratios = {
        "dispatch: CPU a task, x floor": dispatch.cpu_us / floor.cpu_us,
        "dispatch: tasks/s, x floor": dispatch.tasks_s / floor.tasks_s,
    }
    rows: dict[str, Row] = {name: measure(bench, name, load) for name, load in grown.items()}
    return ratios | {f"{name}: CPU a task, x dispatch": row.cpu_us / dispatch.cpu_us for name, row in rows.items()}


def report(findings: list[Finding]) -> str:
    """The table."""
    rows = []
    for finding in findings:
        bound = finding.committed
        committed = "" if bound is None else f"{bound.value:.2f} +-{bound.noise:.0%}, {bound.better} is better"
        measured = "" if finding.measured is None else figure(finding.measured, 2)
        rows.append([finding.name, committed, measured, finding.verdict])
    return markdown(["ratio", "committed", "measured", "verdict"], rows)


def as_toml(findings: list[Finding]) -> str:
    """The table with the measured values. A new ratio gets noise and direction to be edited by hand."""
    blocks = [HEAD]
    for finding in findings:
        bound = finding.committed or Bound(1.0, 0.25, "higher" if "tasks/s" in finding.name else "lower")
        value = bound.value if finding.measured is None else finding.measured
        blocks.append(f'["{finding.name}"]\nvalue = {value:.2f}\nnoise = {bound.noise}\nbetter = "{bound.better}"\n')
    return "\n".join(blocks)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--bootstrap")
    options = parser.parse_args()
    try:
        committed = read_bounds(tomllib.loads(RATIOS.read_text("utf-8")))
    except ValueError as error:
        parser.error(f"{RATIOS.name}: {error}")
    where = machine()
    measured: dict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        bootstrap = options.bootstrap or stack.enter_context(KafkaCluster(brokers=1, measured=True)).bootstrap_servers
        _, endpoint = stack.enter_context(instant_agent())
        bench = Bench(bootstrap, endpoint)
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", flush=True)
            for name, ratio in one_round(bench, options.tasks).items():
                measured[name].append(ratio)
    findings = compare(committed, measured)
    print(f"\n{options.rounds} rounds of {options.tasks:,} tasks; {where}\n")
    print(report(findings))
    if options.write:
        RATIOS.write_text(as_toml(findings), "utf-8")
        print(f"\nwritten to {RATIOS.name}")
        return 0
    for finding in findings:
        if finding.verdict == "better":
            print(f"\n{finding.name}: better than committed; if it stays so on a quiet machine, renew it with --write")
    failing = [finding.name for finding in findings if finding.fails]
    print(f"\nfailed: {'; '.join(failing)}" if failing else "\nno ratio is worse")
    return 1 if failing else 0


if __name__ == "__main__":
    sys.exit(main())
