"""One timer for all deadlines of a partition's plans.

In: a plan's next deadline, epoch ms, whenever it may have moved. Out: `ring(name, now_ms)` when it is due, which
returns the next one or None. An error of `ring` is logged and costs only that plan its deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heapify, heappop, heappush

import structlog

log = structlog.get_logger(__name__)

MAX_SLEEP_S = 3600.0
"""The wall clock may be set, so it is checked again after this time."""
SPARE = 1000


class PlanClock:
    """Deadlines by name. The earliest one set holds until it has rung."""

    def __init__(self, wall_ms: Callable[[], int], ring: Callable[[str, int], int | None]) -> None:
        self._wall_ms = wall_ms
        self._ring_one = ring
        self._loop = asyncio.get_running_loop()
        self._due: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def set(self, name: str, due_ms: int) -> None:
        """Ring for this plan at that time, unless it rings earlier anyway."""
        known = self._due.get(name)
        if self._stopped or (known is not None and known <= due_ms):
            return
        self._due[name] = due_ms
        heappush(self._heap, (due_ms, name))
        if len(self._heap) > 2 * len(self._due) + SPARE:
            self._heap = [(due, other) for other, due in self._due.items()]
            heapify(self._heap)
        if self._heap[0] == (due_ms, name):
            self._wind()

    def forget(self, name: str) -> None:
        """Remove the plan's deadline."""
        self._due.pop(name, None)

    def stop(self) -> None:
        """Ring no more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wind(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heap and not self._stopped:
            wait_s = max(0.0, (self._heap[0][0] - self._wall_ms()) / 1000)
            self._timer = self._loop.call_later(min(wait_s, MAX_SLEEP_S), self._ring)

    def _ring(self) -> None:
        now_ms = self._wall_ms()
        while self._heap and self._heap[0][0] <= now_ms:
            due_ms, name = heappop(self._heap)
            if self._due.get(name) != due_ms:
                continue  # the plan has ended, or its deadline has rung already
            del self._due[name]
            try:
                following = self._ring_one(name, now_ms)
            except Exception:  # after any error, the other plans must end in time
                log.exception("unexpected error while ending a plan at its deadline", plan_id=name)
                continue
            if following is not None:
                self.set(name, following)
        self._wind()
