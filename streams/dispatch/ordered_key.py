"""One ordering key at one agent, in one partition: who has its turn, and under which names its tasks wait. No decisions here."""

from __future__ import annotations

from streams.dispatch.task_run import TaskRun
from streams.rules.dispatch.builtins import builtin_id
from streams.rules.dispatch.ordering import Chain, LogPosition

PREFIX = "\x01"
"""No agent's id begins so: what waits behind an earlier task is kept apart by it, in memory and on its topic."""


class OrderedKey(Chain[TaskRun]):
    """One key at one agent. `head`: the task that has its turn, while it is in memory; `at`: its record while that is not."""

    __slots__ = ("at", "head", "head_topic", "key", "queued", "scope", "stored")

    def __init__(self, scope: str, key: str) -> None:
        super().__init__()
        self.scope = scope
        self.key = key
        self.head: TaskRun | None = None
        self.at: LogPosition | None = None
        self.head_topic = ""
        """The topic of the head's first record."""
        self.stored: tuple[str, ...] = ()
        """Topics on which tasks of this key may be left."""
        self.queued = False
        """Whether it is looked at soon."""

    def name(self, topic: str) -> str:
        """The name under which its tasks are left on a topic."""
        return f"{PREFIX}{topic}\x1f{self.scope}\x1f{self.key}"


def scope_of(run: TaskRun) -> str:
    """Within what a key orders: the agent; until one is chosen, all tasks that name none. A judge's calls are apart."""
    if run.judged is not None:
        return f"\0judge {run.judged.judge} {run.judged.agent_id}"
    if run.any_agent:
        return run.chosen
    return run.task.target or "" if run.task.type == "agent" else builtin_id(run.task)


def is_relocated(run: TaskRun) -> bool:
    """Whether its record lies on `parked`, or is on the way there."""
    return run.source == "parked" or run.token is not None
