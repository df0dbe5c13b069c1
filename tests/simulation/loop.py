"""An asyncio event loop whose time and steps belong to the simulation.

In: a clock, and calls of `step`. Out: the callbacks that are due, run in the order asyncio would run them. The loop never waits:
a node whose loop is not stepped is frozen, one whose loop is never stepped again is dead.
"""

from __future__ import annotations

import asyncio
import heapq
import selectors
import threading
from asyncio import events
from collections.abc import Callable
from typing import Any


class _NoSelector(selectors.SelectSelector):
    def select(self, timeout: float | None = None) -> list[Any]:
        return []


class NodeLoop(asyncio.SelectorEventLoop):
    """The loop of one node. `clock`: simulated seconds; `offset`: what this node's monotonic clock adds to them."""

    def __init__(self, clock: Callable[[], float], offset: float, on_error: Callable[[dict[str, Any]], None]) -> None:
        self._clock = clock
        self._offset = offset
        super().__init__(_NoSelector())
        self.set_exception_handler(lambda _loop, context: on_error(context))

    def time(self) -> float:
        """The node's monotonic time, seconds."""
        return self._clock() + self._offset

    def step(self) -> None:
        """Run what is due now, once. Nothing here waits for the operating system."""
        self._thread_id = threading.get_ident()
        events._set_running_loop(self)
        try:
            self._run_once()  # type: ignore[attr-defined]
        finally:
            events._set_running_loop(None)
            self._thread_id = None  # type: ignore[assignment]

    def due(self) -> float:
        """The simulated time at which this loop has work; infinity if it has none."""
        if self._ready:  # type: ignore[attr-defined]
            return self._clock()
        scheduled = self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._cancelled:
            self._timer_cancelled_count -= 1  # type: ignore[attr-defined]
            heapq.heappop(scheduled)._scheduled = False
        return scheduled[0]._when - self._offset if scheduled else float("inf")
