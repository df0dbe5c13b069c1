"""How long a worker waits before its next commit. Pure.

A commit has a fixed cost, which a batch shares, but waiting for a batch delays tasks. So the distance between commits
grows with their cost: up to a commit's length, counted from the end of the last one. Four cases follow:

    1 a task that comes later than that is committed at once: with few tasks, latency is one transaction;
    2 tasks that each come once the last is answered are committed at once: no other would come meanwhile;
    3 tasks that come faster share commits: they wait until commits take at most half of the time;
    4 where commits are slow (a busy broker or worker) the distance and the batches grow, and the load falls.
"""

from __future__ import annotations

FULL_BATCH = 256
"""This many finished records of one partition are committed without waiting."""
DISTANCE = 1.0
"""The longest distance between commits, in lengths of a commit. Twice the length saved a twentieth of the CPU at 1,000
tasks/s, and cost a third of the latency.
"""
MEMORY = 0.2
"""Weight of the newest commit in the means."""


def wait_s(idle_s: float, commit_s: float, records: float, interval_max_s: float) -> float:
    """Seconds to wait before the next commit. `idle_s`: since the end of the last one.

    `commit_s`, `records`: recent duration of a commit, and the records it finishes. With one record each, a wait
    gathers no others; from two on, the distance is used in full. `interval_max_s`: the longest distance.

    >>> [round(wait_s(idle_s, 0.006, 3, 0.05), 3) for idle_s in (0.0, 0.005, 1.0)]
    [0.006, 0.001, 0.0]
    >>> wait_s(0.0, 0.006, 1, 0.05), wait_s(0.0, 0.006, 1.5, 0.05), wait_s(0.0, 0.1, 9, 0.05)
    (0.0, 0.003, 0.05)
    """
    distance = min(DISTANCE, max(0.0, records - 1)) * commit_s
    return max(0.0, min(distance, interval_max_s) - idle_s)


def mean(earlier: float, newest: float) -> float:
    """The smoothed mean with a new value.

    >>> round(mean(0.01, 0.02), 6)
    0.012
    """
    return earlier + MEMORY * (newest - earlier)
