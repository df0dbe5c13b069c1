"""Recently answered task ids: a task sent twice is answered once. Pure.

In: ids as digests, with the wall clock in ms. Out: whether an id was added before; and, for the state topic, what was
added since, as chunks in a ring of slots. Bounded by number and by age: the oldest are dropped first, a quarter at a
time. An id takes ten bytes in memory and on the topic: at 2 million ids, two share a digest with a probability of 2e-18
a task.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple

from schemas.messages import SeenTasks
from schemas.times import format_time

DIGEST_BYTES = 10
CHUNK_IDS = 64
"""A chunk with fewer ids is written again with those that follow, so that slow traffic does not use up the ring."""
GENERATIONS = 4
"""Ids of a quarter of the window are forgotten together, and have their own chunks: the next owner dates each by the
time of its chunk. So an id is remembered for the window, and at most half of it longer.
"""
BUCKETS = 1024
_REST = DIGEST_BYTES - 1


def digest(scope: str, task_id: str) -> bytes:
    """The digest of a task id. `scope`: the task's agent; empty: any agent.

    >>> len(digest("a1", "t1")), digest("a1", "t1") == digest("a2", "t1")
    (10, False)
    """
    return blake2b(f"{scope}\0{task_id}".encode(), digest_size=DIGEST_BYTES).digest()


class Chunk(NamedTuple):
    """Digests, joined, in the order they were added. `sequence` grows by one with each full chunk.

    `slot`: where it is written, in place of an older one; `since_ms`: when its first id was added. None: a row of before
    they were written.
    """

    sequence: int
    digests: bytes
    slot: int | None = None
    since_ms: int | None = None

    @classmethod
    def of(cls, row: SeenTasks) -> Chunk:
        """The chunk in a row of the state topic. Raises `binascii.Error`."""
        return cls(row.sequence, b64decode(row.digests, validate=True), row.slot, row.since)

    def row(self) -> dict[str, object]:
        """The content of its row."""
        since, digests = format_time(self.since_ms or 0), b64encode(self.digests).decode()
        return {"sequence": self.sequence, "digests": digests, "slot": self.slot, "since": since}


def _bucket(digest: bytes) -> int:
    return digest[0] << 2 | digest[1] >> 6


class _Generation:
    """Digests that expire together, grouped by their first ten bits: a look-up scans a few hundred bytes."""

    __slots__ = ("buckets", "count", "first_ms", "last_ms")

    def __init__(self, now_ms: int) -> None:
        self.first_ms = self.last_ms = now_ms
        self.count = 0
        self.buckets = [bytearray() for _ in range(BUCKETS)]

    def has(self, digest: bytes) -> bool:
        bucket, rest = self.buckets[_bucket(digest)], digest[1:]
        at = bucket.find(rest)
        while at % _REST and at >= 0:  # a match across two neighbouring digests
            at = bucket.find(rest, at + 1)
        return at >= 0


class DedupWindow:
    """The ids of one partition.

    >>> window = DedupWindow(window_ms=60_000, max_ids=1000)
    >>> window.add(digest("a1", "t1"), 0); window.has(digest("a1", "t1")), window.has(digest("a1", "t2"))
    (True, False)
    >>> window.has(digest("a1", "t1"), 60_000)
    False
    """

    __slots__ = (
        "_fresh",
        "_generations",
        "_max",
        "_parts",
        "_sequence",
        "_slot",
        "_tail",
        "_tail_ms",
        "_window_ms",
        "count",
    )

    def __init__(self, window_ms: int, max_ids: int, parts: int = GENERATIONS) -> None:
        """At least `max_ids` are remembered, each for at least `window_ms`; a little more of both.

        `parts`: how finely they age: an id is forgotten within `window_ms * (1 + 2 / parts)`.
        """
        self._window_ms = window_ms
        self._parts = parts
        self._max = max_ids
        self._generations: deque[_Generation] = deque()
        self._fresh: list[bytes] = []
        self._tail = b""
        self._tail_ms = 0
        self._sequence = 0
        self._slot = 0
        self.count = 0

    @property
    def slots(self) -> int:
        """How many chunks there are at most; the next one replaces the oldest."""
        # In slow traffic each part of the window ends with a small chunk.
        return self._max // CHUNK_IDS + self._parts + 3

    def has(self, digest: bytes, now_ms: int | None = None) -> bool:
        """Whether the id was added and is not forgotten. `now_ms`: its time has not passed either; without it the
        newest stay known.
        """
        return any(
            generation.has(digest)
            for generation in self._generations
            if now_ms is None or now_ms < generation.last_ms + self._window_ms
        )

    def add(self, digest: bytes, now_ms: int) -> None:
        """Add an id, also to the next `flush`."""
        if not self._fresh:
            if self._tail and (now_ms - self._tail_ms) * self._parts >= self._window_ms:
                self._next_chunk()  # a chunk is as old as its newest id: old ids must not get its younger age
            if not self._tail:
                self._tail_ms = now_ms
        self._fresh.append(digest)
        self._keep(digest, now_ms)

    def flush(self) -> Chunk | None:
        """The chunk to write, with everything added since the last one; None if nothing was."""
        if not self._fresh:
            return None
        chunk = Chunk(self._sequence, self._tail + b"".join(self._fresh), self._slot, self._tail_ms)
        self._fresh.clear()
        self._tail = chunk.digests
        if len(self._tail) >= CHUNK_IDS * DIGEST_BYTES:
            self._next_chunk()
        return chunk

    def restore(self, chunks: Iterable[tuple[Chunk, int]]) -> None:
        """Load what an earlier owner wrote: chunks with the time of writing, in any order. Only into an empty
        window.
        """
        ordered = sorted(chunks, key=lambda row: (row[0].sequence, row[1]))
        for chunk, at_ms in ordered:
            for at in range(0, len(chunk.digests), DIGEST_BYTES):
                self._keep(chunk.digests[at : at + DIGEST_BYTES], at_ms)
        if ordered:
            # Not the slot that follows from the sequence: the ring may have had another size, and the slot after the newest
            # chunk holds the oldest one.
            self._sequence, self._tail, slot, since_ms = ordered[-1][0]
            self._slot = self._sequence % self.slots if slot is None else slot
            self._tail_ms = since_ms or 0
            # A small chunk goes on: if each move began another one, moves would use up the ring.
            if since_ms is None or len(self._tail) >= CHUNK_IDS * DIGEST_BYTES:
                self._next_chunk()

    def _next_chunk(self) -> None:
        self._sequence += 1
        self._slot = self._slot + 1 if self._slot + 1 < self.slots else 0
        self._tail = b""

    def _keep(self, digest: bytes, now_ms: int) -> None:
        generations = self._generations
        newest = generations[-1] if generations else None
        if (
            newest is None
            or newest.count * self._parts >= self._max
            or (now_ms - newest.first_ms) * self._parts >= self._window_ms
        ):
            newest = _Generation(now_ms)
            generations.append(newest)
            self._forget(now_ms)
        newest.buckets[_bucket(digest)] += digest[1:]
        newest.count += 1
        newest.last_ms = now_ms
        self.count += 1

    def _forget(self, now_ms: int) -> None:
        generations = self._generations
        while len(generations) > 1 and (
            generations[0].last_ms + self._window_ms <= now_ms or self.count - generations[0].count >= self._max
        ):
            self.count -= generations.popleft().count
