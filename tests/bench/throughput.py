"""The benchmark of dispatch: tasks/s and CPU a task, beside the floor and other systems in the same run.

    make bench-throughput   or   python -m tests.bench.throughput [--tasks 30000] [--peers faststream] [--bootstrap HOST:PORT]

The floor is a bare aiokafka loop; the ratios are to it. Peers are started by `tests/bench/peers/launch.py`. All on one machine:
broker, agent, systems and this reader share its cores, so the CPU figures and the ratios mean something, the tasks/s less.
Each row has its own topics; the agent answers at once. Prints Markdown; nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import ExitStack
from functools import partial

from confluent_kafka import Producer

from tests.bench.draining import AGENTS, Bench, Load, Row, task
from tests.bench.peers.launch import PEERS, start_peer
from tests.bench.tables import figure, machine, markdown
from tests.support.kafka import KafkaCluster
from tests.support.rig import Process, Tap, instant_agent, start_worker
from tests.support.rig_error import RigError

UNLOADED_WARM = 200
LINGER_MS = 5
"""Of the peers' producers: what fills batches under full load."""


def peer(bench: Bench, name: str, tasks: int) -> Row:
    """One peer; one that cannot run here is a row that says why.

    KEY ordering gets the keys of 1,000 conversations; by agent it would have 16 calls in flight.
    """
    load = Load(tasks, max(2000, PEERS[name].warm_tasks), key="conversation" if name.endswith("-key") else "agent")

    def start(prefix: str) -> list[Process]:
        return [start_peer(name, bench.bootstrap, prefix, bench.endpoint, LINGER_MS)]

    try:
        return bench.row(PEERS[name].title, load, start)
    except RigError as error:
        return Row(PEERS[name].title, note=str(error).partition("\n")[0])


def with_statistics(bench: Bench, tasks: int) -> list[Row]:
    """A dispatch worker, and a statistics worker in a second process that must count every task."""
    load = Load(tasks)
    prefix = bench.prepare(load)
    with ExitStack() as stack:
        second = start_worker(bench.bootstrap, prefix, "--roles", "stats")
        stack.callback(second.stop)
        processes = bench.start_workers(prefix)
        stack.callback(processes[0].stop)
        row = bench.drain("dispatch: in their agent's partition, statistics beside it", load, prefix, processes)
        tap = Tap(bench.bootstrap, f"{prefix}aggregates")
        stack.callback(tap.close)
        total = load.warm + load.tasks
        newest: dict[tuple[str, str], int] = {}
        end = time.monotonic() + 120
        while sum(newest.values()) < total and time.monotonic() < end:
            for message in tap.read():
                window = json.loads(message.value())
                if window["interval"] == "minute":
                    newest[window["agentId"], window["windowStart"]] = window["count"]
        return [
            row,
            Row("  statistics, second process", cpu_us=second.cpu_s() / total * 1e6, peak_mib=second.peak_mib()),
        ]


def unloaded(bench: Bench, count: int = 600) -> str:
    """Unloaded: task acknowledged -> result readable (read_committed), one at a time; the agent answers at once.

    One producer and one consumer, both connected before. Not counted are the first `UNLOADED_WARM` tasks: the broker's first
    index entry of each partition, after 4 KiB, takes 40 ms on some disks, and has nothing to do with us.
    """
    prefix = bench.prepare(Load(0, warm=0))
    took: list[float] = []
    with ExitStack() as stack:
        worker = start_worker(bench.bootstrap, prefix, "--roles", "dispatch")
        stack.callback(worker.stop)
        tap = Tap(bench.bootstrap, f"{prefix}results")
        stack.callback(tap.close)
        sender = Producer({"bootstrap.servers": bench.bootstrap, "linger.ms": 0, "partitioner": "murmur2_random"})
        for number in range(UNLOADED_WARM + count):
            agent = f"a{number % AGENTS}"
            sender.produce(f"{prefix}tasks", task(f"task-{number}", agent, number), key=agent.encode())
            if sender.flush(10):
                raise SystemExit("a task was not acknowledged within 10 s")
            sent = time.monotonic()
            while not tap.read(0.001):
                if time.monotonic() - sent > 10:
                    raise SystemExit("no result within 10 s")
            took.append((time.monotonic() - sent) * 1000)
    took = sorted(took[UNLOADED_WARM:])
    return f"p50 {took[count // 2]:.1f} ms, p99 {took[int(count * 0.99)]:.1f} ms over {count} tasks"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=30_000)
    parser.add_argument("--peers", default=",".join(PEERS), help="of %(default)s; the floor is always there")
    parser.add_argument("--bootstrap")
    options = parser.parse_args()
    names = [name for name in options.peers.split(",") if name and name != "floor"]
    if unknown := set(names) - PEERS.keys():
        parser.error(f"--peers: unknown {', '.join(sorted(unknown))}; known: {', '.join(PEERS)}")
    where = machine()
    with ExitStack() as stack:
        bootstrap = options.bootstrap or stack.enter_context(KafkaCluster(brokers=1, measured=True)).bootstrap_servers
        _, endpoint = stack.enter_context(instant_agent())
        bench = Bench(bootstrap, endpoint)
        measured = partial(bench.row, start=bench.start_workers)
        rows = [peer(bench, name, options.tasks) for name in ("floor", *names)]
        rows.append(
            measured("dispatch: exactly once, 4 outputs, tasks in their agent's partition", Load(options.tasks))
        )
        rows.append(measured("dispatch: same, tasks keyed at random (one hop more)", Load(options.tasks, key="random")))
        rows += with_statistics(bench, options.tasks)
        alone = unloaded(bench)
    floor = rows[0].cpu_us
    cells = [
        [row.name if not row.note else f"{row.name}: {row.note}", figure(row.tasks_s), figure(row.cpu_us),
         figure(row.cpu_us / floor, 2), figure(row.tasks_s / rows[0].tasks_s, 2), figure(row.peak_mib)]
        for row in rows
    ]  # fmt: skip
    print(f"\n{options.tasks:,} tasks, 8 partitions, {AGENTS} agents; {where}\n")
    print(markdown(["", "tasks/s", "CPU us/task", "CPU x floor", "tasks/s x floor", "peak MiB"], cells))
    print(f"\nunloaded, task acknowledged -> result readable under read_committed: {alone}")


if __name__ == "__main__":
    main()
