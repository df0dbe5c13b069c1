"""Tells whether the records at some offsets are those that were read there.

In: records as they come. Out: fingerprints, a few numbers each, of the last one of each batch. After another leader was elected,
only these tell whether what was read came from the log that is there now: aiokafka does not say in which epoch a record was
written. A batch comes from one leader, so its last record stands for it.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple
from zlib import crc32

from aiokafka.structs import ConsumerRecord


class Fingerprint(NamedTuple):
    """`timestamp`: epoch ms; `content`: a checksum of key and value."""

    offset: int
    timestamp: int
    content: int


def fingerprint(record: ConsumerRecord) -> Fingerprint:
    """Of a record as it was read."""
    return Fingerprint(record.offset, record.timestamp, crc32(record.value or b"", crc32(record.key or b"")))


class Batches:
    """Those of one topic partition that came since its log was last known to be the same. Beyond `MOST` the oldest are forgotten.

    `end`: the offset behind the last record that came.
    """

    __slots__ = ("_forgotten", "_lasts", "end")

    MOST = 1024

    def __init__(self) -> None:
        self.end = 0
        self._lasts: deque[Fingerprint] = deque()
        self._forgotten = -1

    def came(self, last: ConsumerRecord) -> None:
        """Another batch; `last`: its last record."""
        self.end = last.offset + 1
        self._lasts.append(fingerprint(last))
        if len(self._lasts) > self.MOST:
            self._forgotten = self._lasts.popleft().offset

    def since(self, cut: int) -> list[Fingerprint] | None:
        """The batches with a record at this offset or behind it; None if one of them was forgotten."""
        if self._forgotten >= cut:
            return None
        return [last for last in self._lasts if last.offset >= cut]

    def settle(self, end: int) -> None:
        """Everything that was read before this offset lies in the log that is there now."""
        while self._lasts and self._lasts[0].offset < end:
            self._lasts.popleft()
        self._forgotten = -1
