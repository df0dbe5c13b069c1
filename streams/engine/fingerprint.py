"""Detects whether the records at some offsets are still those that were read there.

In: records as they come. Out: small fingerprints of the last record of each batch. After a leader election, only these
show whether what was read came from the present log: aiokafka does not report in which epoch a record was written. A
batch comes from one leader, so its last record stands for it.
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
    """The fingerprint of a record."""
    return Fingerprint(record.offset, record.timestamp, crc32(record.value or b"", crc32(record.key or b"")))


class Batches:
    """The batches of one topic partition since its log was last known to be the same. Beyond `MOST` the oldest are
    forgotten.

    `end`: the offset after the last record that came.
    """

    __slots__ = ("_forgotten", "_lasts", "end")

    MOST = 1024

    def __init__(self) -> None:
        self.end = 0
        self._lasts: deque[Fingerprint] = deque()
        self._forgotten = -1

    def came(self, last: ConsumerRecord) -> None:
        """Add a batch; `last`: its last record."""
        self.end = last.offset + 1
        self._lasts.append(fingerprint(last))
        if len(self._lasts) > self.MOST:
            self._forgotten = self._lasts.popleft().offset

    def since(self, cut: int) -> list[Fingerprint] | None:
        """The batches with a record at this offset or after it; None if one of them was forgotten."""
        if self._forgotten >= cut:
            return None
        return [last for last in self._lasts if last.offset >= cut]

    def settle(self, end: int) -> None:
        """Everything read before this offset is in the present log."""
        while self._lasts and self._lasts[0].offset < end:
            self._lasts.popleft()
        self._forgotten = -1
