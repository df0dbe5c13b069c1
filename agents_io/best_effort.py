"""Best-effort requests to an agent, such as "cancel that task". No caller waits for them; their number and duration are
bounded.

A failure is logged at debug level, since the call that a request belongs to is over. When too many are under way, a new
one is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

log = structlog.get_logger(__name__)

MAX_UNDER_WAY = 1000
TIMEOUT_S = 5.0
CLOSE_S = 1.0


class BestEffortRequests:
    """Runs requests in the background."""

    def __init__(self, max_under_way: int = MAX_UNDER_WAY) -> None:
        self._max = max_under_way
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, what: str, request: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Start a request; drop it if too many are under way."""
        if len(self._tasks) >= self._max:
            log.debug("request dropped, too many in flight", what=what)
            return
        task = asyncio.create_task(self._run(what, request), name=f"best-effort-{what}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Wait briefly for the requests under way, then cancel them."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(set(self._tasks), timeout=CLOSE_S)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)

    async def _run(self, what: str, request: Callable[[], Coroutine[Any, Any, object]]) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await request()
        except Exception as error:  # no caller waits for it, and the agent will notice by itself
            log.debug("a best-effort request failed", what=what, error=repr(error))
