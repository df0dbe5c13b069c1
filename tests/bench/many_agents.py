"""What registered agents cost a worker: memory, and CPU per task when few or many are known. Nothing is asserted.

    python -m tests.bench.many_agents [--agents 1000] [--tasks 10000]

Embedded broker, one worker, one instant agent behind every registration. Measured for 10 and for `--agents` agents: resident
size when ready and after every agent had one task (so that each has its queue); then CPU per task, less what the worker takes
when idle (health checks, mostly), for tasks that name one of ten agents, and for tasks addressed by a capability that all have.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from streams.broker.embedded import EmbeddedBroker
from streams.broker.topics_admin import apply
from streams.settings import Settings
from tests.support.rig import Process, Tap, instant_agent, produce, register, start_worker

IDLE_S = 30.0
"""As long as health checks take to go round."""
LIMITS = {"maxRequests": 100_000_000, "windowMs": 60_000, "maxConcurrency": 10}


def resident_mib(worker: Process) -> float:
    """Its resident size now."""
    for row in Path(f"/proc/{worker.pid}/status").read_text().splitlines():
        if row.startswith("VmRSS"):
            return int(row.split()[1]) / 1024
    return 0.0


def send(bootstrap: str, prefix: str, tag: str, tasks: int, **address: object) -> None:
    """Plain tasks; `targets`: by turns for these, else by capability."""
    targets = address.get("targets")
    records = []
    for n in range(tasks):
        to = {"target": targets[n % len(targets)]} if isinstance(targets, list) else {"capabilities": ["sum"]}
        body = {"id": f"{tag}-{n}", "type": "agent", "payload": n, "metadata": {"cache": False}} | to
        records.append((None, json.dumps(body).encode()))
    produce(bootstrap, f"{prefix}tasks", records)


def run(broker: EmbeddedBroker, endpoint: str, agents: int, tasks: int) -> list[float]:
    """One worker with so many agents: MiB ready, MiB used, us CPU per task named, us per task by capability."""
    prefix = f"many{agents}."
    asyncio.run(apply(Settings(bootstrap_servers=broker.bootstrap_servers, topic_prefix=prefix), 8))
    names = [f"agent-{n}" for n in range(agents)]
    bootstrap = broker.bootstrap_servers
    register(
        bootstrap,
        prefix,
        *({"id": name, "endpoint": endpoint, "limits": LIMITS, "capabilities": ["sum", "sort"]} for name in names),
    )
    worker = start_worker(bootstrap, prefix, "--roles", "dispatch")
    tap = Tap(bootstrap, f"{prefix}results")
    figures = [resident_mib(worker)]
    try:
        send(bootstrap, prefix, "warm", max(agents, 500), targets=names)
        assert len(tap.until(max(agents, 500), 120)) >= max(agents, 500)
        time.sleep(6)
        figures.append(resident_mib(worker))
        spent = []
        for tag, address in (("named", {"targets": names[:10]}), ("any", {})):
            before, began = worker.cpu_s(), time.monotonic()
            send(bootstrap, prefix, tag, tasks, **address)
            found = len(tap.until(tasks, 180))
            assert found >= tasks, f"{found} of {tasks} results"
            spent.append((worker.cpu_s() - before, time.monotonic() - began))
        before = worker.cpu_s()
        time.sleep(IDLE_S)
        idle = (worker.cpu_s() - before) / IDLE_S
        figures += [(cpu - idle * wall) / tasks * 1e6 for cpu, wall in spent]
        figures.append(idle * 100)
    finally:
        tap.close()
        assert worker.stop() == 0
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--tasks", type=int, default=10_000)
    options = parser.parse_args(arguments)
    table = Table("agents", "MiB ready", "MiB used", "us/task named", "us/task by capability", "idle CPU %")
    with instant_agent() as (_, endpoint):
        for agents, figures in asyncio.run(_measure(endpoint, (10, options.agents), options.tasks)):
            table.add_row(str(agents), *(f"{figure:.1f}" for figure in figures))
    Console().print(table)
    return 0


async def _measure(endpoint: str, counts: Sequence[int], tasks: int) -> list[tuple[int, list[float]]]:
    async with EmbeddedBroker() as broker:
        return [(agents, await asyncio.to_thread(run, broker, endpoint, agents, tasks)) for agents in counts]


if __name__ == "__main__":
    raise SystemExit(main())
