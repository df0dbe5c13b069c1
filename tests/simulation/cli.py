"""The command: runs seeds in processes of their own, prints what each broke and the fewest faults that break it.

Exit 1 if any broke.

python -m tests.simulation --seeds 100 --jobs 2
python -m tests.simulation --profile freeze --first 7 --seeds 1 -v
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

from tests.simulation.faults import Fault, planned
from tests.simulation.holes import HOLES, Hole
from tests.simulation.mutants import MUTANTS
from tests.simulation.options import PROFILES, Options, product_time, profile
from tests.simulation.scenario import Report, run_seed
from tests.simulation.shrink import shrunk

SEED_TIMEOUT_S = 900.0
SHOWN = 6
MUTANT_SEEDS = 20
"""Seeds tried, beside a hole's own, before it counts as not found without its fix."""
SHRUNK = 3
"""Seeds whose faults are shortened: each takes dozens of runs."""


def silence() -> None:
    """The workers' logs are of simulated worlds."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)


def run_apart(
    seed: int, options: Options, faults: Sequence[Fault] | None = None, without: str | None = None
) -> Report | str:
    """Run a seed in a process of its own, so that nothing of one world reaches another; the reason if it crashed or hung.

    `without`: the fix that is taken out of the product in that process.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(sender, seed, options, faults, without))
    child.start()
    sender.close()
    try:
        if not receiver.poll(SEED_TIMEOUT_S):
            return f"still running after {SEED_TIMEOUT_S:.0f} s"
        found: Report | str = receiver.recv()
    except EOFError:
        return f"the process ended with {child.exitcode}"
    finally:
        child.kill()
        child.join()
        receiver.close()
    return found


def _child(sender: Any, seed: int, options: Options, faults: Sequence[Fault] | None, without: str | None) -> None:
    silence()
    try:
        if without is not None:
            MUTANTS[without]()
        sender.send(run_seed(seed, options, faults))
    except BaseException:
        sender.send(traceback.format_exc())
    sender.close()
    os._exit(0)  # what is left of dead nodes must not run


def shortened(report: Report, options: Options, oracle: str) -> list[Fault]:
    """The fewest faults found with which the seed breaks an oracle."""

    def breaks(faults: Sequence[Fault]) -> bool:
        again = run_apart(report.seed, options, faults)
        return isinstance(again, Report) and oracle in again.broken

    return shrunk(report.faults, breaks)


def show(report: Report, options: Options, command: str, shrink: bool) -> Iterator[str]:
    """What a seed did and broke."""
    yield (
        f"seed {report.seed} [{report.digest}]: {report.tasks} tasks, {report.plans} plans, {report.calls} calls, "
        f"{report.virtual_s:.0f} simulated s in {report.cpu_s:.1f} s; {report.codes}"
    )
    for violation in report.violations[:SHOWN]:
        yield f"    {violation}"
    if len(report.violations) > SHOWN:
        yield f"    ... {len(report.violations)} in all: {dict(Counter(one.oracle for one in report.violations))}"
    if report.violations:
        yield f"    again: {command} --first {report.seed} --seeds 1"
        for oracle in sorted({violation.oracle for violation in report.violations}) if shrink else ():
            yield f"    {oracle} with these faults: {' '.join(map(str, shortened(report, options, oracle))) or 'none'}"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--jobs", type=int, default=1, help="worlds at the same time")
    parser.add_argument(
        "--holes",
        nargs="?",
        const="all",
        help="run the seeds of known holes (or of those named) and say which are open",
    )
    parser.add_argument("--without", help="take these fixes out and say whether their holes are found: F1,F2, or all")
    parser.add_argument("--profile", choices=[*PROFILES, "all"], default="mix")
    parser.add_argument(
        "--faults", help="kinds with their weights by repetition, for example kill,kill,freeze; or none"
    )
    parser.add_argument("--seconds", type=float, help="how long there is traffic")
    parser.add_argument("--every", type=float, help="mean seconds between faults")
    parser.add_argument("--skew", type=float, help="standard deviation of the workers' wall clocks, ms")
    parser.add_argument("--in-place", action="store_true", help="transactional requests are repeated in the same epoch")
    parser.add_argument("--grow", action="store_true", help="partitions are added in the middle")
    parser.add_argument(
        "--time", choices=("task", "attempt"), help="what metadata.timeout bounds; default: as the product has it"
    )
    parser.add_argument("--only", help="oracles whose findings count, separated by commas")
    parser.add_argument("--ignore", help="oracles whose findings do not count")
    parser.add_argument("--no-shrink", dest="shrink", action="store_false", help="do not look for the fewest faults")
    parser.add_argument("--trace", action="store_true", help="print when each fault came")
    parser.add_argument("-v", "--verbose", action="store_true", help="print seeds that broke nothing too")
    return parser.parse_args(arguments)


