"""Which agent a task goes to, and whether it lies in that agent's home already. Pure.

In: a task, the agents known, the number of partitions. Out: an agent, or the reason there is none.
"""

from __future__ import annotations

from collections.abc import Iterable

from schemas.messages import AgentRegistration, Task
from schemas.partitioning import murmur2

MAX_HOPS = 3
"""A task is forwarded again only if partitions were added meanwhile; more often than this is a loop."""


def capable(agents: Iterable[AgentRegistration], wanted: Iterable[str]) -> list[AgentRegistration]:
    """The agents that have every wanted capability, by id."""
    need = set(wanted)
    return sorted((agent for agent in agents if need <= set(agent.capabilities)), key=lambda agent: agent.id)


def choose(task: Task, agents: Iterable[AgentRegistration]) -> AgentRegistration | None:
    """One capable agent for a task addressed by capability: spread by task id, the same one when the task is redone.

    >>> agents = [AgentRegistration(id=i, endpoint="http://x", capabilities=["sum"]) for i in ("a", "b")]
    >>> choose(Task(id="t1", type="agent", payload={}, capabilities=["sum"]), agents).id
    'b'
    """
    found = capable(agents, task.capabilities or ())
    return found[murmur2(task.id.encode()) % len(found)] if found else None


def absence(task: Task) -> str:
    """Why no agent can take the task, in a sentence."""
    if task.target is not None:
        return f"agent {task.target!r} is not registered"
    return f"no registered agent has all of {', '.join(sorted(task.capabilities or ()))}"
