"""Which tasks wait on their topic instead of in memory, and when they are read back. Pure.

In: the worker's memory in bytes, how much is used, and how much one agent holds. Out: yes or no, or how many. Whether a
task may be held is decided when it arrives and never revised, so nothing can oscillate. An agent may fill a quarter of
what is left: the first that floods leaves three quarters, a second one three quarters of that. The last quarter is
reserved for agents that could start a call.
"""

from __future__ import annotations

SHARE = 4
TASK_BYTES = 2048
"""Memory of a task beside the bytes of its record: its objects and, once it is called, its connection's."""
LOW = 32
MAX_LOAD = 256
MAX_CLOSED = 256
CLOSED_S = 1.0


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


def is_crowded(waiting: int, concurrency: int) -> bool:
    """Whether so many tasks wait in memory that the next one is delayed if the agent takes no call for at least
    `CLOSED_S` seconds.

    >>> is_crowded(256, 10), is_crowded(255, 10), is_crowded(256, 200)
    (True, False, False)
    """
    return waiting >= max(MAX_CLOSED, 2 * concurrency)


def low_mark(concurrency: int) -> int:
    """Delayed tasks are read back while an agent holds fewer than this: its concurrency, or `LOW` if that is more."""
    return max(LOW, concurrency)


def to_read_back(held: int, concurrency: int, room: int) -> int:
    """How many delayed tasks to read back for an agent that holds `held`, if memory has `room` for so many.

    >>> to_read_back(0, 10, 1000), to_read_back(31, 10, 1000), to_read_back(32, 10, 1000), to_read_back(0, 10, 3)
    (64, 33, 0, 3)
    """
    low = low_mark(concurrency)
    return max(0, min(2 * low - held, room, MAX_LOAD)) if held < low else 0


def room_to_read_back(budget: int, used: int, average: int, places: int, held: int) -> int:
    """How many tasks of about `average` bytes memory has room for: a quarter of what is left, at most `places`.

    At least one for an agent that holds nothing.

    >>> [room_to_read_back(1000, used, 10, 50, held) for used, held in ((600, 1), (1000, 1), (1000, 0))]
    [10, 0, 1]
    """
    free = max(0, budget - used)
    return max(min(free // SHARE // max(1, average), places), 0 if held else 1)
