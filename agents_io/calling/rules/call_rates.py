"""Calls, failures and slow calls of a rolling window, counted in buckets. Pure.

In: the end of each call, the time (monotonic seconds, never going back). Out: the sums of the window.

A bucket is a thirtieth of the window and leaves when its oldest call is as old as the window. So each call counts for
at least 29/30 of the window and never longer than it. The number of buckets bounds memory and snapshots.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

BUCKETS = 30


class Totals(NamedTuple):
    """Counts of a window."""

    calls: int
    failures: int
    slow: int


class CallRates:
    """Calls of the last `window_s` seconds.

    >>> rates = CallRates(60.0)
    >>> for now in (0.0, 1.0, 30.0):
    ...     rates.add(now, failed=now > 0, slow=False)
    >>> rates.totals(30.0), rates.totals(60.0), rates.totals(90.0)
    (Totals(calls=3, failures=2, slow=0), Totals(calls=1, failures=1, slow=0), Totals(calls=0, failures=0, slow=0))
    """

    __slots__ = ("_buckets", "_calls", "_failures", "_slow", "_window_s")

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._buckets: deque[list[float]] = deque()  # [time of the first call, calls, failures, slow calls]
        self._calls = self._failures = self._slow = 0

    def add(self, now: float, failed: bool, slow: bool) -> None:
        """A call ended."""
        self._forget(now)
        buckets = self._buckets
        if not buckets or now - buckets[-1][0] >= self._window_s / BUCKETS:
            buckets.append([now, 0, 0, 0])
        newest = buckets[-1]
        newest[1] += 1
        newest[2] += failed
        newest[3] += slow
        self._calls += 1
        self._failures += failed
        self._slow += slow

    def totals(self, now: float) -> Totals:
        self._forget(now)
        return Totals(self._calls, self._failures, self._slow)

    def clear(self) -> None:
        self._buckets.clear()
        self._calls = self._failures = self._slow = 0

    def snapshot(self, now: float) -> list[list[int]]:
        """The buckets as JSON, oldest first: `[age_ms, calls, failures, slow calls]`."""
        self._forget(now)
        return [[max(0, int((now - at) * 1000)), int(c), int(f), int(s)] for at, c, f, s in self._buckets]

    def restore(self, snapshot: Iterable[Sequence[int]], taken_at: float) -> None:
        """Restore from a snapshot. `taken_at`: when it was taken, on this process's monotonic clock."""
        self.clear()
        for age_ms, calls, failures, slow in sorted(snapshot, key=lambda bucket: -bucket[0]):
            self._buckets.append([taken_at - age_ms / 1000, calls, failures, slow])
            self._calls += calls
            self._failures += failures
            self._slow += slow

    def _forget(self, now: float) -> None:
        while self._buckets and self._buckets[0][0] + self._window_s <= now:
            _, calls, failures, slow = self._buckets.popleft()
            self._calls -= int(calls)
            self._failures -= int(failures)
            self._slow -= int(slow)
