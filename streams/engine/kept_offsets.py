"""A group's progress in each topic of one partition number, written to the state topic with each commit and read when
it opens.

In: offsets as they are committed, and what is known of their logs. Out: one record a partition number, `<group>/heads`,
always with the same key; and back. A group's own offsets expire, can be reset, and do not identify their log: these do
not expire, and do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from schemas.codec import Rejected, decode, pack
from schemas.messages import HomeState, KeptHead, KeptHeads
from schemas.times import format_time
from streams.rules.engine.growth import NOT_RECORDED
from streams.rules.engine.start_offsets import KeptOffset
from streams.rules.records import Output

MARK = b'"heads":'
"""In the bytes of each such record, and rarely in others: spares decoding those."""


class KeptOffsets:
    """The progress of `group`, on topic `state` (short name)."""

    def __init__(self, group: str, state: str, wall_ms: Callable[[], int]) -> None:
        self._wall_ms = wall_ms
        self._group = group
        self._state = state

    def record(self, number: int, rows: Mapping[str, KeptOffset], counts: Sequence[int] = ()) -> Output:
        """The record to write with a commit. `rows`: by the short names of all topics of the partition number.

        `counts`: the partition counts under which it was open.
        """
        topics = {
            source: KeptHead(
                offset=row.offset, map=row.map, topic_id=row.topic_id, epoch=row.epoch, checked=row.checked
            )
            for source, row in rows.items()
        }
        heads: dict[str, Any] = {
            "group": self._group,
            "topics": {source: head.wire() for source, head in topics.items()},
        }
        if counts:
            heads["partitions"] = list(counts)
        # `app` is the group's name: readers of an application's state skip it.
        value = pack({"app": self._group, "at": format_time(self._wall_ms()), "heads": heads})
        return Output(self._state, f"{self._group}/heads".encode(), value, partition=number)

    def read(self, values: Iterable[bytes]) -> dict[str, KeptOffset]:
        """The rows by short names of topics; empty if the group wrote none. `values`: of the state topic's
        partition.
        """
        heads = self._heads(values)
        if heads is None:
            return {}
        return {
            source: KeptOffset(head.offset, head.map, head.topic_id, head.epoch, head.checked)
            for source, head in heads.topics.items()
        }

    def counts(self, values: Iterable[bytes]) -> list[int]:
        """The partition counts under which this number was open; empty if the group never committed anything here."""
        heads = self._heads(values)
        return [] if heads is None else heads.partitions or [NOT_RECORDED]

    def _heads(self, values: Iterable[bytes]) -> KeptHeads | None:
        found: KeptHeads | None = None
        for value in values:
            if MARK not in value:
                continue
            try:
                heads = decode(HomeState, value).heads
            except Rejected:
                continue
            if heads is not None and heads.group == self._group:
                found = heads
        return found
