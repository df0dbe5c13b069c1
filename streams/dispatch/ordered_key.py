"""One ordering key at one agent, in one partition: which task has its turn, and under which names its tasks wait. No
decisions here.
"""

from __future__ import annotations

from typing import TypeVar

from streams.rules.dispatch.ordering import Chain, LogPosition

T = TypeVar("T")
PREFIX = "\x01"
"""No agent's id begins with it: it separates tasks that wait behind an earlier one, in memory and on their topic."""


class OrderedKey(Chain[T]):
    """One key at one agent. `head`: the task that has its turn, while in memory; `at`: its record otherwise."""

    __slots__ = ("at", "head", "head_topic", "key", "queued", "scope", "stored")

    def __init__(self, scope: str, key: str) -> None:
        super().__init__()
        self.scope = scope
        self.key = key
        self.head: T | None = None
        self.at: LogPosition | None = None
        self.head_topic = ""
        """The topic of the head's first record."""
        self.stored: tuple[str, ...] = ()
        """Topics on which tasks of this key may be left."""
        self.queued = False
        """Whether a check of it is due soon."""

    def name(self, topic: str) -> str:
        """The name under which its tasks are left on a topic."""
        return f"{PREFIX}{topic}\x1f{self.scope}\x1f{self.key}"
