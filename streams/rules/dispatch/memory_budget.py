"""How the agents of a worker share its memory: whether a task is held in memory or waits on its topic. Pure.

In: the worker's budget in bytes, what is taken of it, and what one agent holds. Out: yes or no. The answer is given when a task
arrives and never taken back, so nothing can swing. An agent may fill a quarter of what is left: the first that floods leaves
three quarters, a second one three quarters of that. The last quarter of the budget is kept for agents that could begin a call.
"""

from __future__ import annotations

SHARE = 4
TASK_BYTES = 2048
"""What a task takes in memory beside the bytes of its record: its objects and, once it is called, its connection's."""


def may_hold(budget: int, used: int, held_bytes: int, held: int, concurrency: int, size: int) -> bool:
    """Whether an agent that holds `held` tasks of `held_bytes` may hold another of `size` bytes.

    An agent that holds nothing always may, however large its task and however little is left.

    >>> may_hold(1000, 0, 0, 0, 1, 100), may_hold(1000, 400, 200, 2, 1, 100), may_hold(1000, 400, 200, 2, 3, 100)
    (True, False, True)
    >>> may_hold(1000, 980, 20, 1, 3, 100), may_hold(1000, 1200, 0, 0, 3, 100)
    (False, True)
    """
    if held == 0:
        return True
    free = budget - used
    if held < concurrency:
        return size <= free
    return free * SHARE > budget and held_bytes + size <= free // SHARE
