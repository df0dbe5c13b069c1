"""One run: a world is made from a seed, lives through its faults, heals, comes to rest and is judged.

In: a seed, options, and the faults (the seed's own unless given). Out: a `Report`.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any

from schemas.topics import TOPICS, dead_letter_topics, full_name
from streams.rules.engine import ledger
from streams.settings import Settings
from tests.simulation.agents import Limits, SimAgent
from tests.simulation.broker import Broker, Stored
from tests.simulation.deployments import BUILTIN_AGENTS, changed, with_limits
from tests.simulation.faults import Fault, Saboteur, planned
from tests.simulation.network import Network
from tests.simulation.node import Node
from tests.simulation.options import Options
from tests.simulation.surroundings import Surroundings
from tests.simulation.traffic import Traffic
from tests.simulation.world import EPOCH_MS, World

PREFIX = "p."
PARTITIONS = 4
LEFT_OUT = ("aggregates", "calibrations", "anomalies")
"""Topics of the statistics, which this world does not run."""
LOOK_S = 5.0
RELOCATED_EARLY = 0.006
"""Of an offset map's limit: a few records done out of order."""
REST_S = 40.0
"""After the last answer: time for commits, delayed records and timers to come to rest."""
PATIENCE_S = {"task": 290.0, "attempt": 900.0}
"""How long after the traffic an answer may take; without a deadline tasks wait for their turn, which may be long at an agent
that takes few calls: while results come, a run goes on."""
STILL_S = 200.0
"""As long as that no result came: nothing will."""


@dataclass(slots=True)
class Violation:
    """A broken promise. `oracle`: which; `about`: a task, an agent, a node."""

    oracle: str
    about: str
    detail: str

    def __str__(self) -> str:
        return f"{self.oracle}: {self.about}: {self.detail}"


@dataclass(slots=True)
class Report:
    """What a run was and what it broke. `cpu_s`: seconds of this machine."""

    seed: int
    digest: str
    faults: list[Fault]
    violations: list[Violation]
    errors: list[str]
    tasks: int
    plans: int
    calls: int
    virtual_s: float
    cpu_s: float
    codes: dict[str, int] = field(default_factory=dict)
    trace: list[str] = field(default_factory=list)

    @property
    def broken(self) -> set[str]:
        """Which oracles found something."""
        return {violation.oracle for violation in self.violations}


