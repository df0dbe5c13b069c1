"""Where a partition begins when it is opened: from the group's committed offset, the kept offset, and the present log.
Pure.

A group's offsets can be wrong in two ways. They get lost (they expire, or are reset by hand) while the log stays the
same: the kept offset then shows the progress. Or the log changes under them (the topic is recreated, or the log is
truncated by an unclean election or a restored volume), and they point at other records: they must then not be used.
"""

from __future__ import annotations

from typing import NamedTuple

from streams.rules.engine import offset_map

NOT_COMMITTED = (-1, "")


class KeptOffset(NamedTuple):
    """A group's progress in a topic partition, kept on the state topic with each commit.

    `topic_id` and `epoch`: of the log when it was known to hold everything below `checked`; empty and -1 if not
    reported.
    """

    offset: int
    map: str = ""
    topic_id: str = ""
    epoch: int = -1
    checked: int = 0


class LogNow(NamedTuple):
    """A log as its broker reports it. `cut`: where the records up to the kept epoch end in it; None: unknown."""

    begin: int
    end: int
    topic_id: str = ""
    epoch: int = -1
    cut: int | None = None


class Start(NamedTuple):
    """Where to begin. `committed`: this is the group's committed offset. `why`: why it is not; None: nothing to report.

    `fresh`: the group never committed and nothing is kept.
    """

    offset: int
    map: str
    committed: bool
    why: str | None = None
    fresh: bool = False


def start_offset(
    topic: str, partition: int, committed: tuple[int, str], kept: KeptOffset | None, log: LogNow, exact_ends: bool
) -> Start:
    """`committed`: offset and map, `NOT_COMMITTED` if there is none. `exact_ends`: whether `log.end` can be believed.

    >>> start_offset("tasks", 0, NOT_COMMITTED, KeptOffset(40, "", "id"), LogNow(0, 50, "id"), True)
    Start(offset=40, map='', committed=False, why="the group's offset is lost; continuing from the kept one", fresh=False)
    """
    offset, text = committed
    # 1. Another topic of the same name: neither offset is of this log.
    if kept is not None and _is_recreated(kept, log.topic_id):
        return Start(log.begin, "", False, "the topic was recreated; starting at its beginning")
    # 2. The group's offset was lost or set back: what was kept is further. Without any offset the topic may be another one.
    same = kept is not None and bool(kept.topic_id) and kept.topic_id == log.topic_id
    why = None
    if kept is not None and kept.offset > offset and (offset >= 0 or same):
        lost = "is lost" if offset < 0 else f"was set back to {offset}"
        why = f"the group's offset {lost}; continuing from the kept one"
        offset, text = kept.offset, kept.map
    if offset < 0:
        return Start(log.begin, "", False, fresh=True)
    # 3. The log was truncated: its records there are new ones. They begin where the leader epoch shows, if that is known.
    beyond = exact_ends and offset > log.end
    if same and log.cut is not None and kept is not None and (log.cut < kept.checked or beyond):
        cut = min(log.cut, log.end)
        begin = max(min(offset, cut), log.begin)
        kept_map = _clipped(topic, partition, offset, text, cut) if begin == offset else ""
        return Start(begin, kept_map, False, f"the log was truncated at {cut}; starting there")
    if beyond:
        return Start(log.begin, "", False, "the committed offset lies beyond the log; starting at its beginning")
    return Start(offset, text, why is None, why)


def _clipped(topic: str, partition: int, head: int, text: str, end: int) -> str:
    """The offset map without runs at `end` or beyond."""
    try:
        runs = offset_map.decode(topic, partition, head, text)
    except offset_map.MapError:
        return ""
    return offset_map.encode(topic, partition, head, [(a, min(b, end - 1)) for a, b in runs if a < end])


def lost_its_end(kept: KeptOffset, topic_id: str, cut: int | None) -> str | None:
    """Why the log of an open partition is not the one seen before; None if it is, or if that is unknown.

    >>> lost_its_end(KeptOffset(0, "", "id", 3, checked=40), "id", 20)
    'the log was truncated at 20'
    """
    if _is_recreated(kept, topic_id):
        return "the topic was recreated"
    if cut is not None and cut < kept.checked:
        return f"the log was truncated at {cut}"
    return None


def read_on_from(seen: KeptOffset, position: int, now: LogNow) -> int:
    """Where a log that a worker reads whole is read on from. `position`: the next offset, if the log is the same.

    To apply a record twice does no harm there, to miss one does: where two answers are possible, it is the lower offset.

    >>> read_on_from(KeptOffset(3, "", "a"), 3, LogNow(0, 5, "b")), read_on_from(KeptOffset(3), 3, LogNow(0, 1))
    (0, 0)
    >>> read_on_from(KeptOffset(3, "", "a", 1, checked=3), 9, LogNow(0, 9, "a", 2, cut=6))
    3
    >>> read_on_from(KeptOffset(3), 3, LogNow(5, 9))
    5
    """
    if _is_recreated(seen, now.topic_id) or position > now.end:
        return now.begin  # another topic of that name; or a truncated log, and nobody knows where it was cut
    if now.cut is not None and now.cut < position:
        # What came since the last look came from the old leader or from the new one: it is read again.
        position = min(seen.checked, now.cut)
    return max(position, now.begin)


def _is_recreated(kept: KeptOffset, topic_id: str) -> bool:
    return bool(kept.topic_id and topic_id) and kept.topic_id != topic_id
