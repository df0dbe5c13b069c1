"""How many calls one worker holds at once, and what they take: agents that answer after ten seconds, all tasks sent at once.

    python -m tests.bench.held [--calls 20000] [--agents 4] [--seconds 10]

Each call has a connection of its own: the limit of open files (`ulimit -n`) must be above the number of calls, here and at the
agents. Printed: the most calls under way at once, the worker's memory before and at its peak, CPU a task. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import time
from contextlib import ExitStack

import httpx

from tests.support.kafka import KafkaCluster
from tests.support.rig import Tap, apply_topics, instant_agent, produce, register, rss_mib, start_worker

PREFIX = "held."
SPARE_FILES = 1500


def main() -> None:
    """One run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--agents", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    hard = _raise_file_limit(given.calls + SPARE_FILES)
    if given.calls > hard - SPARE_FILES:
        given.calls = hard - SPARE_FILES
        print(f"this machine allows {hard} open files a process: {given.calls} calls at once")
    with ExitStack() as stack:
        kafka = stack.enter_context(KafkaCluster(brokers=1, measured=True))
        endpoints = [
            stack.enter_context(instant_agent("--delay-ms", str(int(given.seconds * 1000))))[1]
            for _ in range(given.agents)
        ]
        apply_topics(kafka.bootstrap_servers, PREFIX)
        each = given.calls // given.agents
        limits = {"maxRequests": 100_000_000, "windowMs": 60_000, "maxConcurrency": each}
        agents = [{"id": f"a{n}", "endpoint": url, "limits": limits} for n, url in enumerate(endpoints)]
        register(kafka.bootstrap_servers, PREFIX, *agents)
        worker = start_worker(kafka.bootstrap_servers, PREFIX, "--roles", "dispatch", "-o", "json", wait=False)
        stack.callback(worker.stop)
        web = json.loads(worker.line(90))["web"]
        idle_mib = rss_mib(worker.pid)
        tasks = (
            (f"a{n % given.agents}".encode(), json.dumps(_task(n, f"a{n % given.agents}")).encode())
            for n in range(each * given.agents)
        )
        produce(kafka.bootstrap_servers, PREFIX + "tasks", tasks)
        began, most, memory = time.monotonic(), 0, 0.0
        tap = Tap(kafka.bootstrap_servers, PREFIX + "results")
        done = 0
        while done < each * given.agents and time.monotonic() - began < 120 + given.seconds:
            done += len(tap.read(0.2))
            most = max(most, _under_way(web))
            memory = max(memory, rss_mib(worker.pid))
        tap.close()
        took_s = time.monotonic() - began
        print(f"calls under way at once: {most} of {each * given.agents}; all answered after {took_s:.1f} s")
        cpu_us = worker.cpu_s() / max(1, done) * 1e6
        print(f"worker: {idle_mib:.0f} MiB idle, {memory:.0f} MiB at its peak, {cpu_us:.0f} us CPU a task")


def _raise_file_limit(wanted: int) -> int:
    """Open files that this process and its children may have, raised to `wanted` where that is allowed (root may)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(hard, wanted), max(hard, wanted)))
        return max(hard, wanted)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _task(number: int, agent: str) -> dict[str, object]:
    return {
        "id": f"t{number}",
        "type": "agent",
        "target": agent,
        "payload": {"n": number},
        "metadata": {"cache": False},
    }


def _under_way(web: str) -> int:
    rows = httpx.get(f"{web.rstrip('/')}/metrics", timeout=20).text.splitlines()
    return sum(int(float(row.split()[-1])) for row in rows if row.startswith("parallax_agent_inflight_calls{"))


if __name__ == "__main__":
    main()
