"""The retry budget of one agent: second calls are at most a share of first calls, plus a few that are always allowed.
Pure.

In: each first call, each request for a retry, the time (monotonic seconds, never going back). Out: yes or no.

An agent in trouble fails many calls at once. Without a budget each comes back, and the load doubles when it hurts most.
Retries and hedged calls draw on the same budget. Calls are counted in buckets of a tenth of the window: first calls for
at most the window, second ones for at least the window. So the share is never exceeded in any window that ends with a
retry.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

_BUCKETS = 10


@dataclass(frozen=True, slots=True)
class BudgetConfig:
    """Second calls within `window_s` seconds: at most `share` of the first calls, plus `floor`. Raises ValueError."""

    share: float = 0.2
    floor: int = 10
    window_s: float = 10.0

    def __post_init__(self) -> None:
        if not self.share >= 0 or self.floor < 0 or not self.window_s > 0:
            raise ValueError("share and floor must be at least 0 and window_s above 0")


class RetryBudget:
    """The budget of one agent.

    >>> budget = RetryBudget(BudgetConfig(share=0.5, floor=1))
    >>> for _ in range(2):
    ...     budget.first(0.0)
    >>> [budget.spend(0.0) for _ in range(3)], budget.spend(30.0)
    ([True, True, False], True)
    """

    __slots__ = ("_buckets", "_config")

    def __init__(self, config: BudgetConfig | None = None) -> None:
        self._config = config or BudgetConfig()
        self._buckets: deque[list[float]] = deque()  # [begin, first calls, second calls]

    def first(self, now: float) -> None:
        """Count a first call."""
        self._bucket(now)[1] += 1

    def allows(self, now: float) -> bool:
        """Whether a second call may be made."""
        return self._second(now) < int(self._config.share * self._firsts(now)) + self._config.floor

    def spend(self, now: float) -> bool:
        """Whether a second call may be made; counts it if so."""
        if not self.allows(now):
            return False
        self._bucket(now)[2] += 1
        return True

    def _firsts(self, now: float) -> int:
        since = now - self._config.window_s
        return int(sum(bucket[1] for bucket in self._buckets if bucket[0] > since))

    def _second(self, now: float) -> int:
        self._forget(now)
        return int(sum(bucket[2] for bucket in self._buckets))

    def _bucket(self, now: float) -> list[float]:
        width = self._config.window_s / _BUCKETS
        begin = now // width * width
        if not self._buckets or self._buckets[-1][0] < begin:
            self._forget(now)
            self._buckets.append([begin, 0, 0])
        return self._buckets[-1]

    def _forget(self, now: float) -> None:
        # A bucket counts as long as any of its time is within the window.
        oldest = now - self._config.window_s - self._config.window_s / _BUCKETS
        while self._buckets and self._buckets[0][0] <= oldest:
            self._buckets.popleft()
