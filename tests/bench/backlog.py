"""Memory of a dispatch worker over a large backlog: a million tasks lie on the topic while it works.

    make bench-backlog    or   python -m tests.bench.backlog [--tasks 1000000] [--seconds 60] [--bootstrap HOST:PORT]

Prints the peak resident size every few seconds; ends after --seconds or when all is answered.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack

from tests.bench.draining import Bench, Load
from tests.support.kafka import KafkaCluster
from tests.support.rig import Tap, instant_agent, start_worker


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--bootstrap")
    options = parser.parse_args()
    with ExitStack() as stack:
        bootstrap = options.bootstrap or stack.enter_context(KafkaCluster(brokers=1, measured=True)).bootstrap_servers
        _, endpoint = stack.enter_context(instant_agent())
        bench, load = Bench(bootstrap, endpoint), Load(options.tasks, key="random")
        prefix = bench.prepare(load)
        bench.produce(prefix, load, 0, options.tasks)
        print(f"{options.tasks} tasks produced", flush=True)
        worker = start_worker(bootstrap, prefix, "--roles", "dispatch")
        stack.callback(worker.stop)
        tap = Tap(bootstrap, f"{prefix}results")
        stack.callback(tap.close)
        began, seen = time.monotonic(), 0
        while seen < options.tasks and time.monotonic() - began < options.seconds:
            seen += len(tap.until(50_000, 5.0))
            seconds = time.monotonic() - began
            print(
                f"{seconds:5.0f} s  {seen:8d} results  {seen / seconds:6.0f}/s  peak {worker.peak_mib():.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
