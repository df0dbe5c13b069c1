"""An exact sliding-window limit for one agent: at most N calls begun in any window of W seconds. Pure.

In: the time (monotonic seconds, never going back). Out: whether a call may begin, and when the next one may.

The agent counts calls when they arrive, which may be later than they began here (a busy machine, a new connection). So
a call counts from its answer, or from `late_s` after its begin if the answer comes later or never: by then it has
arrived.

The log has one entry per call up to 4,096 calls. A larger limit shares an entry between calls that began within 1/4096
of a window, dated by the last of them. So memory is bounded, the limit is never exceeded, and a slot comes back at most
that fraction of a window late. The limiter never waits and never gives a slot back: a call that began counts.

A second, coarser log is kept for snapshots, which are taken with every commit and must be small and quick.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

MAX_ENTRIES = 4096
SNAPSHOT_ENTRIES = 128


class SlidingWindow:
    """The limit of one agent. Windows are half open: a call begun at `t` no longer counts at `t + window_s`.

    >>> limit = SlidingWindow(2, 60.0)
    >>> limit.try_acquire(0.0), limit.try_acquire(1.0), limit.try_acquire(2.0), limit.available_at(2.0)
    (True, True, False, 60.0)
    """

    __slots__ = (
        "_coarse",
        "_coarse_first",
        "_counts",
        "_first",
        "_grain_s",
        "_lasts",
        "_late_s",
        "_max",
        "_open",
        "_paused_until",
        "_used",
        "_window_s",
    )

    def __init__(self, max_requests: int, window_s: float, late_s: float = 0.0) -> None:
        self._open: deque[float] = deque()  # begin times of calls that do not count from a known time yet
        self._late_s = late_s
        self._lasts: deque[float] = deque()
        self._counts: deque[int] = deque()
        self._coarse: deque[list[float]] = deque()  # [time of the last call, calls]
        self._coarse_first = 0.0
        self._first = 0.0
        self._used = 0
        self._paused_until = float("-inf")
        self.reconfigure(max_requests, window_s)

    @property
    def max_requests(self) -> int:
        return self._max

    @property
    def window_s(self) -> float:
        """Length of the window, seconds."""
        return self._window_s

    @property
    def paused_until(self) -> float:
        """No call begins before this time; -inf when never paused."""
        return self._paused_until

    def reconfigure(self, max_requests: int, window_s: float) -> None:
        """Takes effect at once, for the calls in the log too. Raises ValueError."""
        if max_requests < 1 or not window_s > 0:
            raise ValueError("max_requests must be at least 1 and window_s above 0")
        self._max = max_requests
        self._window_s = window_s
        self._grain_s = 0.0 if max_requests <= MAX_ENTRIES else window_s / MAX_ENTRIES

    def try_acquire(self, now: float) -> bool:
        """True: the call may begin, and counts until one window after it arrived. Else False."""
        if now < self._paused_until or self.used(now) >= self._max:
            return False
        self._used += 1
        if self._late_s > 0:
            self._open.append(now)
        else:
            self._log(now)
        return True

    def settle(self, began: float, now: float) -> None:
        """The call that began then was answered. Without this it counts from `late_s` after its begin."""
        if self._late_s <= 0 or began + self._late_s <= now:
            return
        self.used(now)
        try:
            self._open.remove(began)
        except ValueError:  # a call from before the window was restored
            return
        self._log(now)

    def _log(self, at: float) -> None:
        if self._grain_s and self._lasts and at - self._first < self._grain_s:
            self._lasts[-1] = at
            self._counts[-1] += 1
        else:
            self._first = at
            self._lasts.append(at)
            self._counts.append(1)
        self._note(at)

    def _note(self, now: float) -> None:
        coarse = self._coarse
        if coarse and now - self._coarse_first < self._window_s / SNAPSHOT_ENTRIES:
            coarse[-1][0] = now
            coarse[-1][1] += 1
            return
        self._coarse_first = now
        coarse.append([now, 1])
        while coarse[0][0] + self._window_s <= now or len(coarse) > SNAPSHOT_ENTRIES:
            last, count = coarse.popleft()
            if last + self._window_s > now:  # a window made shorter meanwhile: two entries become one, the later
                coarse[0][1] += count

    def available_at(self, now: float) -> float:
        """The earliest time at which a call may begin; `now` if one may begin now."""
        if self.used(now) < self._max:
            return now if now >= self._paused_until else self._paused_until
        to_free = self._used - self._max + 1
        for last, count in zip(self._lasts, self._counts, strict=True):
            to_free -= count
            if to_free <= 0:
                return max(last + self._window_s, self._paused_until)
        for began in self._open:
            to_free -= 1
            if to_free <= 0:
                return max(began + self._late_s + self._window_s, self._paused_until)
        raise AssertionError("the log holds as many calls as are used")

    def used(self, now: float) -> int:
        """Calls that count within the window that ends now."""
        begun, lasts = self._open, self._lasts
        while begun and begun[0] + self._late_s <= now:
            self._log(begun.popleft() + self._late_s)
        while lasts and lasts[0] + self._window_s <= now:
            lasts.popleft()
            self._used -= self._counts.popleft()
        return self._used

    def pause_until(self, time: float) -> None:
        """The agent asked for a pause (Retry-After). The longest pause holds; the caller bounds it."""
        if time > self._paused_until:
            self._paused_until = time

    def snapshot(self, now: float) -> dict[str, Any]:
        """The log as JSON, at most 129 entries `[age_ms, calls]`, each as young as its youngest call."""
        self.used(now)
        log = [
            [max(0, int((now - last) * 1000)), int(count)]
            for last, count in (
                zip(self._lasts, self._counts, strict=True) if len(self._lasts) <= SNAPSHOT_ENTRIES else self._coarse
            )
            if last + self._window_s > now
        ]
        if self._open:
            log.append([0, len(self._open)])
        kept: dict[str, Any] = {"log": log}
        if self._paused_until > now:
            kept["pausedFor"] = int((self._paused_until - now) * 1000) + 1
        return kept

    @classmethod
    def restore(
        cls, max_requests: int, window_s: float, snapshot: Mapping[str, Any], taken_at: float, late_s: float = 0.0
    ) -> SlidingWindow:
        """The limit a snapshot describes. `taken_at`: when it was taken, on this process's monotonic clock."""
        window = cls(max_requests, window_s, late_s)
        log = sorted(((taken_at - age / 1000, count) for age, count in snapshot.get("log", ())), key=lambda e: e[0])
        for last, count in log:
            window._lasts.append(last)
            window._counts.append(int(count))
            window._used += int(count)
            window._coarse.append([last, int(count)])
        if paused_ms := snapshot.get("pausedFor"):
            window._paused_until = taken_at + paused_ms / 1000
        window._first = window._coarse_first = window._lasts[-1] if window._lasts else 0.0
        return window
