"""The statistics processor: `data-points` -> windows -> `aggregates`; detectors -> `anomalies` and their events.

In: settings. Out: a service that runs inside the caller's loop: `start`, `stop`, `failed`, `ready`, and reads for a query API.
It owns a Faust app (see `streams.statistics`), shares nothing with other processors and configures no global logging.
Importing this module imports Faust (a second of CPU): import it only where statistics run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any

from schemas.messages import Aggregate
from streams.broker.kafka import client_options, supports_transactions
from streams.engine.partition_status import PartitionStatus
from streams.settings import Settings
from streams.statistics import changelog
from streams.statistics.aggregator import Aggregator
from streams.statistics.app import StatsApp, group_id
from streams.statistics.outputs import StatsRecorder
from streams.statistics.query import Question, firing, part
from streams.statistics.registered import RegisteredDetectors
from streams.statistics.source_log import SourceLog
from streams.statistics.state import State, spans_of, thresholds_of

log = logging.getLogger(__name__)

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 15.0
LOOK_S = 5.0
QUIET = ("faust", "mode")


class NotReady(Exception):
    """The processor is recovering or owns nothing yet; ask again. It never answers with a wrong number."""


class StatsProcessor:
    """Statistics of this worker's partitions.

    `idempotent`: whether the broker has idempotent producers; None: ask it. `address`: this worker's address for
    queries.
    """

    def __init__(self, settings: Settings, *, idempotent: bool | None = None, address: str = "") -> None:
        self._address = address
        self.partition_count = 0
        self._settings = settings
        self._idempotent = idempotent
        self._error: BaseException | None = None
        self._broken = asyncio.Event()
        self._aggregator = Aggregator(StatsRecorder(settings, group_id(settings)), self._fail)
        self._app: StatsApp | None = None
        self._source_log: SourceLog | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        self._registered: RegisteredDetectors | None = None

    async def start(self) -> None:
        """Create the changelog, join the group; returns once Faust has started (recovery may still run: `ready`).

        Raises `ChangelogError`, `SettingsError`, aiokafka's errors, or the error that made Faust fail.
        """
        for name in QUIET:
            logger = logging.getLogger(name)
            if logger.level == logging.NOTSET:
                logger.setLevel(logging.ERROR)
        options = client_options(self._settings)
        partitions = await changelog.ensure(self._settings, options)
        if self._idempotent is None:
            self._idempotent = await supports_transactions(self._settings)
        self.partition_count = partitions
        app = self._app = StatsApp(
            settings=self._settings,
            client_options=options,
            idempotent=self._idempotent,
            carrier=self._aggregator,
            partitions=partitions,
            address=self._address,
        )
        self._registered = RegisteredDetectors(options, self._settings.topic_prefix)
        await self._registered.start()
        state = State(
            table=app.table,
            spans=spans_of(self._settings),
            limits=thresholds_of(self._settings),
            registered=self._registered.of,
        )
        source_log = self._source_log = SourceLog(options, app.source_topic, self._idempotent)
        self._aggregator.attach(state, app.table, app.batcher, lambda: app.ledger, lambda: app.raw_producer, source_log)
        app.table.on_recover(self._aggregator.load)
        app.agent(app.points, name=f"{self._settings.app_id}.stats", concurrency=1)(self._read)
        self._tasks = [
            asyncio.create_task(self._aggregator.run(), name="stats-aggregator"),
            asyncio.create_task(self._aggregator.watch_log_ends(), name="stats-ends"),
            asyncio.create_task(self._carry(app), name="stats-faust"),
            asyncio.create_task(self._watch(app), name="stats-watch"),
        ]

    async def _read(self, stream: Any) -> None:
        try:
            async for event in stream.noack().events():
                await self._aggregator.take(event.message)
        except Exception as error:
            self._fail(error)
            raise

    async def _carry(self, app: StatsApp) -> None:
        """Start the app and watch it: mode does not report crashes unless asked."""
        try:
            await app.start()
            await app.wait_until_stopped()
            if app.crash_reason is not None:
                raise app.crash_reason
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._fail(error)

    async def _watch(self, app: StatsApp) -> None:
        """Detects that the consumer's own tasks have ended, or that the brokers refuse it; nothing else does."""
        while self._error is None:
            await asyncio.sleep(LOOK_S)
            refusal = app.ledger.refusal()
            dead = app.ledger.dead() if self._aggregator.ready else None
            if refusal is not None:
                self._fail(refusal)
            elif dead is not None:
                self._fail(RuntimeError(dead))

    def _fail(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
            self._broken.set()

    async def failed(self) -> None:
        """Wait for a fatal failure and raise it. Never returns otherwise."""
        await self._broken.wait()
        if self._error is not None:
            raise self._error

    async def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until recovered and assigned. Raises the error that made it fail, or TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while not self.ready:
                if self._error is not None:
                    raise self._error
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """Count, publish and commit what was accepted, then leave; bounded in time. Safe to call twice."""
        app, self._app = self._app, None
        registered, self._registered = self._registered, None
        if registered is not None:
            await registered.stop()
        if app is None:
            return
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                if self.ready:
                    await self._aggregator.drain()
                    await app.ledger.commit()
                await app.stop()
        except TimeoutError:
            log.warning("statistics did not stop within %g s; what was not committed is read again", STOP_TIMEOUT_S)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if self._source_log is not None:
                await self._source_log.close()
            self._aggregator.release()

    @property
    def ready(self) -> bool:
        """Whether the partitions are assigned and their state is recovered."""
        return self._aggregator.ready and self._error is None

    def windows(self, agent_id: str) -> list[Aggregate]:
        """Every retained window of an agent in the partitions of this worker. Raises `NotReady`."""
        return self._state().windows(agent_id)

    async def part(self, question: Question) -> dict[str, Any]:
        """The part of this worker's partitions for a question. Raises `NotReady`, `TooMuch`."""
        return await self._steadily(part(self._state(), question, self.heads()))

    async def firing(self) -> dict[str, Any]:
        """Alarms that fire, or are pending, in this worker's partitions. Raises `NotReady`."""
        return await self._steadily(firing(self._state(), self.heads()))

    async def _steadily(self, reading: Awaitable[dict[str, Any]]) -> dict[str, Any]:
        """The result, unless partitions were revoked while it was read."""
        before = self._aggregator.releases
        found = await reading
        if self._aggregator.releases != before:
            raise NotReady("partitions moved meanwhile")
        return found

    def owners(self) -> dict[int, str]:
        """Partition -> address of its owner. Raises `NotReady`."""
        self._state()
        return {} if self._app is None else self._app.owners()

    def _state(self) -> State:
        if not self.ready:
            raise NotReady("statistics are recovering")
        return self._aggregator.state

    def heads(self) -> dict[int, int]:
        """Partition of `data-points` -> the offset that would be committed now."""
        return self._app.ledger.heads() if self._app is not None and self._aggregator.ready else {}

    def partition_statuses(self) -> list[PartitionStatus]:
        """This worker's position in each partition of `data-points`; empty while it recovers."""
        return list(self._app.ledger.partition_statuses()) if self._app is not None and self._aggregator.ready else []

    def counters(self) -> dict[str, Any]:
        """Points counted and rejected, anomalies reported since the start; firing alarms; series, late and dropped
        points; the lag of event time.
        """
        own = {
            "points": self._aggregator.points,
            "rejected": self._aggregator.rejected,
            "pending": self._aggregator.pending,
            "expired": self._aggregator.expired,
            "reported": dict(self._aggregator.reported),
            "event_lag": self._aggregator.event_lag_s(),
        }
        return own | (self._aggregator.state.counters() if self._aggregator.ready else {})
