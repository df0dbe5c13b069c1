"""Workers killed with SIGKILL at random (seeded) while they run plans; then every plan and every step is counted.

    python -m tests.chaos.plans --plans 2000 --kills 6 --rate 40 --seed 1 [--bootstrap HOST:PORT]

Plans of five tasks, every kind by turns; races against an agent that never answers. Prints one line per seed and exits 1 if a
plan has no result or two, if a step is missing, doubled or not as expected, if a loser's call outlived its plan, or if no kill
was felt. Without --bootstrap it starts a Kafka of its own. Agents answer at different speeds.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Producer

from agents_io.fakes.steps import hang
from schemas.times import parse_time
from tests.support.fleet import Fleet
from tests.support.kafka import KafkaCluster
from tests.support.rig import Process, Tap, apply_topics, instant_agent, register, start_worker

DELAYS_MS = (0, 5, 20, 60, 150)
WORKERS = 2
STEPS = 5
GIVE_UP_S = 120.0
LOSER_S = 0.5
SESSION_S = 6
KINDS = ("all", "race", "allSettled", "weighted", "sequential", "dag")
LIMITS = {"maxRequests": 10_000_000, "windowMs": 60_000, "maxConcurrency": 100}


@dataclass
class Outcome:
    """What was counted."""

    seed: int
    plans: int
    kills: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: list[str] = field(default_factory=list)
    doubled_steps: int = 0
    late_losers: int = 0
    losers_s: list[float] = field(default_factory=list)
    cut_off: int = 0
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """The promise held, and the kills were felt."""
        return (
            not (self.lost or self.doubled or self.wrong or self.doubled_steps or self.late_losers) and self.cut_off > 0
        )

    def line(self) -> str:
        """One line for people."""
        return (
            f"seed {self.seed}: {self.plans} plans of {STEPS}, {self.kills} kills ({self.cut_off} calls cut off), "
            f"lost {self.lost}, doubled {self.doubled}, wrong {len(self.wrong)} {self.wrong[:3]}, steps doubled "
            f"{self.doubled_steps}, losers called later than {LOSER_S:g} s after the end {self.late_losers}, their calls "
            f"cut off after it p50 {self._loser_ms(0.5)} p99 {self._loser_ms(0.99)} ms, {self.seconds:.0f} s: "
            f"{'ok' if self.good else 'BROKEN'}"
        )

    def _loser_ms(self, share: float) -> int:
        ordered = sorted(self.losers_s) or [0.0]
        return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000)


def make_plan(rng: random.Random, number: int) -> dict[str, Any]:
    """A plan whose deadline and attempts are longer than the run, and whose end is the same in whichever order its steps end."""
    kind = KINDS[number % len(KINDS)]
    base = {"timeout": 600_000, "retries": 5, "cache": False}
    targets = [f"a{rng.randrange(len(DELAYS_MS))}" for _ in range(STEPS)]
    if kind == "race":
        targets = [targets[0]] + ["hang"] * (STEPS - 1)
    tasks = []
    for n, target in enumerate(targets):
        metadata: dict[str, Any] = dict(base)
        if kind == "dag" and n:
            metadata["dependencies"] = [f"s{other}" for other in sorted({rng.randrange(n), n - 1 if n == 4 else 0})]
        tasks.append(
            {"id": f"s{n}", "type": "agent", "target": target, "payload": {"p": number, "n": n}, "metadata": metadata}
        )
    fields: dict[str, Any] = {"kind": kind} if kind in ("sequential", "dag") else {"strategy": kind}
    if kind == "weighted":
        fields |= {"metadata": {"confidenceThreshold": 1}}
    return {"id": f"{kind}-{number}", "tasks": tasks, "timeout": 600_000} | fields


def fault(result: dict[str, Any]) -> str:
    """What is wrong with a plan's result; empty if nothing is."""
    steps = [(step["taskId"], step["status"]) for step in result["results"]]
    good = [(f"s{n}", "success") for n in range(STEPS)]
    if result["planId"].startswith("race-"):
        good = [good[0]] + [(name, "cancelled") for name, _ in good[1:]]
    return "" if result["status"] == "success" and steps == good else f"{result['planId']}: {result['status']} {steps}"


