"""Virtual time: what happens next, anywhere, and the order in which it happens.

In: callbacks with a delay, nodes with an event loop each. Out: one thing after another, by time, then by the order of scheduling.
Every random decision comes from a generator seeded with the seed and a name: the same seed gives the same run.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Protocol

EPOCH_MS = 1_800_000_000_000
"""The wall clock at simulated time 0."""
NEVER = float("inf")


class Steppable(Protocol):
    """What has a loop of its own."""

    frozen_until: float

    def due(self) -> float:
        """When it has work, simulated seconds."""
        ...

    def step(self) -> None:
        """Run what is due."""
        ...


class World:
    """The clock, the agenda, and the nodes that are alive."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now = 0.0
        self.steps = 0
        self.errors: list[str] = []
        """What nobody caught: callbacks that raised, engines that gave up."""
        self.trace: list[str] = []
        """What the simulation did, for people."""
        self.stepped: dict[str, Steppable] = {}
        self._agenda: list[tuple[float, int, Callable[[], object]]] = []
        self._sequence = 0

    def rng(self, name: str) -> random.Random:
        """A generator that nothing else draws from: what one part draws changes no other part."""
        return random.Random(f"{self.seed}/{name}")

    @property
    def wall_ms(self) -> int:
        """The true wall clock, epoch ms."""
        return int(EPOCH_MS + self.now * 1000)

    def at(self, delay_s: float, action: Callable[[], object]) -> None:
        """Do this later."""
        self._sequence += 1
        heapq.heappush(self._agenda, (self.now + delay_s, self._sequence, action))

    def note(self, *words: object) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.now:9.3f} " + " ".join(map(str, words)))

    def run(self, until: float) -> None:
        """Let everything happen that is due by then."""
        while True:
            when, node = (self._agenda[0][0] if self._agenda else NEVER), None
            for candidate in self.stepped.values():
                due = candidate.due()
                if candidate.frozen_until > self.now:
                    due = max(due, candidate.frozen_until)
                if due < when:
                    when, node = due, candidate
            if when > until:
                self.now = until
                return
            self.now = max(self.now, when)
            self.steps += 1
            if node is None:
                heapq.heappop(self._agenda)[2]()
            else:
                node.step()
