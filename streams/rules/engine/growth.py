"""From which partition a new one takes over its state when partitions are added. Pure.

Keys belong to partition `hash % count`. If the count becomes a multiple of the former one, all keys of a new partition
came from one old partition: its ancestor. Each partition keeps the counts under which it was open, with its state. An
ancestor was open under the earlier count, since only then it held what belongs to the new one.

In: partition numbers and counts. Out: the ancestor, and in which order to search it.
"""

from __future__ import annotations

from collections.abc import Sequence

NOT_RECORDED = 0
"""In place of a count: the partition was open under a count that an older version did not record."""
MOST_COUNTS = 32
"""Counts that are kept; partitions are not added more often."""


def lineage(number: int, count: int) -> list[tuple[int, int]]:
    """Earlier counts and the partition that then held the keys of `number`, the newest possible first.

    >>> lineage(25, 32), lineage(3, 8), lineage(0, 8)
    ([(16, 9), (8, 1), (4, 1), (2, 1), (1, 0)], [(2, 1), (1, 0)], [])
    """
    return [
        (earlier, number % earlier)
        for earlier in range(count // 2, 0, -1)
        if count % earlier == 0 and number >= earlier
    ]


def is_ancestor(earlier: int, counts: Sequence[int]) -> bool:
    """Whether a partition held, under `earlier`, what belongs to a new one now. `counts`: those under which it was
    open.

    >>> is_ancestor(8, [8, 32]), is_ancestor(16, [8, 32]), is_ancestor(16, [NOT_RECORDED])
    (True, False, True)
    """
    return earlier in counts or NOT_RECORDED in counts


def with_count(counts: Sequence[int], count: int) -> list[int]:
    """The counts under which a partition was open, with the one under which it is opened now, which comes last.

    >>> with_count([8], 16), with_count([8, 16], 16), with_count([8, 16], 8)
    ([8, 16], [8, 16], [16, 8])
    """
    return [*(earlier for earlier in counts if earlier != count), count][-MOST_COUNTS:]


def strays(counts: Sequence[int], count: int) -> int | None:
    """The last count, if its partitions' keys are split among several new ones: their state stays behind. Else None.

    >>> strays([8], 16), strays([8], 12), strays([16], 8), strays([NOT_RECORDED], 12), strays([], 8)
    (None, 8, 16, None, None)
    """
    last = counts[-1] if counts else NOT_RECORDED
    return last if last != NOT_RECORDED and count % last else None
