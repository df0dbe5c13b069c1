"""Which answers are cached, under which key, and for how long. Pure.

In: a task's content; answers with their confidence; `now` in monotonic seconds. Out: an earlier answer, or None.
Bounded in three ways: entries (the least recently used are dropped), bytes, and age. Only confident answers are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from hashlib import sha256
from heapq import heappop, heappush
from typing import Any, Generic, NamedTuple, TypeVar

import orjson

from schemas.exact_json import dumps

V = TypeVar("V")


def cache_key(
    *,
    pattern: str | None,
    input: Any,
    capabilities: Iterable[str],
    target: str | None,
    kind: str = "agent",
    context_id: str | None = None,
) -> str:
    """SHA-256 of the canonical JSON of the task's content and agent: an answer of one agent is not another's.

    >>> a = cache_key(pattern=None, input={"x": 1, "y": 2}, capabilities=["b", "a"], target="t")
    >>> a == cache_key(pattern=None, input={"y": 2, "x": 1}, capabilities=["a", "b"], target="t")
    True
    """
    asked = {"pattern": pattern, "input": input, "capabilities": sorted(capabilities), "target": target}
    if kind != "agent":  # a function may have an agent's name
        asked["type"] = kind
    if context_id is not None:
        asked["context"] = context_id
    return sha256(dumps(asked, orjson.OPT_SORT_KEYS)).hexdigest()


class _Entry(NamedTuple, Generic[V]):
    expires: float
    size: int
    value: V
    slot: int


class ResultCache(Generic[V]):
    """Drops the least recently used entry. Each entry has a slot below `max_entries`, so a copy by slot is bounded
    too.
    """

    def __init__(self, *, ttl_s: float, min_confidence: float, max_entries: int, max_bytes: int) -> None:
        self._ttl_s = ttl_s
        self._min_confidence = min_confidence
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: OrderedDict[str, _Entry[V]] = OrderedDict()
        self._free: list[int] = []
        self._next_slot = 0
        self._bytes = 0

    def __len__(self) -> int:
        """Entries kept, including expired ones that were not asked for since."""
        return len(self._entries)

    @property
    def size(self) -> int:
        """Bytes kept: the sum of the sizes given to `put`."""
        return self._bytes

    def get(self, key: str, now: float) -> V | None:
        """The answer kept under `key`, if it is not too old."""
        entry = self._entries.get(key)
        if entry is None or entry.expires <= now:
            if entry is not None:
                self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry.value

    def put(self, key: str, value: V, size: int, confidence: float, now: float) -> int | None:
        """Keep an answer of `size` bytes if it is confident and fits. Returns its slot, or None."""
        if not confidence >= self._min_confidence or size > self._max_bytes:
            return None
        if key in self._entries:
            self._drop(key)
        while len(self._entries) >= self._max_entries or self._bytes + size > self._max_bytes:
            self._drop(next(iter(self._entries)))
        slot = heappop(self._free) if self._free else self._next_slot
        self._next_slot = max(self._next_slot, slot + 1)
        self._add(key, _Entry(now + self._ttl_s, size, value, slot))
        return slot

    def restore(self, entries: Iterable[tuple[int, str, V, int, float]]) -> None:
        """Load entries `(slot, key, value, size, expires)` of an earlier cache, oldest first. Only into an empty
        cache.
        """
        for slot, key, value, size, expires in entries:
            fits = len(self._entries) < self._max_entries and self._bytes + size <= self._max_bytes
            if fits and slot < self._max_entries and key not in self._entries:
                self._add(key, _Entry(expires, size, value, slot))
        taken = {entry.slot for entry in self._entries.values()}
        self._next_slot = max(taken, default=-1) + 1
        self._free = [slot for slot in range(self._next_slot) if slot not in taken]

    def remove(self, unwanted: Callable[[V], bool]) -> list[int]:
        """Remove the entries for which `unwanted` holds. Returns all free slots: a copy of an entry that was dropped
        before, to make room, may still be in one.
        """
        for key in [key for key, entry in self._entries.items() if unwanted(entry.value)]:
            self._drop(key)
        return list(self._free)

    def _add(self, key: str, entry: _Entry[V]) -> None:
        self._entries[key] = entry
        self._bytes += entry.size

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key)
        self._bytes -= entry.size
        heappush(self._free, entry.slot)
