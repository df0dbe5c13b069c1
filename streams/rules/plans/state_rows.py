"""Which rows of the topic `plan-state` an added partition takes over from the partition that its keys came from.
Pure.
"""

from __future__ import annotations

from schemas.partitioning import partition_for


def belongs(app: str, key: bytes, value: bytes, number: int, count: int) -> bool:
    """Whether the row of application `app` belongs to partition `number` of `count`. A plan under way and its steps: by
    the plan's id. Ids of ended plans: all, since a digest does not show its partition.

    >>> [belongs("shop", key, b"", 1, 2) for key in (b"shop/plan/s1", b"shop/steps/0/s1", b"shop/seen/3", b"other/plan/s1")]
    [True, True, True, False]
    """
    if not key.startswith(f"{app}/".encode()):
        return False
    kind, _, name = key.removeprefix(f"{app}/".encode()).partition(b"/")
    if kind == b"steps":
        _, _, name = name.partition(b"/")
    elif kind == b"seen":
        return True
    elif kind != b"plan":
        return False
    return partition_for(name, count) == number
