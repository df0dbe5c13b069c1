"""Which other workers on a cluster conflict with this one: they share its group, or read the same topics. Pure.

In: the groups of running workers, with the topics their members read. Out: sentences for people, each with a remedy.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from schemas.access import WORKER, Who, role_group
from schemas.topics import full_name

READS: dict[Who, str] = {"dispatch": "tasks", "plans": "plans", "schedules": "schedules", "stats": "data-points"}
"""The topic that each role reads, and no other role reads."""


def is_worker_group(group: str) -> bool:
    """Whether this is the name of a worker role's group, of any installation.

    >>> is_worker_group("shop-dispatch"), is_worker_group("shop")
    (True, False)
    """
    return group.endswith(tuple(f"-{role}" for role in WORKER))


def in_the_way(
    app_id: str, prefix: str, roles: Collection[str], groups: Mapping[str, Collection[Collection[str]]]
) -> list[str]:
    """The conflicts of a worker with these settings. `groups`: by name, the topics each of its members reads.

    >>> in_the_way("shop", "p.", ["dispatch"], {"other.p-dispatch": [["p.tasks"]]})[0].split(";")[0]
    'workers of group other.p-dispatch read p.tasks too: each task is done twice'
    """
    found = []
    for role in (role for role in WORKER if role in roles):
        ours, topic = role_group(app_id, role, prefix), full_name(READS[role], prefix)
        for group, members in sorted(groups.items()):
            if group == ours:
                strange = sorted({name for member in members if member and topic not in member for name in member})
                if strange:
                    found.append(
                        f"group {ours} is also used by workers that read {', '.join(strange)}: two installations with one "
                        f"name; give one of them another app_id"
                    )
            elif group.endswith(f"-{role}") and any(topic in member for member in members):
                what = {
                    "dispatch": "each task",
                    "plans": "each plan",
                    "schedules": "each task of a schedule",
                    "stats": "each data point",
                }[role]
                done = "counted" if role == "stats" else "done"
                found.append(
                    f"workers of group {group} read {topic} too: {what} is {done} twice; workers of one topic_prefix need "
                    f"one app_id (this one has {app_id})"
                )
    return found
