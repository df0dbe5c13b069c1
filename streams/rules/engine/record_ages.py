"""The age of each topic partition's oldest unfinished record, with as few reads from the brokers as possible. Pure.

In: at each check the offset of that record and the log's end; the record's timestamp, if `look` asks for it. Out: since
when it has been waiting. A record behind the log's end of the last check is younger than that check, so it is not read.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Generic, NamedTuple, TypeVar

Key = TypeVar("Key", bound=Hashable)


class _Oldest(NamedTuple):
    offset: int
    since_ms: int
    read: bool
    """Whether `since_ms` is the record's timestamp, or only an estimate."""


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
        """Whether the record at `offset`, the oldest unfinished one, must be read. None: all are finished.

        Three cases: 1 it was the oldest at the last check too; 2 it came since the last check; 3 it was there before.
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
        """The timestamp of that record. None: it is unreadable, and not asked for again."""
        known = self._oldest.get(key)
        if known is not None and known.offset == offset:
            since_ms = known.since_ms if timestamp_ms is None or timestamp_ms <= 0 else timestamp_ms
            self._oldest[key] = known._replace(since_ms=since_ms, read=True)

    def age_ms(self, key: Key, now_ms: int) -> int:
        """The age of the oldest unfinished record at the last check; 0 without one."""
        known = self._oldest.get(key)
        return 0 if known is None else max(0, now_ms - known.since_ms)

    def keep(self, keys: Collection[Key]) -> None:
        """Forget the others."""
        self._oldest = {key: known for key, known in self._oldest.items() if key in keys}
        self._last = {key: last for key, last in self._last.items() if key in keys}
