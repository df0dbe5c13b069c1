"""What goes wrong, decided before the run begins: a list that can be printed, and shortened.

In: options and a seed. Out: faults in order of time; `Saboteur` does them to a world. A fault names its victim by a number
in [0, 1), so that it has one whichever nodes are alive when its time comes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from schemas.topics import full_name
from tests.simulation.agents import Limits
from tests.simulation.deployments import changed
from tests.simulation.node import Node
from tests.simulation.options import Options
from tests.simulation.surroundings import Surroundings
from tests.simulation.traffic import Sent

BEGIN_S = 4.0
GROWTH_AT_S = 15.0
BETWEEN_GROWTHS_S = (0.5, 3.0, 8.0, 20.0)
"""The second growth may come before some partitions of the first one were opened, or all were."""
REPLACED_S = 0.5
REGISTERED = 5
"""Agents that have a registration, which come first by name."""
METADATA_S = 20.0
"""How soon the last consumer and the last producer see new partitions."""
AMOUNTS: dict[str, Sequence[float]] = {
    "kill": (0.1, 1.0, 8.0),
    "stop": (1.0, 8.0),
    "freeze": (0.5, 3.0, 9.0, 20.0),
    "replace": (8.0, 20.0),
    "outage": (0.5, 2.0, 8.0),
    "loss": (1.0, 3.0, 5.0),
    "slow": (0.5, 1.5, 3.0),
    "sick": (3.0, 15.0),
    "churn": (1.0, 5.0, 15.0),
    "relimit": (0.5, 2.0),
    "truncate": (1.0, 5.0, 30.0),
    "grow": (2.0, 3.0),
    "configure": (0.5, 3.0),
}
"""Seconds until it is over (kill, stop: until another worker starts; churn: until it is registered again; replace: until the
frozen one goes on; configure: between two workers); a factor, a count."""
MOVES = frozenset({"kill", "freeze", "replace", "stop", "configure", "outage", "loss", "slow"})
"""After these a call may be made again, or a partition may be without an owner for a while."""
BLIND = frozenset({"freeze", "replace", "outage", "loss", "slow"})
"""After these a worker may not yet know that it is no owner any more."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault."""

    at: float
    kind: str
    victim: float
    amount: float

    def __str__(self) -> str:
        return f"{self.kind}({self.amount:g})@{self.at:.2f}/{self.victim:.3f}"


def planned(options: Options, seed: int) -> list[Fault]:
    """The faults of a seed."""
    rng = random.Random(f"{seed}/faults")
    found, at = [], BEGIN_S
    while options.faults and at < options.seconds:
        kind = rng.choice(options.faults)
        found.append(Fault(at, kind, rng.random(), rng.choice(AMOUNTS[kind])))
        at += rng.expovariate(1 / options.every)
    if options.grow:
        found.append(Fault(GROWTH_AT_S, "grow", rng.random(), 2.0))
        for _ in range(options.growths - 1):
            at = found[-1].at + rng.choice(BETWEEN_GROWTHS_S)
            found.append(Fault(at, "grow", rng.random(), rng.choice(AMOUNTS["grow"])))
    if options.truncate:
        found += [
            Fault(
                10.0 + rng.random() * (options.seconds - 15.0), "truncate", rng.random(), rng.choice((1.0, 5.0, 30.0))
            )
            for _ in range(3)
        ]
    return sorted(found, key=lambda fault: fault.at)


