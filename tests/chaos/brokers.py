"""Brokers killed, frozen, moved about and all switched off, while tasks come steadily; then everything is counted.

    python -m tests.chaos.brokers [--scenario kill|leaders|outage|pause|single]... [--seed 1] [--rate 100]

kill: each of three brokers in its turn, SIGKILL and restart. leaders: every partition's leader moved, three times. outage: all
three SIGKILLed for --down seconds. pause: one broker SIGSTOPped for 30 s. single: the only broker SIGKILLed and restarted.
Prints one line per scenario and exits 1 if an acknowledged task has not exactly one result under read_committed, a worker
ended or stopped answering /livez, memory grew, it was not ready again by itself, statistics differ from a recount, or if the
fault was not felt.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import orjson
from confluent_kafka.admin import AdminClient

from tests.support.kafka import KafkaCluster, jars
from tests.support.points import compare, read_all
from tests.support.rig import apply_topics, committed, instant_agent, log_ends, register, start_worker
from tests.support.steady import QUICK, Load, Results, Watch, Watched

SCENARIOS = ("kill", "leaders", "outage", "pause", "single")
DELAYS_MS = (0, 2, 10, 40, 150)
AGENTS = 20
WORKERS = 2
SESSION_S = 10
STEADY_S = 10.0
PAUSE_S = 30.0
LEADER_ROUNDS = 3
WAIT_S = 180.0
MAX_GROWTH_MIB = 100.0
INTERNAL = ("__consumer_offsets", "__transaction_state")
Leaders = dict[tuple[str, int], int]


@dataclass
class Outcome:
    """What was counted."""

    name: str
    felt: str = ""
    acked: int = 0
    unacked: int = 0
    lost: int = 0
    doubled: int = 0
    longest_stall_s: float = 0.0
    slowest_s: float = 0.0
    growth_mib: float = 0.0
    faults: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """The promise held, and the fault was felt."""
        return self.lost == self.doubled == 0 and not self.faults and bool(self.felt) and self.acked > 0

    def line(self) -> str:
        """One line for people."""
        return (
            f"{self.name}: {self.acked} tasks acknowledged ({self.unacked} not), lost {self.lost}, doubled {self.doubled}, "
            f"felt: {self.felt or 'NOTHING'}, longest stall {self.longest_stall_s:.1f} s, "
            f"slowest task {self.slowest_s:.1f} s, memory +{self.growth_mib:.0f} MiB"
            f"{''.join('; ' + fault for fault in self.faults)}: {'ok' if self.good else 'BROKEN'}"
        )


class Run:
    """One scenario on a cluster that is whole again at its end."""

    def __init__(self, cluster: KafkaCluster, name: str, seed: int, rate: float, down_s: float) -> None:
        self.cluster, self.rng, self.rate, self.down_s = cluster, random.Random(seed), rate, down_s
        self.bootstrap = cluster.bootstrap_servers
        self.prefix = f"{name}{seed}-{time.time_ns() // 1_000_000}."
        self.outcome = Outcome(name)
        self.roles = "dispatch,stats" if name in ("outage", "single") else "dispatch"
        self.admin = AdminClient(
            {"bootstrap.servers": self.bootstrap, "log_level": 0, "error_cb": lambda _: None, **QUICK}
        )
        self.watch: Watch
        self.results: Results

    def run(self) -> Outcome:
        """Load, fault, wait, count."""
        fault: Callable[[], str] = getattr(self, f"_fault_{self.outcome.name}")
        apply_topics(self.bootstrap, self.prefix)
        with ExitStack() as stack:
            endpoints = [stack.enter_context(instant_agent("--delay-ms", str(delay)))[1] for delay in DELAYS_MS]
            limits = {"maxRequests": 10_000_000, "windowMs": 60_000, "maxConcurrency": 40}
            register(
                self.bootstrap,
                self.prefix,
                *({"id": f"a{i}", "endpoint": endpoints[i % len(endpoints)], "limits": limits} for i in range(AGENTS)),
            )
            workers = [self._worker(number, stack) for number in range(WORKERS)]
            self.watch = Watch(workers)
            self.watch.start()
            load = Load(self.bootstrap, f"{self.prefix}tasks", self.rate, self._task)
            self.results = Results(self.bootstrap, f"{self.prefix}results")
            load.start()
            self.results.start()
            time.sleep(STEADY_S)
            self.results.gaps.clear()
            since_s = self.watch.now()
            self.outcome.felt = fault()
            self._until("the workers are not ready again", lambda: all(worker.ready for worker in workers))
            time.sleep(STEADY_S)
            self.outcome.longest_stall_s = max(self.results.gaps, default=0.0)
            load.finish(150)
            self._until("results are missing", lambda: load.acked.keys() <= self.results.ids.keys())
            time.sleep(5)  # for those that come twice
            self.results.finish()
            if "stats" in self.roles:
                self._check_statistics()
            self.watch.finish()
            self._count(load)
            self._judge_workers(workers, since_s)
        return self.outcome

    def _worker(self, number: int, stack: ExitStack) -> Watched:
        options = ("--roles", self.roles, "--instance-id", f"w{number}", "--session-timeout", f"{SESSION_S}s")
        process = start_worker(self.bootstrap, self.prefix, *options, wait=False)
        stack.callback(process.stop)
        url = next(word for word in process.line(120).split() if word.startswith("web=")).removeprefix("web=")
        return Watched(process, url, process.pid)

    def _task(self, number: int) -> bytes:
        metadata = {"timeout": 600_000, "retries": 5}
        target = f"a{self.rng.randrange(AGENTS)}"
        task = {"id": f"t{number}", "type": "agent", "target": target, "payload": {"n": number}, "metadata": metadata}
        return json.dumps(task).encode()

    def _until(self, complaint: str, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + WAIT_S
        while not condition():
            if time.monotonic() > end:
                self.outcome.faults.append(f"{complaint} after {WAIT_S:.0f} s")
                return
            time.sleep(0.2)

    # Faults; each says what was felt of it

    def _fault_kill(self) -> str:
        order = list(range(self.cluster.brokers))
        self.rng.shuffle(order)
        moved = []
        for number in order:
            before = self._leaders()
            self.cluster.kill(number)
            moved.append(self._await_moved(before, number + 1))
            time.sleep(STEADY_S)
            self.cluster.restart(number)
            self._until("a broker does not catch up", self._in_sync)
            time.sleep(STEADY_S)
        return f"{'+'.join(map(str, moved))} leaders lost" if all(moved) else ""

    def _fault_leaders(self) -> str:
        changed = 0
        for _ in range(LEADER_ROUNDS):
            before = self._leaders()
            self._prefer_others()
            self._tool("LeaderElectionCommand", "--election-type", "preferred", "--all-topic-partitions")
            time.sleep(2)
            changed += sum(before[place] != leader for place, leader in self._leaders().items() if place in before)
            time.sleep(STEADY_S)
        return f"{changed} leaders moved" if changed else ""

    def _fault_outage(self) -> str:
        for number in range(self.cluster.brokers):
            self.cluster.kill(number)
        down_from_s = self.watch.now()
        time.sleep(self.down_s)
        down_to_s = self.watch.now()
        for number in range(self.cluster.brokers):
            self.cluster.restart(number, wait=False)
        self.cluster.wait_ready()
        found = self._unready(down_from_s + 15, down_to_s)
        return found and f"{found}, results again {self._flows_after():.1f} s after the brokers were ready"

    def _fault_pause(self) -> str:
        number = self.rng.randrange(self.cluster.brokers)
        before = self._leaders()
        self.cluster.pause(number)
        ends = time.monotonic() + PAUSE_S
        moved = self._await_moved(before, number + 1)
        time.sleep(max(0.0, ends - time.monotonic()))
        self.cluster.resume(number)
        self._until("the broker does not catch up", self._in_sync)
        return f"{moved} leaders lost" if moved else ""

    def _fault_single(self) -> str:
        flows = []
        for _ in range(2):
            self.cluster.kill(0)
            time.sleep(1)
            silent = len(self.results.places)
            time.sleep(5)
            if len(self.results.places) != silent:
                return ""
            self.cluster.restart(0)
            flows.append(f"{self._flows_after():.1f}")
            time.sleep(STEADY_S)
        return f"no results while it was down, again {' and '.join(flows)} s after it was ready"

    def _unready(self, from_s: float, to_s: float) -> str:
        """While nothing answered: every worker not ready, and still alive."""
        looks = [look for worker in self.watch.workers for look in worker.looks if from_s < look.at_s < to_s]
        if ready := sum(look.readyz != 503 for look in looks):
            self.outcome.faults.append(
                f"/readyz was not 503 at {ready} of {len(looks)} looks while all brokers were down"
            )
        grown = max(worker.growth_mib(from_s, to_s) for worker in self.watch.workers)
        felt = looks and self._paused() > self.down_s / 2
        return f"all brokers down for {to_s - from_s + 15:.0f} s (memory +{grown:.0f} MiB meanwhile)" if felt else ""

    def _flows_after(self) -> float:
        """Seconds from now until the next result; the brokers are ready."""
        began, before = time.monotonic(), len(self.results.places)
        self._until("no results came again", lambda: len(self.results.places) > before)
        return time.monotonic() - began

    def _paused(self) -> float:
        return time.monotonic() - self.results.last

    def _leaders(self) -> Leaders:
        topics = self.admin.list_topics(timeout=20).topics
        ours = (name for name in topics if name.startswith(self.prefix) or name in INTERNAL)
        return {(name, n): partition.leader for name in ours for n, partition in topics[name].partitions.items()}

    def _await_moved(self, before: Leaders, node: int) -> int:
        """How many partitions that `node` led another one leads now; asked until it is some, or for long."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            now = self._leaders()
            moved = sum(leader == node and now.get(place, -1) not in (node, -1) for place, leader in before.items())
            if moved:
                return moved
            time.sleep(0.5)
        return 0

    def _in_sync(self) -> bool:
        topics = self.admin.list_topics(timeout=20).topics.values()
        return all(len(p.isrs) == self.cluster.brokers for topic in topics for p in topic.partitions.values())

    def _prefer_others(self) -> None:
        """Each partition's replicas turned by one, so that the preferred leader is not the present one."""
        topics = self.admin.list_topics(timeout=20).topics
        plan = []
        for name, topic in topics.items():
            if name.startswith(self.prefix) or name in INTERNAL:
                for number, partition in topic.partitions.items():
                    others = [node for node in partition.replicas if node != partition.leader]
                    self.rng.shuffle(others)
                    plan.append({"topic": name, "partition": number, "replicas": [*others, partition.leader]})
        with tempfile.TemporaryDirectory() as home:
            file = Path(home) / "plan.json"
            file.write_text(json.dumps({"version": 1, "partitions": plan}))
            self._tool("reassign.ReassignPartitionsCommand", "--execute", "--reassignment-json-file", str(file))

    def _tool(self, name: str, *words: str) -> None:
        java = [shutil.which("java") or "java", "-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", f"{jars()}/*"]
        command = [*java, f"org.apache.kafka.tools.{name}", "--bootstrap-server", self.bootstrap, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]

    # Counting

    def _count(self, load: Load) -> None:
        ids, outcome = self.results.ids, self.outcome
        outcome.acked, outcome.unacked = len(load.acked), len(load.failed)
        outcome.lost = len(load.acked.keys() - ids.keys())
        outcome.slowest_s = max((self.results.came[t] - at for t, at in load.acked.items() if t in ids), default=0.0)
        outcome.doubled = sum(count - 1 for count in ids.values())
        bad = [result for result in self.results.places.values() if result["status"] != "success"]
        if bad:
            outcome.faults.append(f"{len(bad)} results are no success, such as {bad[0]}")

    def _judge_workers(self, workers: list[Watched], since_s: float) -> None:
        faults = self.outcome.faults
        for number, worker in enumerate(workers):
            code = worker.process.popen.poll()
            if code is not None:
                faults.append(f"worker {number} ended with {code}")
            deaf = sum(look.livez != 200 for look in worker.looks if look.at_s >= since_s)
            if deaf:
                faults.append(f"worker {number} did not answer /livez {deaf} times")
            growth = worker.growth_mib(since_s)
            self.outcome.growth_mib = max(self.outcome.growth_mib, growth)
            if growth > MAX_GROWTH_MIB:
                faults.append(f"worker {number} grew by {growth:.0f} MiB")

    def _check_statistics(self) -> None:
        """Every window equals a recount of the points."""
        topic, group = f"{self.prefix}data-points", f"{self.prefix.rstrip('.')}-stats"

        def drained() -> bool:
            done = committed(self.bootstrap, group, topic)
            return all(done[number] >= end - 1 for number, end in log_ends(self.bootstrap, topic).items() if end)

        self._until("statistics do not catch up", drained)
        points = [orjson.loads(record.value) for record in asyncio.run(read_all(self.bootstrap, topic))]
        aggregates = asyncio.run(read_all(self.bootstrap, f"{self.prefix}aggregates"))
        wrong = compare([orjson.loads(record.value) for record in aggregates], points)
        if wrong or len(points) < len(self.results.ids):
            self.outcome.faults.append(f"statistics over {len(points)} points: {len(wrong)} differ, {wrong[:1]}")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="repeat for several; default all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=100.0, metavar="TASKS_PER_S")
    parser.add_argument("--down", type=float, default=60.0, metavar="SECONDS", help="how long the outage takes")
    options = parser.parse_args()
    chosen = options.scenario or SCENARIOS
    good = True
    for brokers, names in (
        (3, [name for name in chosen if name != "single"]),
        (1, [n for n in chosen if n == "single"]),
    ):
        if not names:
            continue
        with KafkaCluster(brokers=brokers) as cluster:
            for name in names:
                outcome = Run(cluster, name, options.seed, options.rate, options.down).run()
                print(outcome.line(), flush=True)
                good = good and outcome.good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