def options_of(given: argparse.Namespace, name: str) -> Options:
    """The options of a command line for one profile."""
    changes: dict[str, object] = {
        key: value for key in ("seconds", "every", "skew") if (value := getattr(given, key)) is not None
    }
    changes |= {key: True for key in ("in_place", "grow") if getattr(given, key)}
    if given.faults is not None:
        changes["faults"] = () if given.faults == "none" else tuple(given.faults.split(","))
    return profile(name, time=given.time or product_time(), **changes)


def _filter(report: Report, given: argparse.Namespace) -> None:
    only, ignore = (given.only or "").split(","), (given.ignore or "").split(",")
    report.violations = [
        one for one in report.violations if (not given.only or one.oracle in only) and one.oracle not in ignore
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run; exit 1 if anything broke."""
    given = parse(arguments)
    if given.holes:
        sys.exit(1 if sum(_is_open(given, hole) for hole in _chosen(given.holes)) else 0)
    if given.without:
        sys.exit(0 if all([_is_found(given, hole) for hole in _mutated(given.without)]) else 1)
    names = list(PROFILES) if given.profile == "all" else [given.profile]
    broken = sum(_run_profile(given, name) for name in names)
    sys.exit(1 if broken else 0)


def _chosen(names: str) -> list[Hole]:
    return [hole for hole in HOLES if names == "all" or hole.name in names.split(",")]


def _is_open(given: argparse.Namespace, hole: Hole) -> bool:
    """Whether one of a hole's seeds still finds it."""
    options = options_of(given, hole.profile)
    with ThreadPoolExecutor(given.jobs) as pool:
        reports = list(pool.map(lambda seed: run_apart(seed, options), hole.seeds))
    found = [
        f"seed {seed} ({report if isinstance(report, str) else ', '.join(sorted(report.broken & hole.oracles))})"
        for seed, report in zip(hole.seeds, reports, strict=True)
        if isinstance(report, str) or report.broken & hole.oracles
    ]
    print(
        f"{hole.name} {'OPEN' if found else 'closed'}: {hole.what}: --profile {hole.profile}: {'; '.join(found)}",
        flush=True,
    )
    return bool(found)


def _mutated(names: str) -> list[Hole]:
    chosen = MUTANTS if names == "all" else names.split(",")
    return [hole for hole in HOLES if hole.name in chosen]


def _is_found(given: argparse.Namespace, hole: Hole) -> bool:
    """Whether the hole shows again once its fix is taken out: by its own seeds, or by one of the first of its profile."""
    options = options_of(given, hole.profile)
    for seed in dict.fromkeys([*hole.seeds, *range(1, MUTANT_SEEDS + 1)]):
        report = run_apart(seed, options, without=hole.name)
        if isinstance(report, Report) and report.broken & hole.oracles:
            found = ", ".join(sorted(report.broken & hole.oracles))
            print(f"{hole.name} found without its fix: --profile {hole.profile} --first {seed}: {found}", flush=True)
            return True
    print(f"{hole.name} NOT FOUND without its fix, in {MUTANT_SEEDS} seeds and its own of {hole.profile}", flush=True)
    return False


def _run_profile(given: argparse.Namespace, name: str) -> int:
    """How many seeds of a profile broke something."""
    options, began = options_of(given, name), time.monotonic()
    command = f"python -m tests.simulation --profile {name}"
    seeds = range(given.first, given.first + given.seeds)
    totals, oracles, kinds, broken = Counter[str](), Counter[str](), Counter[str](), 0
    with ThreadPoolExecutor(given.jobs) as pool:
        for seed, report in zip(seeds, pool.map(lambda seed: run_apart(seed, options), seeds), strict=True):
            if isinstance(report, str):
                broken += 1
                print(f"seed {seed}: {report}", flush=True)
                continue
            _filter(report, given)
            broken += bool(report.violations)
            oracles.update(report.broken)
            kinds.update(fault.kind for fault in planned(options, seed))
            totals.update(tasks=report.tasks, plans=report.plans, calls=report.calls, cpu_ms=int(report.cpu_s * 1000))
            totals["virtual"] += int(report.virtual_s)
            if report.violations or given.verbose:
                for line in show(report, options, command, given.shrink and broken <= SHRUNK):
                    print(line, flush=True)
            if given.trace:
                print("\n".join(report.trace))
    cpu_s = max(0.001, totals["cpu_ms"] / 1000)
    print(
        f"{name}: {given.seeds} seeds, {broken} broken {dict(oracles) or ''}; {totals['tasks']} tasks, {totals['plans']} plans, "
        f"{totals['calls']} calls, faults {dict(sorted(kinds.items()))}; {totals['virtual']} simulated s in {cpu_s:.0f} s of CPU "
        f"({totals['tasks'] / cpu_s:.0f} tasks/s a core), {time.monotonic() - began:.0f} s in all",
        flush=True,
    )
    return broken
