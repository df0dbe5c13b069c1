"""Where a task's id is compared with the ids that were answered. Pure.

In: a task, and the agent that its record names, if one was chosen for it. Out: the key whose owner partition compares
the id, and the scope of the comparison. A result may only be written where the id was compared; elsewhere the same id
would have a second one.
"""

from __future__ import annotations

from typing import NamedTuple

from schemas.messages import Task
from streams.rules.dispatch.builtins import builtin_id


class Comparison(NamedTuple):
    """Ids are compared in the owner partition of `key`, with others of the same `scope`."""

    key: str
    scope: str


def first_comparison(task: Task) -> Comparison | None:
    """Where the id is compared before the task's agent is known; None: the task itself says which agent it is for.

    Two kinds of tasks have this: 1 those that name capabilities, whose agent is chosen; 2 patterns and http tasks, whose
    agent is decided by settings (whether a pattern is a template, whether a host has its own entry or a wildcard's).
    Agents come and go, and settings change, before an id is sent again: neither key nor scope may depend on them. The
    scope is no agent's id, since the id is compared once more when the agent is known. Tasks of an ordering key must
    meet in one partition, and stay in order.

    >>> first_comparison(Task(id="t", type="agent", capabilities=["c"], payload=1))
    Comparison(key='t', scope='')
    >>> first_comparison(Task(id="t", type="pattern", target="p", payload=1, metadata={"orderingKey": "k"}))
    Comparison(key='k', scope='\\x00pattern:p')
    >>> first_comparison(Task(id="t", type="agent", target="a", payload=1))
    """
    key = task.metadata.ordering_key or task.id
    if task.type in ("http", "pattern"):
        return Comparison(key, f"\0{builtin_id(task)}")
    return Comparison(key, "") if task.target is None else None


def comparison(task: Task, chosen: str) -> Comparison:
    """Where the id is compared next. `chosen`: the agent that the record names; empty: none.

    >>> comparison(Task(id="t", type="function", target="f", payload=1), "")
    Comparison(key='function:f', scope='function:f')
    >>> comparison(Task(id="t", type="agent", capabilities=["c"], payload=1), "a1")
    Comparison(key='a1', scope='a1')
    """
    first = first_comparison(task)
    if first is None:
        name = task.target or "" if task.type == "agent" else builtin_id(task)
        return Comparison(name, name)
    return Comparison(chosen, chosen) if chosen else first
