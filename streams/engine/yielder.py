"""Cuts long work on the event loop into slices of time: other tasks wait for one slice, not for the whole work.

In: calls between small pieces of work. Out: a turn of the loop whenever a slice is used up; otherwise a call costs 0.2
us.
"""

from __future__ import annotations

import asyncio

SLICE_S = 0.002


class Yielder:
    """`await checkpoint()` after every piece; a piece itself is not interrupted."""

    def __init__(self, slice_s: float = SLICE_S) -> None:
        self._slice_s = slice_s
        self._until: float | None = None

    async def __call__(self) -> None:
        """Give the loop a turn if the slice is used up."""
        time = asyncio.get_running_loop().time
        if self._until is None:
            self._until = time() + self._slice_s
        if time() >= self._until:
            await asyncio.sleep(0)
            self._until = time() + self._slice_s
