"""Whether the present log is the one that was counted, and if not, where its uncounted part begins. Pure.

In: the offsets and record times of the last counted records, and what is at those offsets now. Two cases besides the
common one: a recreated topic has other records at these offsets, or none; a log that was restored from a copy, or
truncated, has the same records up to some offset, and others after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

MOST_CHECKS = 12


class Mark(NamedTuple):
    """A counted record: its offset on the broker and its time, epoch ms (-1: unknown)."""

    offset: int
    stamp_ms: int


def checked_marks(marks: Sequence[Mark], begin: int, end: int) -> list[Mark]:
    """The marks to check in a log of [begin, end), newest first; the first that is unchanged decides."""
    inside = sorted({mark for mark in marks if begin <= mark.offset < end and mark.stamp_ms >= 0}, reverse=True)
    if max(marks).offset < begin:
        return []  # retention has removed the counted records
    return inside[:1] + inside[1 :: max(1, len(inside) // MOST_CHECKS)]


def resume_at(
    marks: Sequence[Mark], found: Mapping[int, int | None], begin: int, end: int, later: int | None
) -> int | None:
    """The offset at which to resume; None: the log is the one that was counted.

    `found`: offset -> record time, for `checked_marks`; `later`: the first record that is newer than all counted ones.

    >>> resume_at([Mark(9, 700)], {9: 700}, 0, 20, None) is None
    True
    >>> resume_at([Mark(9, 700)], {9: 900}, 0, 20, 0), resume_at([Mark(9, 700)], {}, 0, 5, None)
    (0, 0)
    >>> resume_at([Mark(9, 700), Mark(3, 400)], {3: 400}, 0, 8, 5)
    5
    """
    newest = max(marks)
    if newest.offset < end:
        stamp = found.get(newest.offset, -1)
        if newest.stamp_ms < 0 or stamp == newest.stamp_ms or newest.offset < begin:
            return None
    same = [mark.offset for mark in marks if mark.stamp_ms >= 0 and found.get(mark.offset) == mark.stamp_ms]
    if not same:
        return begin
    # Between the last record that is known to be the same and the first that is newer than all, all were counted.
    return max(max(same) + 1, end if later is None else later)
