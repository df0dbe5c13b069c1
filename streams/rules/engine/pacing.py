"""How long a partition gathers finished work before it commits. Pure.

Idle: at once, so that latency is one transaction. Busy: a few times as long as a commit takes, so that its fixed cost is
shared by many tasks: where commits are quick batches stay small, where they are slow (a busy broker or worker) batches grow.
"""

from __future__ import annotations

SMALL_BATCH = 4
FULL_BATCH = 256
SHARE = 4.0
"""Gathering lasts this many times a commit: commits take at most a fifth of a home's time."""
MEMORY = 0.2
"""Weight of the newest commit in the mean of their times."""


def gather_s(last_batch: int, waiting: int, commit_s: float, interval_max_s: float) -> float:
    """Seconds to wait before the next commit. `last_batch`: records in the last one. `waiting`: finished since.

    `commit_s`: how long commits take lately.

    >>> gather_s(1, 1, 0.006, 0.05), gather_s(100, 10, 0.006, 0.05), gather_s(9, 9, 0.1, 0.05), gather_s(100, 300, 0.1, 0.05)
    (0.0, 0.024, 0.05, 0.0)
    """
    if waiting >= FULL_BATCH or max(last_batch, waiting) <= SMALL_BATCH:
        return 0.0
    return min(SHARE * commit_s, interval_max_s)


def mean_s(mean: float, newest: float) -> float:
    """The mean of commit times with the newest one in it.

    >>> round(mean_s(0.01, 0.02), 6)
    0.012
    """
    return mean + MEMORY * (newest - mean)