class Run:
    """One seed."""

    def __init__(self, bootstrap: str, seed: int, plans: int, kills: int, rate: float) -> None:
        self.bootstrap = bootstrap
        self.rate = rate
        self.made: list[dict[str, Any]] = []
        self.sent = 0
        self.began = 0.0
        self.producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "acks": "all"})
        self.prefix = f"plans{seed}-{time.time_ns() // 1_000_000}."
        self.rng = random.Random(seed)
        self.outcome = Outcome(seed, plans)
        self.kills = kills
        self.workers: dict[str, Process] = {}
        self.seen: list[dict[str, Any]] = []

    def start(self, name: str, wait: bool) -> None:
        """A worker under its own static name."""
        options = ("--roles", "dispatch,plans", "--instance-id", name, "--session-timeout", f"{SESSION_S}s")
        self.workers[name] = start_worker(self.bootstrap, self.prefix, *options, wait=wait)

    def watch(self, tap: Tap, seconds: float, enough: int) -> None:
        """Read results for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and len(self.seen) < enough:
            self.feed()
            self.seen += [json.loads(message.value()) for message in tap.read(0.1)]

    def feed(self) -> None:
        """Send what is due by now."""
        due = min(len(self.made), int((time.monotonic() - self.began) * self.rate))
        for plan in self.made[self.sent : due]:
            self.producer.produce(f"{self.prefix}plans", value=json.dumps(plan).encode(), key=plan["id"].encode())
        self.sent = max(self.sent, due)
        self.producer.poll(0)

    def run(self) -> Outcome:
        """Feed, kill, wait, count."""
        outcome, plans = self.outcome, self.outcome.plans
        apply_topics(self.bootstrap, self.prefix)
        with ExitStack() as stack:
            fleet = stack.enter_context(Fleet({"hang": hang()}))
            ends = {
                f"a{n}": stack.enter_context(instant_agent("--delay-ms", str(delay)))[1]
                for n, delay in enumerate(DELAYS_MS)
            } | {"hang": fleet.agents["hang"].endpoint}
            limits = LIMITS
            register(
                self.bootstrap, self.prefix, *({"id": i, "endpoint": e, "limits": limits} for i, e in ends.items())
            )
            for number in range(WORKERS):
                self.start(f"w{number}", wait=number == WORKERS - 1)
            stack.callback(lambda: [worker.stop() for worker in self.workers.values()])
            self.made = [make_plan(self.rng, number) for number in range(plans)]
            tap = Tap(self.bootstrap, f"{self.prefix}plan-results")
            stack.callback(tap.close)
            self.began = time.monotonic()
            for kill in range(self.kills):
                share = (kill + self.rng.uniform(0.3, 0.9)) / (self.kills + 1)
                self.watch(tap, GIVE_UP_S, int(plans * share))
                victim = self.rng.choice(sorted(self.workers))
                self.workers[victim].kill()
                outcome.kills += 1
                self.start(victim, wait=False)
            self.watch(tap, GIVE_UP_S, plans)
            outcome.seconds = time.monotonic() - self.began
            assert self.producer.flush(30) == 0
            self.watch(tap, 3.0, 10 * plans)
            self.count(fleet)
        return outcome

    def count(self, fleet: Fleet) -> None:
        """Every plan once, every step once, no loser called for long."""
        outcome = self.outcome
        ids = Counter(result["planId"] for result in self.seen)
        outcome.lost = outcome.plans - len(ids)
        outcome.doubled = sum(count - 1 for count in ids.values())
        outcome.wrong = [why for result in self.seen if (why := fault(result))]
        ended_s = {result["planId"]: parse_time(result["timestamp"]) / 1000 for result in self.seen}
        for call in fleet.calls("hang"):
            end_s = ended_s.get(call.key.partition("#")[0], 0.0)
            outcome.losers_s.append((call.ended_at or time.time()) - end_s)
            outcome.late_losers += call.at > end_s + LOSER_S or not call.ended
        steps: Counter[str] = Counter()
        results = Tap(self.bootstrap, f"{self.prefix}results")
        while found := results.read(1.0):
            steps.update(json.loads(message.value())["taskId"] for message in found)
        results.close()
        outcome.doubled_steps = sum(count - 1 for count in steps.values())
        outcome.cut_off = self.begun_again()

    def begun_again(self) -> int:
        """Calls that a kill cut off, to be made again by another worker."""
        events = Tap(self.bootstrap, f"{self.prefix}events")
        begun: Counter[str] = Counter()
        while found := events.read(1.0):
            for message in found:
                event = json.loads(message.value())
                if event["type"] == "task:started":
                    begun[event["data"]["taskId"]] += 1
        events.close()
        return sum(count - 1 for count in begun.values())


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plans", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--rate", type=float, default=40.0, help="plans sent in a second")
    parser.add_argument("--seed", type=int, action="append", help="repeat for several runs; default 1")
    parser.add_argument("--bootstrap")
    options = parser.parse_args()
    good = True
    with ExitStack() as stack:
        bootstrap = options.bootstrap
        if bootstrap is None:
            bootstrap = stack.enter_context(KafkaCluster(brokers=1)).bootstrap_servers
        for seed in options.seed or [1]:
            outcome = Run(bootstrap, seed, options.plans, options.kills, options.rate).run()
            print(outcome.line(), flush=True)
            good = good and outcome.good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
