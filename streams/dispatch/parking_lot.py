"""Parked tasks of one home, read back and held until they are due; a timer, not the pace of polling, brings them out.

In: records of the `parked` topic with their due time. Out: each once, at its time; those that found their agent's queue full as
soon as there is room, and not while there is none. Bounded by number and bytes: while it is full the rest
stays on the topic. What it holds is in the ledger as in flight, so a crash costs nothing but reading it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace
from sys import intern

from schemas.codec import header
from streams.rules.parking import Parked, look_again_at
from streams.rules.records import AGENT_HEADER, EXPIRES_HEADER, PARKS_HEADER, Letter, own_header

RECORD_BYTES = 450
HEADER_BYTES = 100
"""What Python needs beside the bytes themselves."""


class ParkingLot:
    """Holds letters until they are due, then hands each to `out`; `made_room` is told afterwards.

    `full`: whether the queue of an agent has no room; `wall_ms`: epoch ms.
    """

    def __init__(
        self,
        out: Callable[[Letter], None],
        made_room: Callable[[], None],
        full: Callable[[str], bool],
        wall_ms: Callable[[], int],
    ) -> None:
        self._out = out
        self._made_room = made_room
        self._full = full
        self._wall_ms = wall_ms
        self._parked: Parked[Letter] = Parked()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0

    def __len__(self) -> int:
        return len(self._parked)

    @property
    def room(self) -> bool:
        """Whether another may be held."""
        return self._parked.room

    def hold(self, letter: Letter, wait_s: float) -> None:
        """Keep it for `wait_s` seconds; if it waits for room only and there is some, it or one before it goes out at once."""
        agent_id = _crowded_out_of(letter)
        # A name of a header is a string of its own in every record; here they are many.
        letter = replace(letter, headers=tuple((intern(name), value) for name, value in letter.headers))
        self._parked.hold(letter, due=self._loop.time() + wait_s, size=_size(letter), key=agent_id, rank=letter.offset)
        if agent_id and not self._full(agent_id):
            self.call_back(agent_id, 1)
        self._set_timer()

    def release(self, wanted: Callable[[Letter], bool]) -> None:
        """Hand those out at once that are wanted."""
        for letter in self._parked.take(wanted):
            self._out(letter)

    def lift(self, offsets: Collection[int]) -> list[Letter]:
        """Take out the records of these offsets; they are not handed to `out`."""
        return self._parked.take(lambda letter: letter.offset in offsets)

    def holds(self, agent_id: str) -> bool:
        """Whether tasks of this agent wait for room."""
        return self._parked.holds(agent_id)

    def call_back(self, agent_id: str, count: int) -> None:
        """There is room for `count` tasks of this agent: hand out the first of those that wait for it."""
        letters = self._parked.first(agent_id, count)
        for letter in letters:
            self._out(letter)
        if letters:
            self._made_room()

    def close(self) -> None:
        """Forget everything; it stays on the topic."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._parked.clear()

    def _set_timer(self) -> None:
        due = self._parked.next_due
        if due is None or (self._timer is not None and self._rings_at <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        # uvloop makes no timer of a time that has passed.
        self._rings_at = max(due, self._loop.time() + 0.001)
        self._timer = self._loop.call_at(self._rings_at, self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = self._loop.time()
        for letter in self._parked.due(now):
            left_s = ((own_header(letter.headers, EXPIRES_HEADER) or 0) - self._wall_ms()) / 1000
            agent_id = _crowded_out_of(letter)
            if left_s > 0 and agent_id and self._full(agent_id):
                self.hold(letter, look_again_at(0.0, left_s, 0.0))
            else:
                self._out(letter)
        self._set_timer()
        self._made_room()


def _crowded_out_of(letter: Letter) -> str:
    """The agent whose queue it found full; empty if it waits for something else."""
    parks = own_header(letter.headers, PARKS_HEADER) or 0
    return (header(letter.headers, AGENT_HEADER) or "") if parks else ""


def _size(letter: Letter) -> int:
    """Bytes it takes in memory, about."""
    size = RECORD_BYTES + len(letter.value or b"") + len(letter.key or b"")
    return size + sum(HEADER_BYTES + len(value or b"") for _, value in letter.headers)
