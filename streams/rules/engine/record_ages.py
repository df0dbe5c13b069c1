"""How old the oldest unfinished record of each topic partition is, read from the brokers as seldom as possible. Pure.

In: at each look the offset of that record and the log's end; the record's timestamp, where `look` asks for it. Out: since when it
has been waiting. A record that lies behind the log's end of the last look is younger than that look: such a one is not read.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Generic, NamedTuple, TypeVar

Key = TypeVar("Key", bound=Hashable)


class _Oldest(NamedTuple):
    offset: int
    since_ms: int
    read: bool
    """Whether `since_ms` is the record's timestamp, or the best there is."""


class RecordAges(Generic[Key]):
    """Times in epoch ms.

    >>> ages = RecordAges[str]()
    >>> ages.look("tasks/0", 7, 10, now_ms=5000)
    True
    >>> ages.read("tasks/0", 7, 1000); ages.age_ms("tasks/0", now_ms=6000)
    5000
    >>> ages.look("tasks/0", 7, 11, now_ms=15_000), ages.look("tasks/0", 12, 13, now_ms=25_000)
    (False, False)
    >>> ages.age_ms("tasks/0", now_ms=25_000)
    10000
    """

    def __init__(self) -> None:
        self.retention_ms: dict[str, int] = {}
        """Topic (full name) -> how long it keeps records; topics that keep them forever are left out."""
        self._oldest: dict[Key, _Oldest] = {}
        self._last: dict[Key, tuple[int, int]] = {}

    def look(self, key: Key, offset: int | None, end: int, now_ms: int) -> bool:
        """Whether the record at `offset`, the oldest that is not finished, must be read. None: all are finished.

        Three cases: 1 it was the oldest at the last look too; 2 it came since the last look; 3 it was there before.
        """
        known, last = self._oldest.get(key), self._last.get(key)
        self._last[key] = end, now_ms
        if offset is None:
            self._oldest.pop(key, None)
            return False
        if known is not None and known.offset == offset:  # 1
            return not known.read
        if last is not None and offset >= last[0]:  # 2
            self._oldest[key] = _Oldest(offset, last[1], read=False)
            return False
        self._oldest[key] = _Oldest(offset, now_ms if known is None else known.since_ms, read=False)  # 3
        return True

    def read(self, key: Key, offset: int, timestamp_ms: int | None) -> None:
        """The timestamp of that record. None: it cannot be read, and is not asked for again."""
        known = self._oldest.get(key)
        if known is not None and known.offset == offset:
            since_ms = known.since_ms if timestamp_ms is None or timestamp_ms <= 0 else timestamp_ms
            self._oldest[key] = known._replace(since_ms=since_ms, read=True)

    def age_ms(self, key: Key, now_ms: int) -> int:
        """Of the oldest unfinished record at the last look; 0 if there was none."""
        known = self._oldest.get(key)
        return 0 if known is None else max(0, now_ms - known.since_ms)

    def keep(self, keys: Collection[Key]) -> None:
        """Forget the others."""
        self._oldest = {key: known for key, known in self._oldest.items() if key in keys}
        self._last = {key: last for key, last in self._last.items() if key in keys}