class Scenario:
    """A world and what is in it; the oracles look at it once it has come to rest."""

    def __init__(self, seed: int, options: Options, faults: Sequence[Fault] | None = None) -> None:
        self.options = options
        self.faults = list(planned(options, seed) if faults is None else faults)
        self.world = World(seed)
        self.network = Network(self.world)
        self._rng = self.world.rng("scenario")
        counts = {
            full_name(topic.name, PREFIX): topic.partitions or PARTITIONS
            for topic in TOPICS
            if topic.name not in LEFT_OUT
        }
        counts |= {full_name(name, PREFIX): 1 for name in dead_letter_topics()}
        self.broker = Broker(self.world, counts)
        self.broker.late_markers_s = options.late_markers_s
        self.settings = self._settings()
        self.shared = Surroundings(self.world, self.network, self.broker, self.settings, {})
        self.shared.schedules = options.later > 0
        if options.relocated:
            ledger.RELIEF = RELOCATED_EARLY
        self.network.holds_up = options.late_requests or options.in_place
        self.shared.repeats_in_place |= options.in_place
        self._made = 0
        self._skews_ms = [0]
        self.traffic = Traffic(
            self.world, self.broker, options, PREFIX, self.settings.dispatch.idempotency_window / 1000
        )
        for place in range(5):
            self._add_agent(place)
        if options.kinds:
            self._add_builtin_agents()

    def _settings(self) -> Settings:
        rng = self._rng
        tree: dict[str, Any] = {
            "topic_prefix": PREFIX,
            "app_id": "app",
            "session_timeout": 6000,
            "retry": {"initial_delay": 200},
            "breaker": {"failure_threshold": rng.choice((2, 5)), "reset_timeout": rng.choice((2000, 10_000))},
            "dispatch": {
                "drain_timeout": rng.choice((500, 2000)),
                "stop_timeout": rng.choice((500, 2000)),
                "max_in_flight": rng.choice((8, 40, 300)),
                "await_agent": rng.choice(("unavailable", "always", "never")),
            },
        }
        if self.options.time == "task":
            tree["dispatch"]["default_timeout"] = 20_000
        else:  # what waits is bounded by memory; a bound on the count stops well agents too, and is no everyday one
            tree["dispatch"]["max_in_flight"] *= 100
            tree["dispatch"]["max_held_bytes"] = rng.choice((50_000, 500_000, 50_000_000))
        for path, value in self.options.settings:
            section, _, name = path.partition(".")
            tree.setdefault(section, {})[name] = value
        if not self.options.kinds:
            return Settings.model_validate(tree)
        rng = self.world.rng("settings")
        self._builtin_limits = with_limits(tree, rng)
        return changed(Settings.model_validate(tree), rng, self.options.ids)

    def _add_agent(self, place: int) -> None:
        rng, name, options = self._rng, f"ag{place}", self.options
        limits = (rng.choice((20, 50, 1000)), rng.choice((2.0, 10.0)), rng.choice((1, 3, 10)))
        mean_s = rng.choice((0.005, 0.05, 0.5))
        agent = self.shared.agents[name] = SimAgent(
            self.world,
            name,
            ("sum",) if place < 2 else ("fly",) if place < 3 else (),
            Limits(*(options.agent_limits or limits)),
            self.world.rng(name),
            mean_s=options.agent_s or mean_s,
            hangs=rng.choice((0.0, 0.0, 0.05)),
            asks_for_pause=rng.choice((0.0, 0.0, 0.1)),
            fails=rng.choice((0.0, 0.05, 0.3)),
            confidence=_confidence(place, options),
        )
        self.register(agent.name, True)

    def _add_builtin_agents(self) -> None:
        """What hosts, functions and patterns of the control plane do, each under the limits of its built-in agent."""
        limits = self._builtin_limits
        for name in BUILTIN_AGENTS:
            self.shared.agents[name] = SimAgent(
                self.world, name, (), limits, self.world.rng(name), mean_s=0.05, hangs=0.02, asks_for_pause=0.02, fails=0.1,
                registered=[(0.0, limits)],
            )  # fmt: skip

    def calls_allowed(self, retries: int) -> int:
        """For one task: its samples or its judge (who may be tried again as often) on top."""
        return (retries + 1) * (2 if self.options.judged else 1) + self.options.samples - 1

    def register(self, name: str, there: bool) -> None:
        """Write an agent's registration, or (False) its tombstone."""
        agent = self.shared.agents[name]
        value = json.dumps(agent.registration()).encode() if there else None
        agent.registered.append((self.world.now, agent.limits if there else None))
        self.broker.append((full_name("agents", PREFIX), 0), [(name.encode(), value, ())])

    def start_node(self, instance: str | None = None) -> None:
        """One more worker. `instance`: the static name it takes over."""
        self._made += 1
        if self.options.static and instance is None:
            instance = f"i{self._made}"
        skew = int(self._rng.gauss(0, self.options.skew)) if self.options.skew else 0
        self._skews_ms.append(skew)
        Node(self.shared, f"w{self._made}", skew, instance)

    @property
    def clock_spread_s(self) -> float:
        """By how much the wall clocks of workers differed, and from the true one, seconds."""
        return (max(0, *self._skews_ms) - min(0, *self._skews_ms)) / 1000

    @property
    def grown_at(self) -> float | None:
        """When partitions were last added, if they were."""
        return max((fault.at for fault in self.faults if fault.kind == "grow"), default=None)

    def partitions_at(self, at: float, role: str = "dispatch") -> int:
        """How many partitions the group of a role was dealing out then."""
        numbers = self.broker.groups[f"app-{role}"].numbers
        return numbers[max(0, bisect_right(numbers, at, key=lambda row: row[0]) - 1)][1]

    def run(self) -> None:
        """Live through it, until everything has come to rest or patience ends."""
        world = self.world
        for _ in range(self.options.workers):
            world.at(self._rng.random(), self.start_node)
        self.traffic.begin()
        self.shared.restart = self.start_node
        saboteur = Saboteur(self.shared, self.start_node, self.register, self.traffic.tasks, self.options.ids)
        saboteur.schedule(self.faults)
        world.run(self._end_of_sending)
        self.network.heal()
        while not self.shared.nodes:
            world.run(world.now + LOOK_S)
        patience_s = PATIENCE_S[self.options.time]
        deadline, answered = self._end_of_sending + patience_s, 0
        while world.now < deadline:
            world.run(world.now + LOOK_S)
            if world.now > self._end_of_sending + REST_S and self._all_answered():
                break
            if (results := self._written("results")) > answered and world.now < self._end_of_sending + 10 * patience_s:
                answered, deadline = results, max(deadline, world.now + STILL_S)
        world.run(world.now + REST_S)

    @property
    def _end_of_sending(self) -> float:
        nights = 5.5 * self.settings.dispatch.idempotency_window / 1000 if self.options.late_duplicates else 0.0
        return self.options.seconds + nights

    def _all_answered(self) -> bool:
        keys = Counter(record.key for record in self.committed("results"))
        plans = {record.key for record in self.committed("plan-results")}
        tasks = (json.loads(record.value or b"{}") for record in self.committed("tasks") if self.traffic.schedules)
        if any(task.get("planId") is None and task["id"].encode() not in keys for task in tasks):
            return False
        return all(
            sent.lost or keys[name.encode()] >= sent.fewest for name, sent in self.traffic.tasks.items()
        ) and all(name.encode() in plans for name in self.traffic.plans)

    def _written(self, topic: str) -> int:
        """Records of a topic so far; short name."""
        name = full_name(topic, PREFIX)
        return sum(len(log.records) for (of, _), log in self.broker.logs.items() if of == name)

    def committed(self, topic: str) -> list[Stored]:
        """What a reader of a topic is given; short name."""
        return list(self.broker.committed_records(full_name(topic, PREFIX)))

    @cached_property
    def results(self) -> dict[str, list[tuple[float, dict[str, Any]]]]:
        """Results by task id, each with the time it was written. Only once the run is over."""
        return self._by_id("results", "taskId")

    @cached_property
    def plan_results(self) -> dict[str, list[tuple[float, dict[str, Any]]]]:
        """The same of plans."""
        return self._by_id("plan-results", "planId")

    def _by_id(self, topic: str, field_name: str) -> dict[str, list[tuple[float, dict[str, Any]]]]:
        found: dict[str, list[tuple[float, dict[str, Any]]]] = defaultdict(list)
        for record in self.committed(topic):
            value = json.loads(record.value or b"{}")
            found[value[field_name]].append(((record.timestamp - EPOCH_MS) / 1000, value))
        return found

    def digest(self) -> str:
        """Equal for equal runs: of everything that was written, and when."""
        found = sha256()
        for log_id, log in sorted(self.broker.logs.items()):
            for record in log.records:
                found.update(
                    repr((log_id, record.offset, record.key, len(record.value or b""), record.timestamp)).encode()
                )
        return found.hexdigest()[:12]


def run_seed(seed: int, options: Options, faults: Sequence[Fault] | None = None) -> Report:
    """Run a seed and judge it."""
    from tests.simulation.oracles import judge  # the oracles know scenarios

    began = time.process_time()
    scenario = Scenario(seed, options, faults)
    scenario.run()
    violations = [one for one in judge(scenario) if one.oracle not in options.unpromised]
    codes = Counter((rows[0][1].get("error") or {}).get("code", "success") for rows in scenario.results.values())
    return Report(
        seed, scenario.digest(), scenario.faults, violations, scenario.world.errors,
        len(scenario.traffic.tasks), len(scenario.traffic.plans),
        sum(len(agent.arrivals) for agent in scenario.shared.agents.values()),
        scenario.world.now, time.process_time() - began, dict(sorted(codes.items())), scenario.world.trace,
    )  # fmt: skip


def _confidence(place: int, options: Options) -> dict[str, Any] | None:
    """The first agent of each group is sampled, the second is judged; the last one judges."""
    if options.samples > 1 and place in (0, 3):
        return {"from": "agreement", "samples": options.samples}
    return {"from": "judge", "agent": "ag4"} if options.judged and place in (1, 2) else None
