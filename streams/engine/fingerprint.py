"""Tells whether the record at an offset is the one that was read there.

In: a record. Out: its fingerprint, a few numbers. After another leader was elected, only this tells whether what was read came
from the log that is there now: aiokafka does not say in which epoch a record was written.
"""

from __future__ import annotations

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
