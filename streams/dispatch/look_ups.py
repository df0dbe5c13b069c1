"""Before a task with an unknown agent is refused, the topic of agents is read to its end.

In: task runs whose agent, or capabilities, are unknown. Out: each again, once the topic was read. It decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from streams.dispatch.task_run import TaskRun

log = structlog.get_logger(__name__)


class LookUps:
    """`catch_up` reads the topic to its end; `done` is called with each run afterwards, also if that failed."""

    def __init__(self, catch_up: Callable[[], Awaitable[None]], done: Callable[[TaskRun], None]) -> None:
        self._catch_up = catch_up
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._under_way: set[asyncio.Task[None]] = set()

    def start(self, run: TaskRun) -> None:
        """Look the agent up: it may have been registered a moment ago."""
        task = self._loop.create_task(self._look_up(run))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    def cancel(self) -> None:
        """Return nothing any more."""
        for task in self._under_way:
            task.cancel()

    async def _look_up(self, run: TaskRun) -> None:
        try:
            await self._catch_up()
        except Exception:  # the task must not stay here: it is decided by what is known
            log.exception("the topic of agents could not be read to its end", task_id=run.task_id)
        self._done(run)
