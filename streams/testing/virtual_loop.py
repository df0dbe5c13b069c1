"""An asyncio event loop whose time passes only while nothing else can happen.

In: the loop of a test. Out: waits of any length that end at once, in the order of their times, and durations that do
not depend on the machine. For tests without threads, processes and remote servers: work of the operating system takes
no virtual time here, so a wait for it may end before it is done.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any


class _Selector(selectors.DefaultSelector):
    """Never waits: passes a wait of `timeout` seconds to `waited`."""

    def __init__(self, waited: Callable[[float], None]) -> None:
        super().__init__()
        self._waited = waited

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready and timeout is None:
            # No timer is set: only the operating system can wake this loop.
            return super().select(None)
        if not ready and timeout is not None and timeout > 0:
            self._waited(timeout)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """`time()` begins at 1,000 s and moves only by waits."""

    def __init__(self) -> None:
        self._now = 1000.0
        super().__init__(_Selector(self._wait))

    def _wait(self, seconds: float) -> None:
        self._now += seconds

    def time(self) -> float:
        """Virtual seconds."""
        return self._now
