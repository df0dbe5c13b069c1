"""Supervises the statistics processor: a failure (such as a long absence of the brokers) restarts it, and not the
worker.

In: settings. Out: one `StatsProcessor` at a time, restarted after a pause when it failed. Dispatch is not affected.
Importing the processor imports Faust, so `start` does that.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import structlog

from streams.engine.faults import describe_error
from streams.engine.partition_status import PartitionStatus
from streams.settings import RoleName, Settings

if TYPE_CHECKING:
    from streams.statistics.processor import StatsProcessor

log = structlog.get_logger(__name__)

PAUSE_S = 2.0
MAX_PAUSE_S = 30.0


class StatsSupervisor:
    """The statistics role of a worker."""

    name: RoleName = "stats"

    def __init__(self, settings: Settings, idempotent: bool, address: str = "") -> None:
        self._address = address
        self._settings = settings
        self._idempotent = idempotent
        self.processor: StatsProcessor | None = None
        self._task: asyncio.Task[None] | None = None

    def counters(self) -> dict[str, Any] | None:
        """The counters of the running processor; None without one."""
        return None if self.processor is None else self.processor.counters()

    def partition_statuses(self) -> list[PartitionStatus]:
        """The running processor's position in each partition of `data-points`."""
        return [] if self.processor is None else self.processor.partition_statuses()

    @property
    def ready(self) -> bool:
        """Whether statistics are recovered and assigned."""
        return self.processor is not None and self.processor.ready

    async def start(self) -> None:
        """The first start. Raises an error that makes it impossible, for the user to fix."""
        await self._new()
        self._task = asyncio.create_task(self._keep(), name="stats-supervisor")

    async def wait_ready(self) -> None:
        while not self.ready:  # noqa: ASYNC110 - the processor may be another one next time
            await asyncio.sleep(0.05)

    async def failed(self) -> None:
        """Never returns: statistics that fail are started again."""
        await asyncio.Event().wait()

    async def stop(self) -> None:
        """Flush, commit, leave."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self.processor is not None:
            await self.processor.stop()

    async def _new(self) -> None:
        from streams.statistics.processor import StatsProcessor

        self.processor = StatsProcessor(self._settings, idempotent=self._idempotent, address=self._address)
        await self.processor.start()

    async def _keep(self) -> None:
        pause_s = PAUSE_S
        while True:
            try:
                if self.processor is not None:
                    await self.processor.failed()
            except Exception as error:
                log.warning("statistics failed; starting them again", error=describe_error(error), pause_s=pause_s)
            await self._drop()
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, MAX_PAUSE_S)
            try:
                await self._new()
                async with asyncio.timeout(MAX_PAUSE_S):
                    await self.wait_ready()
            except Exception as error:  # any error: nothing else would start them again
                log.warning("statistics could not be started", error=describe_error(error), pause_s=pause_s)
            else:
                pause_s = PAUSE_S

    async def _drop(self) -> None:
        failed, self.processor = self.processor, None
        if failed is not None:
            try:
                await failed.stop()
            except Exception as error:
                log.warning("the failed statistics did not stop cleanly", error=repr(error))
