"""Which rows of the topic `schedule-state` an added partition takes over from the partition that its keys came from.
Pure.
"""

from __future__ import annotations

from schemas.partitioning import partition_for


def belongs(app: str, key: bytes, value: bytes, number: int, count: int) -> bool:
    """Whether the row of application `app` belongs to partition `number` of `count`: the state of a schedule, by its
    id.

    >>> belongs("shop", b"shop/fired/s1", b"", 1, 2), belongs("shop", b"shop/heads", b"", 1, 2)
    (True, False)
    """
    prefix = f"{app}/fired/".encode()
    return key.startswith(prefix) and partition_for(key.removeprefix(prefix), count) == number
