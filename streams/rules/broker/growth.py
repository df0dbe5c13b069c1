"""How partitions are added to the topics that must have equally many. Pure."""

from __future__ import annotations

from collections.abc import Mapping

GROWTH_ORDER = (
    "state", "plan-state", "schedule-state", "dispatch", "parked", "results", "scheduled", "schedules", "plans", "tasks",
)  # fmt: skip
"""Short names. A group uses the partitions that all of its topics have. Each topic comes before the last topic of every
group that writes to its partitions by number: after an interruption at any point, every written partition exists.
"""


class GrowthRefused(Exception):
    """The partitions cannot be added. The message is one sentence."""


def growth_rank(name: str) -> int:
    """The place of a topic (on the broker) in the order in which topics grow; others come first.

    >>> growth_rank("parallax.tasks") > growth_rank("parallax.dispatch") > growth_rank("parallax.events")
    True
    """
    found = [place for place, short in enumerate(GROWTH_ORDER) if name.endswith(f".{short}") or name == short]
    return found[0] if found else -1


def planned_growth(counts: Mapping[str, int], partitions: int) -> list[str]:
    """Which topics get more partitions, in their order. `counts`: those they have, by short name. Raises `GrowthRefused`.

    >>> planned_growth({"tasks": 8, "state": 16, "dispatch": 8}, 16)
    ['dispatch', 'tasks']
    """
    for name in sorted(counts, key=GROWTH_ORDER.index, reverse=True):
        have = counts[name]
        if have > partitions:
            raise GrowthRefused(
                f"{name} has {have} partitions already, more than {partitions}; partitions cannot be removed"
            )
        if partitions % have:
            raise GrowthRefused(
                f"{partitions} is no multiple of the {have} partitions that {name} has. Only with a multiple ids, limits and "
                f"circuits move with their agents. Choose {2 * have}, {3 * have} or {4 * have}"
            )
    return [name for name in GROWTH_ORDER if name in counts and counts[name] < partitions]
