"""Where to continue reading a log that a worker reads whole, if it may have been replaced or truncated. Pure.

Applying a record twice does no harm there, missing one does: if two answers are possible, it is the lower offset.
"""

from __future__ import annotations

from typing import NamedTuple


class LogSeen(NamedTuple):
    """A log at the last check: `position` is the next offset to read. `topic_id` "" and `epoch` -1: not reported by the
    brokers.
    """

    position: int
    topic_id: str = ""
    epoch: int = -1


class LogAtPresent(NamedTuple):
    """A log as its broker reports it. `cut`: where the records up to the last seen epoch end in it; None: unknown."""

    begin: int
    end: int
    topic_id: str = ""
    epoch: int = -1
    cut: int | None = None


def is_another(seen: LogSeen, topic_id: str, position: int, cut: int | None) -> bool:
    """Whether the records up to `position` may differ from those in the present log.

    >>> is_another(LogSeen(3, "a", 1), "b", 3, None), is_another(LogSeen(3, "a", 1), "a", 5, 4)
    (True, True)
    >>> is_another(LogSeen(3, "a", 1), "a", 5, 5), is_another(LogSeen(3), "a", 5, None)
    (False, False)
    """
    return bool(seen.topic_id and topic_id and seen.topic_id != topic_id) or (cut is not None and cut < position)


def read_on_from(seen: LogSeen, position: int, now: LogAtPresent) -> int:
    """The offset to continue at. `position`: the next offset, if the log is the same.

    >>> read_on_from(LogSeen(3, "a"), 3, LogAtPresent(0, 5, "b")), read_on_from(LogSeen(3), 3, LogAtPresent(0, 1))
    (0, 0)
    >>> read_on_from(LogSeen(3, "a", 1), 9, LogAtPresent(0, 9, "a", 2, cut=6)), read_on_from(LogSeen(3), 3, LogAtPresent(5, 9))
    (3, 5)
    """
    if (seen.topic_id and now.topic_id and seen.topic_id != now.topic_id) or position > now.end:
        return now.begin  # another topic of that name; or a truncated log, and where it was cut is unknown
    if now.cut is not None and now.cut < position:
        # Records since the last check came from the old leader or the new one: they are read again.
        position = min(seen.position, now.cut)
    return max(position, now.begin)
