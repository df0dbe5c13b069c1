"""Kafka's default partitioner (murmur2), compatible with Java clients and aiokafka. Pure.

An agent's *owner partition* is `partition_for(agent_id, n)`: one partition, hence one owner.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct

_M = 0x5BD1E995
_MASK = 0xFFFFFFFF
_SEED = 0x9747B28C
_WORDS = [Struct(f"<{n}I") for n in range(65)]


def murmur2(data: bytes) -> int:
    """The 32-bit murmur2 hash of `data`, unsigned.

    >>> murmur2(b"agent-1")
    1915575295
    """
    length = len(data)
    h = _SEED ^ length
    words = length >> 2
    unpacker = _WORDS[words] if words <= 64 else Struct(f"<{words}I")
    for k in unpacker.unpack_from(data):
        k = (k * _M) & _MASK
        k ^= k >> 24
        h = ((h * _M) & _MASK) ^ ((k * _M) & _MASK)
    tail = data[words << 2 :]
    if tail:
        h = ((h ^ int.from_bytes(tail, "little")) * _M) & _MASK
    h ^= h >> 13
    h = (h * _M) & _MASK
    return h ^ (h >> 15)


def partition_for(key: bytes, partitions: int) -> int:
    """The partition of `key` among `partitions`, as Kafka's default partitioner chooses it."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


@lru_cache(maxsize=16_384)
def owner_partition(agent_id: str, partitions: int) -> int:
    """The partition that owns `agent_id`: its breaker, limits, cache and order live there."""
    return partition_for(agent_id.encode(), partitions)
