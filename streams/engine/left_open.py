"""Ends transactions that earlier owners of a role's partitions left open: checked while a partition opens, and once
after it.

A worker that dies in the middle of a transaction leaves it open until its timeout. The transaction's offsets and state
block the next owner; its other records block the readers of other topics, also if the partition opens at once. In:
partitions that open. Out: each check, for all of them together: `end(numbers, consumer)`, which returns whether every
broker answered. The first check comes after a moment in which a transaction may end by itself: a partition that was
given up cleanly has none.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterator

import structlog
from aiokafka import AIOKafkaConsumer

from streams.engine.faults import describe_error

log = structlog.get_logger(__name__)

FIRST_S = 0.3
AGAIN_S = 1.0


class LeftOpen:
    """The checks of one role. `is_current`: see `Engine.is_current`; without it a successor may own the partitions."""

    def __init__(
        self, end: Callable[[Collection[int], AIOKafkaConsumer], Awaitable[bool]], is_current: Callable[[], bool]
    ) -> None:
        self._end = end
        self._is_current = is_current
        self._since: dict[int, float] = {}
        """When each partition with a pending last check began to open; loop time."""
        self._opening: set[int] = set()
        self._consumer: AIOKafkaConsumer | None = None
        self._looking: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def opening(self, number: int, consumer: AIOKafkaConsumer) -> Iterator[None]:
        """Surrounds the opening of that partition."""
        self._consumer = consumer
        self._since[number] = asyncio.get_running_loop().time()
        self._opening.add(number)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="left-open")
        try:
            yield
        finally:
            self._opening.discard(number)

    def closed(self, number: int) -> None:
        """Another worker owns the partition now, or it opens again."""
        self._since.pop(number, None)

    async def close(self) -> None:
        self._since.clear()
        if self._looking is not None:
            self._looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._looking

    async def _look(self) -> None:
        time = asyncio.get_running_loop().time
        looked: set[int] = set()
        while self._since:
            await asyncio.sleep(AGAIN_S if looked.issuperset(self._since) else FIRST_S)
            due = {number for number, since in self._since.items() if since + FIRST_S <= time()}
            if not due or not self._is_current():
                continue
            last = due - self._opening
            try:
                complete = await self._end(due, self._consumer)
            except Exception as error:  # the partitions may open without it
                log.debug("transactions left open could not be ended yet", error=describe_error(error))
                complete = False
            looked |= due
            if complete:
                for number in last - self._opening:
                    self._since.pop(number, None)
