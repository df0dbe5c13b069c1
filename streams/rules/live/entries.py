"""How an event is shown to watchers, and how many are kept. Pure.

In: a record's bytes. Out: an `Entry` with short JSON on one line; or None if it is not an event. `EntryBuffer` bounds a
queue of entries by number and bytes and drops the oldest; `merged` puts partitions into one order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import merge
from typing import Any

from schemas.codec import pack
from schemas.exact_json import dumps, loads

FIELD_BYTES = 2048
"""A `data.result` or `data.value` beyond this is replaced by its size."""
EVENT_BYTES = 16 * 1024
"""Beyond this size, any field of `data` is replaced."""
ANSWERS = ("result", "value")


@dataclass(slots=True, frozen=True)
class Entry:
    """One event. `json`: as it is sent, shared by all watchers; `at_ms`: when it was written; `execution_ms`: if it has
    one.
    """

    kind: str
    partition: int
    offset: int
    at_ms: int
    json: bytes
    execution_ms: float | None = None


def entry(value: bytes | None, partition: int, offset: int, at_ms: int) -> Entry | None:
    """The event in a record, or None.

    >>> entry(b'{"id":"a","type":"agent:healthy","timestamp":"T","data":{}}', 0, 7, 1).kind
    'agent:healthy'
    >>> entry(b'[1]', 0, 8, 1) is None
    True
    """
    if value is None:
        return None
    try:
        event = loads(value)
    except ValueError:
        return None
    if not isinstance(event, dict):
        return None
    kind, data = event.get("type"), event.get("data")
    if not isinstance(kind, str) or not isinstance(data, dict):
        return None
    if len(value) > FIELD_BYTES:
        value = pack(shortened(event))
    elif b"\n" in value or b"\r" in value:
        value = pack(event)  # it must fit on one line
    took = data.get("executionTime") if kind == "task:completed" else None
    return Entry(kind, partition, offset, at_ms, value, float(took) if isinstance(took, int | float) else None)


def shortened(event: dict[str, Any]) -> dict[str, Any]:
    """The event with long members replaced by their sizes.

    >>> shortened({"type": "x", "data": {"taskId": "t", "result": "a" * 3000}})["data"]
    {'taskId': 't', 'result': {'truncated': 3002}}
    """
    data = event["data"]
    sizes = {name: len(dumps(value)) for name, value in data.items()}
    whole = sum(sizes.values()) - sum(sizes.get(name, 0) for name in ANSWERS if sizes.get(name, 0) > FIELD_BYTES)
    long = {name for name, size in sizes.items() if size > FIELD_BYTES and (name in ANSWERS or whole > EVENT_BYTES)}
    data = {name: {"truncated": sizes[name]} if name in long else value for name, value in data.items()}
    short = event | {"data": data}
    if len(dumps(short)) > 2 * EVENT_BYTES:  # many fields, or long ones beside `data`
        known = {name: event[name] for name in ("id", "timestamp") if len(str(event.get(name))) <= FIELD_BYTES}
        short = known | {"type": event["type"][:FIELD_BYTES], "data": {"truncated": sum(sizes.values())}}
    return short


class EntryBuffer:
    """The newest entries, `most` and `most_bytes` at most."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self.entries: deque[Entry] = deque()
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, new: Entry) -> list[Entry]:
        """Add an entry; returns what was dropped for it (possibly the entry itself)."""
        self.entries.append(new)
        self._bytes += len(new.json)
        gone: list[Entry] = []
        while len(self.entries) > self._most or self._bytes > self._most_bytes:
            gone.append(self.pop())
        return gone

    def pop(self) -> Entry:
        oldest = self.entries.popleft()
        self._bytes -= len(oldest.json)
        return oldest


def merged(partitions: Iterable[Iterable[Entry]]) -> list[Entry]:
    """All entries by time of writing; those of one partition keep their order, whatever their timestamps.

    >>> a, b, c = (Entry("x", p, o, ms, b"") for p, o, ms in ((0, 1, 50), (0, 2, 10), (1, 1, 20)))
    >>> [(e.partition, e.offset) for e in merged([[a, b], [c]])]
    [(1, 1), (0, 1), (0, 2)]
    """

    def risen(entries: Iterable[Entry]) -> Iterable[tuple[int, Entry]]:
        highest = 0
        for one in entries:
            highest = max(highest, one.at_ms)
            yield highest, one

    return [one for _, one in merge(*map(risen, partitions), key=lambda pair: pair[0])]
