"""Workers killed with SIGKILL at random (seeded) while they drain a backlog; then everything is counted.

    python -m tests.chaos.kill --tasks 100000 --kills 12 --seed 1 [--zombie] [--rolling] [--grow 32] [--bootstrap HOST:PORT]

--zombie: one worker is also stopped (SIGSTOP) until its session is over and its partitions are another's, then continued.
--rolling: at the end of the kills each worker is also restarted with SIGTERM, one after the other.
--grow: in the middle `parallax topics grow` adds partitions, while a worker is killed. Half of the tasks come after it; some of
those of before it come again, while it runs and after it, and must not be answered again.
Prints one line per seed and exits 1 if a result is lost or doubled under read_committed, or if no kill was felt.
Without --bootstrap it starts a Kafka of its own. Agents answer at different speeds: a broken offset map shows only then.
One takes seconds for each call, and one takes calls and never answers: every task for that one times out, and nothing else does.
Two more share a capability and come and go: at each kill the one that is there is unregistered, and the other one registered.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tests.support.kafka import KafkaCluster
from tests.support.rig import (
    Process,
    Tap,
    apply_topics,
    fake_agent,
    instant_agent,
    parallax,
    produce,
    register,
    start_worker,
)

DELAYS_MS = (0, 2, 10, 40, 150)
AGENTS = 20
SLOW_MS, SLOW_EVERY = 3000, 200
"""One task in so many is for an agent that takes so long."""
HUNG_EVERY = 500
"""One task in so many is for an agent that never answers."""
HUNG = {"timeout": 5000, "expiresIn": 20_000}
CAPABILITY, CAPABLE_EVERY = "fly", 20
"""One task in so many names a capability instead of an agent."""
COMING = ("c0", "c1")
LIMITS = {"maxRequests": 10_000_000, "windowMs": 60_000, "maxConcurrency": 40}
WORKERS = 2
GIVE_UP_S = 120.0


@dataclass
class Outcome:
    """What was counted."""

    seed: int
    tasks: int
    kills: int = 0
    others: str = ""
    cut_off: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    """Results of another status than their agent leads to."""
    by_coming: Counter[str] = field(default_factory=Counter)
    """Tasks that each of the agents that come and go answered."""
    seconds: float = 0.0
    stalls_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Longest time without a result, by what had been done last."""
    statuses: Counter[str] = field(default_factory=Counter)

    @property
    def good(self) -> bool:
        """The promise held, and the kills and the coming and going were felt."""
        felt = self.cut_off > 0 and all(self.by_coming[name] for name in COMING[: self.kills + 1])
        return self.lost == self.doubled == self.wrong == 0 and felt

    def line(self) -> str:
        """One line for people."""
        return (
            f"seed {self.seed}: {self.tasks} tasks, {self.kills} kills{self.others} ({self.cut_off} calls cut off), "
            f"lost {self.lost}, doubled {self.doubled}, wrong {self.wrong}, {dict(self.statuses)}, "
            f"by agents that came and went {dict(sorted(self.by_coming.items()))}, {self.seconds:.0f} s, "
            f"longest stall {', '.join(f'{what} {stall:.1f} s' for what, stall in self.stalls_s.items())}: "
            f"{'ok' if self.good else 'BROKEN'}"
        )


