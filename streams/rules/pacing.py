"""How long a partition gathers finished work before it commits. Pure.

Idle: at once, so that latency is one transaction. Busy: longer, so that a transaction's fixed cost is shared by many tasks.
"""

from __future__ import annotations

SMALL_BATCH = 4
FULL_BATCH = 256


def gather_s(last_batch: int, waiting: int, interval_max_s: float) -> float:
    """Seconds to wait before the next commit. `last_batch`: records in the last one. `waiting`: finished since.

    >>> gather_s(1, 1, 0.05), gather_s(100, 10, 0.05), gather_s(100, 300, 0.05)
    (0.0, 0.05, 0.0)
    """
    if waiting >= FULL_BATCH or max(last_batch, waiting) <= SMALL_BATCH:
        return 0.0
    return interval_max_s
