"""The table of agents over a topic without a broker: what is written is applied at once, as its follower would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiokafka.structs import ConsumerRecord

from streams.agents import table
from streams.agents.table import AgentTable

Apply = Callable[[ConsumerRecord], None]


class FakeFollower:
    """In place of `Follower`: its topic is read to the end at any time."""

    problem = None

    def __init__(self, _options: dict[str, Any], _topic: str, apply: Apply) -> None:
        self.apply = apply

    async def start(self) -> None:
        """Nothing is there yet."""

    async def catch_up(self) -> None:
        """Always."""


def followed_agents() -> tuple[AgentTable, Apply]:
    """A loaded table, and the function that applies a record to it."""
    followers: list[FakeFollower] = []

    def follow(*arguments: Any) -> FakeFollower:
        followers.append(FakeFollower(*arguments))
        return followers[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "Follower", follow)
        made = AgentTable({}, "t.")
    with pytest.raises(StopIteration):  # no loop is needed: there is nothing to wait for
        made.start().send(None)
    return made, followers[0].apply