class Run:
    """One seed."""

    def __init__(
        self,
        bootstrap: str,
        seed: int,
        tasks: int,
        kills: int,
        session_s: int,
        zombie: bool,
        rolling: bool,
        grow: int = 0,
    ) -> None:
        self.bootstrap = bootstrap
        self.prefix = f"kill{seed}-{time.time_ns() // 1_000_000}."
        self.rng = random.Random(seed)
        self.outcome = Outcome(seed, tasks)
        self.kills = kills
        self.session_s = session_s
        self.zombie = zombie
        self.rolling = rolling
        self.grow = grow
        self.records: list[tuple[None, bytes]] = []
        self.workers: dict[str, Process] = {}
        self.seen: list[tuple[int, Any]] = []
        """When it was written (epoch ms), and the result."""
        self.phases: list[tuple[int, str]] = []
        self.enter("start")
        self.last_victim = ""
        self.coming: dict[str, str] = {}
        """Endpoints of the agents that come and go, the one that is registered first."""

    def start(self, name: str, wait: bool) -> None:
        """A worker under its own static name."""
        self.workers[name] = start_worker(
            self.bootstrap,
            self.prefix,
            "--roles",
            "dispatch",
            "--instance-id",
            name,
            "--session-timeout",
            f"{self.session_s}s",
            wait=wait,
        )

    def roll(self) -> None:
        """A rolling restart: each worker in its turn drains on SIGTERM and comes back."""
        self.enter("roll")
        self.workers[victim := self.last_victim].line(90)  # it was started after the last kill and may still be loading
        for name in [victim, *sorted(set(self.workers) - {victim})]:
            code = self.workers[name].stop()
            assert code == 0, f"{name} ended with {code} on SIGTERM"
            self.start(name, wait=True)
        self.outcome.others += " + rolling restart"

    def come(self, name: str) -> None:
        """Register one of the agents that come and go."""
        wanted = {"id": name, "endpoint": self.coming[name], "capabilities": [CAPABILITY], "limits": LIMITS}
        register(self.bootstrap, self.prefix, wanted)

    def change_places(self) -> None:
        """Register the other one of the two, and unregister this one. What it has taken, it finishes."""
        gone, name = self.coming
        self.come(name)
        produce(self.bootstrap, f"{self.prefix}agents", [(gone.encode(), None)])
        self.coming[gone] = self.coming.pop(gone)

    def freeze(self, tap: Tap) -> None:
        """A zombie: stopped until the group has given its partitions away, then continued; it must write nothing more."""
        name = self.rng.choice(sorted(self.workers))
        self.workers[name].popen.send_signal(signal.SIGSTOP)
        self.enter("zombie")
        self.watch(tap, self.session_s + 4, self.outcome.tasks)
        self.workers[name].popen.send_signal(signal.SIGCONT)
        self.outcome.others += " + zombie"

    def grow_topics(self, tap: Tap) -> None:
        """Add partitions; once the workers have taken them up, send the rest of the tasks, and some of the others again."""
        self.enter("grow")
        half = self.outcome.tasks // 2
        words = ("topics", "grow", "--partitions", str(self.grow), "--timeout", "120s", "--topic-prefix", self.prefix)
        growing = Process(
            parallax(*words, "--bootstrap-servers", self.bootstrap), {"PARALLAX_APP_ID": self.prefix.rstrip(".")}
        )
        again = self.records[: half // 10]
        produce(self.bootstrap, f"{self.prefix}tasks", again)
        while growing.popen.poll() is None:
            self.watch(tap, 1.0, 10 * self.outcome.tasks)
        assert growing.run() == 0, "parallax topics grow failed"
        produce(self.bootstrap, f"{self.prefix}tasks", [*again, *self.records[half:]])
        self.outcome.others += f" + growth to {self.grow} partitions"

    def watch(self, tap: Tap, seconds: float, enough: int) -> None:
        """Read results for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and len(self.seen) < enough:
            if self.grow:
                tap.follow()
            self.seen += [(message.timestamp()[1], message.value()) for message in tap.read(0.1)]

    def enter(self, phase: str) -> None:
        """From now on stalls are of this kind."""
        self.phases.append((time.time_ns() // 1_000_000, phase))

    def stalls(self) -> None:
        """The longest time between two answers, by what had been done last when it began."""
        times = sorted(at for at, value in self.seen if json.loads(value)["status"] == "success")
        for before, after in pairwise(times):
            phase = next(name for since, name in reversed(self.phases) if since <= after)
            self.outcome.stalls_s[phase] = max(self.outcome.stalls_s[phase], (after - before) / 1000)

    def run(self) -> Outcome:
        """Feed, kill, wait, count."""
        outcome, tasks = self.outcome, self.outcome.tasks
        apply_topics(self.bootstrap, self.prefix)
        with ExitStack() as stack:
            agents = [stack.enter_context(instant_agent("--delay-ms", str(delay))) for delay in DELAYS_MS]
            endpoints = {f"a{i}": agents[i % len(agents)][1] for i in range(AGENTS)}
            agents.append(stack.enter_context(instant_agent("--delay-ms", str(SLOW_MS))))
            endpoints |= {"slow": agents[-1][1], "hung": stack.enter_context(fake_agent("--behaviour", "hang"))}
            register(
                self.bootstrap,
                self.prefix,
                *({"id": name, "endpoint": endpoint, "limits": LIMITS} for name, endpoint in endpoints.items()),
            )
            self.coming = {name: agents[2][1] for name in COMING}
            self.come(COMING[0])
            for number in range(WORKERS):
                self.start(f"w{number}", wait=number == WORKERS - 1)
            stack.callback(lambda: [worker.stop() for worker in self.workers.values()])
            self.records = [(None, task(self.rng, number)) for number in range(tasks)]
            produce(self.bootstrap, f"{self.prefix}tasks", self.records[: tasks // 2 if self.grow else tasks])
            tap = Tap(self.bootstrap, f"{self.prefix}results")
            stack.callback(tap.close)
            began = time.monotonic()
            for kill in range(self.kills):
                # Spread over the run by share of the results, so that a fast machine feels every kill too.
                share = (kill + self.rng.uniform(0.3, 0.9)) / (self.kills + 1)
                self.watch(tap, GIVE_UP_S, int(tasks * share))
                victim = self.rng.choice(sorted(self.workers))
                if (
                    kill == self.kills - 1 and kill > 0
                ):  # one at least that has calls under way, however slowly the other starts
                    victim = next(name for name in sorted(self.workers) if name != self.last_victim)
                self.workers[victim].kill()
                self.enter("kill")
                outcome.kills += 1
                self.last_victim = victim
                self.change_places()
                self.start(victim, wait=False)
                if self.zombie and kill == self.kills // 2:
                    self.freeze(tap)
                if self.grow and kill == (self.kills - 1) // 2:
                    self.grow_topics(tap)
            if self.rolling:
                self.roll()
            self.watch(tap, GIVE_UP_S, tasks)
            outcome.seconds = time.monotonic() - began
            self.watch(tap, 3.0, 10 * tasks)
            self.count([process for process, _ in agents])
        return outcome

    def count(self, agents: Sequence[Process]) -> None:
        """Every id once? What the agents answered beyond that was cut off by a kill and asked again."""
        results = [json.loads(value) for _, value in self.seen]
        self.stalls()
        ids = Counter(result["taskId"] for result in results)
        self.outcome.statuses = Counter(result["status"] for result in results)
        self.outcome.lost = self.outcome.tasks - len(ids)
        self.outcome.by_coming = Counter(name for result in results if (name := result.get("agentId")) in COMING)
        self.outcome.doubled = sum(count - 1 for count in ids.values())
        hung = {f"t{number}" for number in range(self.outcome.tasks) if target(number) == "hung"}
        self.outcome.wrong = sum(
            result["status"] != ("timeout" if result["taskId"] in hung else "success") for result in results
        )
        for agent in agents:
            agent.stop(5)
            self.outcome.cut_off += int(agent.line(5))
        self.outcome.cut_off -= self.outcome.tasks - len(hung)


def target(number: int) -> str:
    """The agent that this task is for; empty if any of the quick ones will do."""
    if number % HUNG_EVERY == HUNG_EVERY // 2:
        return "hung"
    return "slow" if number % SLOW_EVERY == 1 else ""


def task(rng: random.Random, number: int) -> bytes:
    """A plain task, most of them for a random agent; without a deadline, but for those of the agent that never answers."""
    agent = target(number)
    sent: dict[str, Any] = {
        "id": f"t{number}",
        "type": "agent",
        "payload": {"n": number},
        "metadata": {"retries": 5, **(HUNG if agent == "hung" else {})},
    }
    if not agent and number % CAPABLE_EVERY == 2:
        sent["capabilities"] = [CAPABILITY]
    else:
        sent["target"] = agent or f"a{rng.randrange(AGENTS)}"
    return json.dumps(sent).encode()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, action="append", help="repeat for several runs; default 1")
    parser.add_argument("--session-timeout", type=int, default=10, metavar="SECONDS")
    parser.add_argument("--zombie", action="store_true")
    parser.add_argument("--rolling", action="store_true")
    parser.add_argument("--grow", type=int, default=0, metavar="PARTITIONS", help="a multiple of 8")
    parser.add_argument("--bootstrap")
    options = parser.parse_args()
    good = True
    with ExitStack() as stack:
        bootstrap = options.bootstrap
        if bootstrap is None:
            bootstrap = stack.enter_context(KafkaCluster(brokers=1)).bootstrap_servers
        for seed in options.seed or [1]:
            outcome = Run(
                bootstrap, seed, options.tasks, options.kills, options.session_timeout, options.zombie, options.rolling,
                options.grow,
            ).run()  # fmt: skip
            print(outcome.line(), flush=True)
            good = good and outcome.good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
