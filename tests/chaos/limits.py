"""Limits over the whole cluster while workers are killed and frozen, told from the agents' call logs.

    python -m tests.chaos.limits [--short] [--kills 10] [--freezes 3] [--seconds 240] [--seed 1] [--keep DIRECTORY]

Three workers under static names, SIGKILLed at random (seeded) moments and restarted at once, or SIGSTOPped until their session is
over and their partitions are another's; twelve scripted agents (`limits_plan.py`). Most victims are chosen where state must move:
the worker whose agent is at its limit, or whose circuit is open.
Prints a line per predicate and exits 1 if one is broken, or if the faults were not felt. Without --bootstrap it starts a Kafka.
`--keep` writes calls, kills, results and events of each seed as JSON, and what the workers say; `python -m tests.chaos.limits
--judge FILE` judges them again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from tests.chaos.limits_plan import (
    AGENTS,
    ATTEMPT_S,
    FROZEN_S,
    SESSION_S,
    TAIL_S,
    Offer,
    changes,
    fault_times,
    first_script,
    illness,
    offers,
    registration,
    warming,
)
from tests.chaos.limits_verdict import Evidence, judge
from tests.support.fleet import Fleet
from tests.support.kafka import KafkaCluster
from tests.support.predicates import Kill, read_call
from tests.support.rig import Process, Tap, apply_topics, register, start_worker

WORKERS = ("w0", "w1", "w2")
WARM_UP_S = 90.0
GIVE_UP_S = 30.0
"""How long after the last deadline a missing result is waited for."""
TARGETS = ("open", "full", "any")
IN_FLIGHT_S = 2.0
"""How long a kill waits for its victim to have a call under way."""


class Run:
    """One run: feed, kill, freeze, collect."""

    def __init__(self, bootstrap: str, seed: int, length_s: float, kills: int, freezes: int) -> None:
        self.bootstrap = bootstrap
        self.prefix = f"limits{seed}-{time.time_ns() // 1_000_000}."
        self.rng = random.Random(seed)
        self.length_s = length_s
        self.offers = offers(self.rng, length_s)
        self.changes = changes(length_s)
        self.faults = sorted(
            [(at, "kill") for at in fault_times(self.rng, kills, length_s)]
            + [(at, "freeze") for at in fault_times(self.rng, freezes, length_s)]
        )
        self.frozen: list[tuple[float, Process]] = []
        self.workers: dict[str, Process] = {}
        self.produced: dict[str, float] = {}
        self.evidence = Evidence()

    def start(self, name: str, wait: bool) -> None:
        """A worker under its own static name, which it also tells its agents."""
        options = ("--roles", "dispatch", "--instance-id", name, "--session-timeout", f"{SESSION_S}s")
        self.workers[name] = start_worker(self.bootstrap, self.prefix, *options, env={"CALLER_NAME": name}, wait=wait)

    def run(self) -> Evidence:
        """The whole run."""
        apply_topics(self.bootstrap, self.prefix)
        per_task = [agent for agent in AGENTS if agent.startswith("half")]
        with ExitStack() as stack:
            fleet = stack.enter_context(Fleet({agent: first_script(agent) for agent in AGENTS}, per_task))
            found = (registration(name, agent.endpoint) for name, agent in fleet.agents.items())
            register(self.bootstrap, self.prefix, *found)
            for name in WORKERS:
                self.start(name, wait=False)
            stack.callback(lambda: [worker.stop() for worker in self.workers.values()])
            for worker in self.workers.values():
                worker.line(90)
            results = Tap(self.bootstrap, f"{self.prefix}results")
            stack.callback(results.close)
            events = Tap(self.bootstrap, f"{self.prefix}events")
            stack.callback(events.close)
            self.warm_up(results)
            self.drive(fleet, results, events)
        for name in AGENTS:
            # An attempt that was granted less than its timeout was cut short by its task's deadline.
            self.evidence.calls += [read_call(name, got, fair_s=ATTEMPT_S - 0.1) for got in fleet.calls(name)]
        return self.evidence

    def warm_up(self, results: Tap) -> None:
        """A task for each agent; the first ones wait for the group to settle, which is not what is measured."""
        producer = Producer({"bootstrap.servers": self.bootstrap, "acks": "all"})
        for agent in AGENTS:
            self.offer(producer, warming(agent))
        assert producer.flush(30) == 0
        end = time.monotonic() + WARM_UP_S
        while len(self.evidence.results) < len(AGENTS):
            assert time.monotonic() < end, "the workers do not answer"
            self.read_results(results, 0.2)

    def drive(self, fleet: Fleet, results: Tap, events: Tap) -> None:
        """Produce, change scripts and kill as planned; read meanwhile; until each task has its result or none will come."""
        producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 2, "acks": "all"})
        began = time.time()
        self.evidence.healed = [began + end for _, end in illness(self.length_s)]
        todo, altered, done = 0, 0, 0
        while (now := time.time() - began) < self.length_s + TAIL_S + GIVE_UP_S:
            while todo < len(self.offers) and self.offers[todo].at <= now:
                self.offer(producer, self.offers[todo])
                todo += 1
            while altered < len(self.changes) and self.changes[altered][0] <= now:
                fleet.script(*self.changes[altered][1:])
                altered += 1
            if done < len(self.faults) and self.faults[done][0] <= now:
                fault = self.kill if self.faults[done][1] == "kill" else self.freeze
                fault(fleet, TARGETS[done % len(TARGETS)])
                done += 1
            self.thaw(time.time())
            producer.poll(0)
            self.read(results, events, 0.05)
            if todo == len(self.offers) and len(self.evidence.results) >= len(self.evidence.tasks):
                break
        self.thaw(float("inf"))
        assert producer.flush(30) == 0
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            self.read(results, events, 0.2)

    def offer(self, producer: Producer, offer: Offer) -> None:
        """One task."""
        task_id = offer.task["id"]
        producer.produce(f"{self.prefix}tasks", value=json.dumps(offer.task).encode(), key=offer.key)
        self.evidence.tasks[task_id] = (offer.agent, time.time(), offer.expires_s)
        if (key := offer.task["metadata"].get("idempotencyKey")) is not None:
            self.evidence.keys[task_id] = key

    def kill(self, fleet: Fleet, target: str) -> None:
        """SIGKILL a worker and start it again at once."""
        victim = self.victim(fleet, target)
        self.evidence.kills.append(Kill(time.time(), victim))
        self.workers[victim].kill()
        self.start(victim, wait=False)

    def freeze(self, fleet: Fleet, target: str) -> None:
        """SIGSTOP a worker; `thaw` lets it go on once its partitions are another's."""
        victim = self.victim(fleet, target)
        now = time.time()
        self.evidence.freezes.append(Kill(now, victim))
        self.workers[victim].popen.send_signal(signal.SIGSTOP)
        self.frozen.append((now + FROZEN_S, self.workers[victim]))

    def thaw(self, now: float) -> None:
        """Let those go on that were frozen for long enough; one that was killed meanwhile stays dead."""
        while self.frozen and self.frozen[0][0] <= now:
            self.frozen.pop(0)[1].popen.send_signal(signal.SIGCONT)

    def victim(self, fleet: Fleet, target: str) -> str:
        """The worker of a limited agent, or of one whose circuit is open, or any; once it has a call under way."""
        wanted = set(AGENTS)
        if target == "full":
            wanted = {name for name in AGENTS if name.startswith("full")}
        elif target == "open":
            last = {agent: kind for agent, kind, _ in self.evidence.circuits}
            wanted = {agent for agent, kind in last.items() if kind == "circuit:open"} or wanted
        asleep = {process for _, process in self.frozen}
        awake = {name for name, process in self.workers.items() if process not in asleep}
        callers = sorted({fleet.last_caller(name).removeprefix("Bearer ") for name in wanted} & awake)
        victim = self.rng.choice(callers or sorted(awake))
        patience = time.monotonic() + IN_FLIGHT_S
        while time.monotonic() < patience and not fleet.calling(f"Bearer {victim}"):
            time.sleep(0.005)
        return victim

    def read_results(self, results: Tap, timeout_s: float) -> None:
        """What is new."""
        for message in results.read(timeout_s):
            result = json.loads(message.value())
            code = (result.get("error") or {}).get("code", "")
            self.evidence.results.append((result["taskId"], message.timestamp()[1] / 1000, result["status"], code))

    def read(self, results: Tap, events: Tap, timeout_s: float) -> None:
        """What is new on both topics."""
        self.read_results(results, timeout_s)
        for message in events.read(0.0):
            event: dict[str, Any] = json.loads(message.value())
            if event["type"].startswith("circuit:"):
                self.evidence.circuits.append((event["data"]["agentId"], event["type"], event["timestamp"]))


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="70 s, 2 kills and a freeze, unless told otherwise")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--kills", type=int)
    parser.add_argument("--freezes", type=int)
    parser.add_argument("--seed", type=int, action="append", help="repeat for several runs; default 1")
    parser.add_argument("--bootstrap")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY")
    parser.add_argument("--judge", type=Path, metavar="FILE", help="run nothing; judge what --keep wrote")
    options = parser.parse_args()
    if options.judge is not None:
        return 0 if judge(Evidence.load(options.judge), 0, 0) else 1
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
        os.environ["TEST_WORKER_LOG"] = str(options.keep / "workers.log")
    seconds = options.seconds or (70.0 if options.short else 240.0)
    kills = options.kills if options.kills is not None else (2 if options.short else 10)
    freezes = options.freezes if options.freezes is not None else (1 if options.short else 3)
    good = True
    with ExitStack() as stack:
        bootstrap = options.bootstrap
        if bootstrap is None:
            bootstrap = stack.enter_context(KafkaCluster(brokers=1)).bootstrap_servers
        for seed in options.seed or [1]:
            print(
                f"seed {seed}: {seconds:g} s, {kills} kills and {freezes} freezes of {len(WORKERS)} workers", flush=True
            )
            evidence = Run(bootstrap, seed, seconds, kills, freezes).run()
            if options.keep is not None:
                evidence.save(options.keep / f"seed-{seed}.json")
            good = judge(evidence, kills, freezes) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
