"""What the lanes of one worker hold together, looked at every few milliseconds. One for all homes of a worker.

In: the queues of each home. Out: how many tasks a lane may hold now (the rule is `rules/shares.py`). It moves no task.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from agents_io.caller import Caller
from streams.rules.shares import Flow, lane_limit

LOOK_S = 0.005
LOOK_PER_LANE_S = 0.00005


class Lanes(Protocol):
    """The lanes of one home."""

    @property
    def callers(self) -> Mapping[str, Caller]:
        """By agent id."""
        ...

    @property
    def flows(self) -> Mapping[str, Flow]:
        """By agent id."""
        ...


def holding(caller: Caller) -> int:
    """Tasks that wait for an agent in memory or are being called."""
    return caller.lane.waiting + caller.lane.in_flight


class Shares:
    """Shares `budget` tasks among all lanes of the homes that joined."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._homes: list[Lanes] = []
        self._free = budget
        self._lanes = 0
        self._looked = float("-inf")
        self._pause_s = LOOK_S

    def join(self, home: Lanes) -> None:
        """A home begins."""
        self._homes.append(home)

    def leave(self, home: Lanes) -> None:
        """A home is over."""
        if home in self._homes:
            self._homes.remove(home)

    def took(self) -> None:
        """A lane got a task."""
        self._free -= 1

    def limit(self, caller: Caller, flow: Flow, now: float) -> int:
        """How many tasks this lane may hold."""
        if now - self._looked > self._pause_s:
            self._look(now)
        lane = caller.lane
        free = max(0, self._free)
        limit = lane_limit(self._budget, free, self._lanes, holding(caller), lane.max_concurrency, flow.pace)
        return min(limit, lane.depth + lane.in_flight)

    def _look(self, now: float) -> None:
        used = lanes = count = 0
        for caller, flow in self._all():
            count += 1
            held = holding(caller)
            if held == 0 and flow.rests(caller.lane.ended):  # most of many
                continue
            flow.count(caller.lane.ended, now)
            used += held
            lanes += held > 0
        self._free, self._lanes, self._looked = self._budget - used, lanes, now
        self._pause_s = max(LOOK_S, count * LOOK_PER_LANE_S)

    def _all(self) -> Iterable[tuple[Caller, Flow]]:
        for home in self._homes:
            for agent_id, caller in home.callers.items():
                yield caller, home.flows[agent_id]
