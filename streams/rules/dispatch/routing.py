"""Which agents a task may go to. Pure. `balancing.py` chooses among them.

In: a task, the agents known. Out: the capable ones, or the reason why there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from schemas.messages import AgentRegistration, Task

MAX_HOPS = 5
"""A task is forwarded to the partition of its id, then to its agent's; again if partitions were added or the agent
takes no calls. After this many times it waits some seconds before each further one.
"""
MAX_REROUTES = 3
"""How often one owner chooses another agent for a task."""


def capable(agents: Iterable[AgentRegistration], wanted: Iterable[str]) -> list[AgentRegistration]:
    """The agents that have every wanted capability, by id."""
    need = set(wanted)
    return sorted((agent for agent in agents if need <= set(agent.capabilities)), key=lambda agent: agent.id)


def owner_key(task: Mapping[str, Any]) -> str:
    """The key whose owner partition processes a task first: its agent, else its ordering key, else its id.

    >>> owner_key({"id": "t", "type": "agent", "target": "a"}), owner_key({"id": "t", "type": "http", "target": "http://h"})
    ('a', 't')
    >>> owner_key({"id": "t", "type": "agent", "metadata": {"orderingKey": "k"}})
    'k'
    """
    target = task.get("target") if task.get("type") == "agent" else None
    ordering_key = (task.get("metadata") or {}).get("orderingKey")
    return str(target or ordering_key or task["id"])


def absence(task: Task, known: bool = False) -> str:
    """Why no agent can take the task, in a sentence. `known`: capable ones are registered."""
    if task.target is not None:
        return f"agent {task.target!r} is not registered"
    wanted = ", ".join(sorted(task.capabilities or ()))
    if known:
        return f"no agent that has all of {wanted} is healthy and takes calls"
    return f"no registered agent has all of {wanted}"
