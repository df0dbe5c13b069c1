"""Parked tasks of one home, read back and held until they are due; a timer, not the pace of polling, brings them out.

In: records of the `parked` topic with their due time. Out: each once, at its time. Bounded by number and bytes: while it is full
the rest stays on the topic. What it holds is in the ledger as in flight, so a crash costs nothing but reading it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from streams.rules.parking import Parked
from streams.rules.records import Letter


class ParkingLot:
    """Holds letters until they are due, then hands each to `out`; `made_room` is told afterwards."""

    def __init__(self, out: Callable[[Letter], None], made_room: Callable[[], None]) -> None:
        self._out = out
        self._made_room = made_room
        self._parked: Parked[Letter] = Parked()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._parked)

    @property
    def room(self) -> bool:
        """Whether another may be held."""
        return self._parked.room

    def hold(self, letter: Letter, wait_s: float) -> None:
        """Keep it for `wait_s` seconds."""
        self._parked.hold(letter, due=self._loop.time() + wait_s, size=len(letter.value or b""))
        self._set_timer()

    def release(self, wanted: Callable[[Letter], bool]) -> None:
        """Hand those out at once that are wanted."""
        for letter in self._parked.take(wanted):
            self._out(letter)

    def close(self) -> None:
        """Forget everything; it stays on the topic."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._parked.clear()

    def _set_timer(self) -> None:
        due = self._parked.next_due
        if due is None or (self._timer is not None and self._timer.when() <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._ring)

    def _ring(self) -> None:
        self._timer = None
        for letter in self._parked.due(self._loop.time()):
            self._out(letter)
        self._set_timer()
        self._made_room()
