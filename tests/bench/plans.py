"""What the coordinator costs: CPU a step in a large parallel plan, and how long a sequence of ten instant steps takes.

    python -m tests.bench.plans [--steps 10000] [--chains 50]

On real Kafka; the coordinator is a process of its own, beside one that dispatches. Prints a table; asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from contextlib import ExitStack
from typing import Any

from tests.support.kafka import KafkaCluster
from tests.support.plan_rig import send_plans, settled
from tests.support.rig import Tap, apply_topics, instant_agent, produce, register, start_worker, stopping

LIMITS = {"maxRequests": 10_000_000, "windowMs": 60_000, "maxConcurrency": 200}
AGENTS = 16
WARM = 20
"""Plans before it counts: the broker's first index entries in each partition cost 40 ms on some disks."""


def plan(name: str, count: int, **fields: Any) -> dict[str, Any]:
    """A plan of so many steps over all agents."""
    tasks = [
        {"id": f"t{n}", "type": "agent", "target": f"a{n % AGENTS}", "payload": n, "metadata": {"cache": False}}
        for n in range(count)
    ]
    return {"id": name, "tasks": tasks, "timeout": 300_000} | fields


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--chains", type=int, default=50)
    options = parser.parse_args()
    prefix = f"bench{time.time_ns() // 1_000_000}."
    with ExitStack() as stack:
        broker = stack.enter_context(KafkaCluster(brokers=1, measured=True)).bootstrap_servers
        apply_topics(broker, prefix)
        _, endpoint = stack.enter_context(instant_agent())
        register(broker, prefix, *({"id": f"a{n}", "endpoint": endpoint, "limits": LIMITS} for n in range(AGENTS)))
        stack.enter_context(stopping(start_worker(broker, prefix, "--roles", "dispatch")))
        coordinator = stack.enter_context(stopping(start_worker(broker, prefix, "--roles", "plans")))
        tap = Tap(broker, f"{prefix}plan-results")
        stack.callback(tap.close)

        took = []
        for number in range(options.chains + WARM):
            send_plans(broker, prefix, [plan(f"chain{number}", 10, kind="sequential")])
            [result] = settled(tap, {f"chain{number}"}, quiet_s=0)[f"chain{number}"]
            took.append(result["executionTime"])
        took = sorted(took[WARM:])
        print(f"10 steps in sequence: p50 {statistics.median(took):.0f} ms, p90 {took[len(took) * 9 // 10]} ms")

        before_s = coordinator.cpu_s()
        large = plan("large", options.steps, maxConcurrency=1000)
        produce(broker, f"{prefix}plans", [(b"large", json.dumps(large).encode())], **{"message.max.bytes": 9_000_000})
        [result] = settled(tap, {"large"}, timeout_s=240)["large"]
        cpu_us = (coordinator.cpu_s() - before_s) / options.steps * 1e6
        print(f"{options.steps} steps at once: {cpu_us:.0f} us CPU a step, {result['executionTime'] / 1000:.1f} s")

        before_s = coordinator.cpu_s()
        others = [(None, json.dumps(task | {"id": f"o{n}"}).encode()) for n, task in enumerate(large["tasks"])]
        answers = Tap(broker, f"{prefix}results")
        stack.callback(answers.close)
        produce(broker, f"{prefix}tasks", others)
        answers.until(2 * options.steps + 10 * (options.chains + WARM), 120)
        cpu_us = (coordinator.cpu_s() - before_s) / options.steps * 1e6
        print(f"results of {options.steps} tasks that belong to no plan: {cpu_us:.0f} us CPU a result passed over")


if __name__ == "__main__":
    main()