class Saboteur:
    """Does faults to a world. `start`: makes another worker; `register(agent name, or None)`: see `Scenario`; `ids`: see
    `Options`.
    """

    def __init__(
        self,
        shared: Surroundings,
        start: Callable[[str | None], object],
        register: Callable[[str, bool], None],
        tasks: dict[str, Sent],
        ids: Sequence[int],
    ) -> None:
        self._shared, self._start, self._register, self._tasks, self._ids = shared, start, register, tasks, ids
        self._world, self._network = shared.world, shared.network
        self._prefix = shared.settings.topic_prefix

    def schedule(self, faults: Sequence[Fault]) -> None:
        """Do each at its time."""
        for fault in faults:
            self._world.at(fault.at - self._world.now, lambda fault=fault: self.apply(fault))  # type: ignore[misc]

    def apply(self, fault: Fault) -> None:
        """Do it now."""
        self._world.note("fault", fault)
        getattr(self, f"_{fault.kind}")(fault)

    def _node(self, fault: Fault) -> Node | None:
        alive = [node for _, node in sorted(self._shared.nodes.items()) if not node.stopping]
        return alive[int(fault.victim * len(alive))] if alive else None

    def _agent(self, fault: Fault, count: int | None = None) -> str:
        names = sorted(self._shared.agents)[:count]
        return names[int(fault.victim * len(names))]

    def _kill(self, fault: Fault) -> None:
        node = self._node(fault)
        if node is not None:
            node.kill()
            self._world.at(fault.amount, lambda: self._start(node.instance))

    def _stop(self, fault: Fault) -> None:
        node = self._node(fault)
        if node is not None:
            node.stop()
            self._world.at(fault.amount, lambda: self._start_after(node))

    def _start_after(self, node: Node) -> None:
        """One of the same static name begins when this one has ended; without such a name it need not wait."""
        if node.alive and node.instance is not None:
            self._world.at(REPLACED_S, lambda: self._start_after(node))
        else:
            self._start(node.instance)

    def _configure(self, fault: Fault) -> None:
        """From now on workers start with other settings; those that have the old ones are stopped one after another."""
        shared, rng = self._shared, self._world.rng(f"settings {fault.at}")
        shared.settings = changed(shared.settings, rng, self._ids)
        self._roll(fault.amount)

    def _roll(self, pause_s: float) -> None:
        nodes = [node for _, node in sorted(self._shared.nodes.items()) if not node.stopping]
        old = next((node for node in nodes if node.settings is not self._shared.settings), None)
        if old is not None:
            old.stop()
            self._world.at(pause_s, lambda: self._start_after(old))
            self._world.at(pause_s + REPLACED_S, lambda: self._roll(pause_s))

    def _freeze(self, fault: Fault) -> None:
        node = self._node(fault)
        if node is not None:
            node.freeze(fault.amount)

    def _replace(self, fault: Fault) -> None:
        """Its supervisor takes it for dead and starts another of the same name; then it goes on."""
        node = self._node(fault)
        if node is not None and node.frozen_until <= self._world.now:
            node.freeze(fault.amount)
            self._world.at(REPLACED_S, lambda: self._start(node.instance))

    def _outage(self, fault: Fault) -> None:
        self._network.outage_until = self._world.now + fault.amount

    def _loss(self, fault: Fault) -> None:
        self._network.loss = 0.1
        self._world.at(fault.amount, lambda: setattr(self._network, "loss", 0.0))

    def _slow(self, fault: Fault) -> None:
        self._network.slowness = 50.0
        self._world.at(fault.amount, lambda: setattr(self._network, "slowness", 1.0))

    def _sick(self, fault: Fault) -> None:
        self._shared.agents[self._agent(fault)].sick_until = self._world.now + fault.amount

    def _churn(self, fault: Fault) -> None:
        name = self._agent(fault, 3)
        self._register(name, False)
        self._world.at(fault.amount, lambda: self._register(name, True))

    def _relimit(self, fault: Fault) -> None:
        name = self._agent(fault, REGISTERED)
        old = self._shared.agents[name].limits
        self._shared.agents[name].limits = Limits(
            max(2, int(old.max_requests * fault.amount)), old.window_s, max(1, int(old.concurrency * fault.amount))
        )
        self._register(name, True)

    def _truncate(self, fault: Fault) -> None:
        broker, topic = self._shared.broker, full_name("tasks", self._prefix)
        number = int(fault.victim * broker.counts[topic])
        for record in broker.truncate((topic, number), int(fault.amount)):
            sent = self._tasks.get(json.loads(record.value or b"{}").get("id"))
            if sent is not None:
                sent.lost = True

    def _grow(self, fault: Fault) -> None:
        broker, world = self._shared.broker, self._world
        tasks = full_name("tasks", self._prefix)
        before = broker.counts[tasks]
        for topic, count in list(broker.counts.items()):
            if count == before:
                broker.grow(topic, int(count * fault.amount))
        rng = world.rng(f"growth {before}")
        for _, node in sorted(self._shared.nodes.items()):
            world.at(rng.random() * METADATA_S, lambda node=node: node.metadata.update(broker.counts))  # type: ignore[misc]
            world.at(rng.random() * METADATA_S, lambda node=node: node.partition_counts.update(broker.counts))  # type: ignore[misc]
