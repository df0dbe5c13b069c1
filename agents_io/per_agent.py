"""Caches what a transport prepares for each of its agents: addresses, headers, channels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from schemas.messages import AgentRegistration

T = TypeVar("T")

MAX_PREPARED = 10_000


class PerAgent(Generic[T]):
    """One `T` for each agent, made again when its registration changes. Beyond `MAX_PREPARED` the least recently used
    is dropped.
    """

    def __init__(self, make: Callable[[AgentRegistration], T], size: int = MAX_PREPARED) -> None:
        self._make = make
        self._size = size
        self._kept: OrderedDict[str, tuple[AgentRegistration, T]] = OrderedDict()

    def get(self, agent: AgentRegistration) -> T:
        """The `T` made of this registration. Raises what `make` raises."""
        kept = self._kept.get(agent.id)
        if kept is not None and kept[0] is agent:
            self._kept.move_to_end(agent.id)
            return kept[1]
        made = self._make(agent)
        self._kept[agent.id] = (agent, made)
        self._kept.move_to_end(agent.id)
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)
        return made

    def all(self) -> list[T]:
        return [made for _, made in self._kept.values()]
