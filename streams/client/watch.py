"""Logs why no call can begin: Kafka is unreachable, or no worker reads the tasks.

In: the calls that wait. Out: a warning after a few seconds; `KafkaUnreachable` or `NoWorker` in each call that has
waited `give_up_after_s` with that problem: once Kafka is back, workers have as long to come back too. It checks only
while calls wait and no result comes.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from schemas.topics import full_name
from streams.client.connection import connect, workers_present
from streams.client.errors import ClientError, KafkaUnreachable, NoWorker
from streams.client.waiting import ResultReader
from streams.settings import Settings

log = logging.getLogger(__name__)

LOOK_EVERY_S = 3.0
REACH_TIMEOUT_S = 3.0


class WaitWatch:
    """Watches all waiting calls of a client. `give_up_after_s` None: only warn."""

    def __init__(self, settings: Settings, readers: list[ResultReader[Any]], give_up_after_s: float | None) -> None:
        self._settings = settings
        self._readers = readers
        self._give_up_after_s = give_up_after_s
        self._task: asyncio.Task[None] | None = None
        self._problem: type[ClientError] | None = None
        self._since = 0.0
        """Since when there has been this problem."""
        self._seen = 0

    def start(self) -> None:
        """Start checking. Idempotent."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="parallax-client-watch")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self.check()
            except Exception:  # an error here must not end the only watcher
                log.exception("unexpected error while checking why no call begins")

    async def check(self) -> None:
        now = asyncio.get_running_loop().time()
        delivered = sum(reader.delivered for reader in self._readers)
        oldest = min((one.since for reader in self._readers for one in reader.waiting()), default=now)
        if delivered != self._seen or now - oldest < LOOK_EVERY_S:
            self._seen, self._problem = delivered, None
            return
        problem = await self._find_problem()
        if problem is None:
            self._problem = None
            return
        if type(problem) is not self._problem:
            self._problem, self._since = type(problem), now
            log.warning("no call can begin: %s", problem)
        limit_s = self._give_up_after_s
        if limit_s is None or now - self._since < limit_s:
            return
        for reader in self._readers:
            for waiting in reader.waiting():
                if now - waiting.since >= limit_s:
                    waiting.fail(type(problem)(str(problem)))

    async def _find_problem(self) -> ClientError | None:
        try:
            await connect(self._settings, REACH_TIMEOUT_S)
        except KafkaUnreachable as error:
            return error
        if await workers_present(self._settings) is not False:
            return None
        topic = full_name("tasks", self._settings.topic_prefix)
        return NoWorker(
            f"no worker reads {topic}: start one with `parallax worker --bootstrap-servers "
            f"{self._settings.bootstrap_servers}`; what was sent stays queued"
        )
