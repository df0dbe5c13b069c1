"""How long a partition waits before its next commit. Pure.

A commit has a fixed cost, which a batch shares; a task that waits for a batch is late. So commits keep a distance that grows with
what they cost: as many times a commit's length as `DISTANCE` says, counted from the end of the last one. Three cases follow:
1 a task that comes later than that is committed at once: where tasks are few, latency is one transaction;
2 tasks that come faster share commits: they wait as long as it takes for commits to have at most a third of a partition's time;
3 where commits are slow (a busy broker or worker) the distance grows, batches with it, and the load goes down.
"""

from __future__ import annotations

FULL_BATCH = 256
"""So many finished records of one partition wait no longer."""
DISTANCE = 2.0
"""Between two commits lie this many times the length of one."""
MEMORY = 0.2
"""Weight of the newest commit in the mean of their times."""


def wait_s(idle_s: float, commit_s: float, interval_max_s: float) -> float:
    """Seconds to wait before the next commit. `idle_s`: since the end of the last one.

    `commit_s`: how long commits take lately. `interval_max_s`: no distance is longer.

    >>> [round(wait_s(idle_s, 0.006, 0.05), 3) for idle_s in (0.0, 0.005, 1.0)]
    [0.012, 0.007, 0.0]
    >>> wait_s(0.0, 0.1, 0.05)
    0.05
    """
    return max(0.0, min(DISTANCE * commit_s, interval_max_s) - idle_s)


def mean_s(mean: float, newest: float) -> float:
    """The mean of commit times with the newest one in it.

    >>> round(mean_s(0.01, 0.02), 6)
    0.012
    """
    return mean + MEMORY * (newest - mean)
