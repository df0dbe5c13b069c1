"""Recent durations of an agent's calls: a smoothed mean, and the 95th percentile. Pure.

In: the duration of each answered call, seconds. Out: seconds, or None before enough is known. The newest 128 durations
are kept; the 95th percentile needs 20.
"""

from __future__ import annotations

from collections import deque

KEPT = 128
ENOUGH = 20
WEIGHT = 0.2
"""Weight of the newest value in a smoothed mean."""
_STALE = 16


class Smoothed:
    """An exponentially smoothed mean: each new value weighs a fifth.

    >>> mean = Smoothed()
    >>> mean.value, [mean.add(x) for x in (1.0, 2.0)], round(mean.value, 3)
    (None, [None, None], 1.2)
    """

    __slots__ = ("value",)

    def __init__(self, value: float | None = None) -> None:
        self.value = value

    def add(self, value: float) -> None:
        self.value = value if self.value is None else self.value + WEIGHT * (value - self.value)


class Latency:
    """The durations of one agent's answered calls.

    >>> latency = Latency()
    >>> for n in range(1, 101):
    ...     latency.add(n / 100)
    >>> latency.p95_s(), Latency().p95_s()
    (0.95, None)
    """

    __slots__ = ("_durations", "_p95", "_since", "mean")

    def __init__(self) -> None:
        self.mean = Smoothed()
        self._durations: deque[float] = deque(maxlen=KEPT)
        self._p95: float | None = None
        self._since = 0

    def add(self, seconds: float) -> None:
        """Add the duration of an answered call, seconds."""
        self.mean.add(seconds)
        self._durations.append(seconds)
        self._since += 1

    def p95_s(self) -> float | None:
        """The 95th percentile (nearest rank), computed at most 15 calls ago; None with fewer than 20 answers."""
        if len(self._durations) < ENOUGH:
            return None
        if self._p95 is None or self._since >= _STALE:
            ordered = sorted(self._durations)
            self._p95 = ordered[-(-95 * len(ordered) // 100) - 1]
            self._since = 0
        return self._p95
