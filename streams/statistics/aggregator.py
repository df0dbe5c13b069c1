"""Points in, windows and anomalies out: the loop around the rules of statistics.

In: messages from Faust, in partition order. For each batch: count in memory; send dead letters, aggregates, anomalies
and events and await them; write one row per touched series to the changelog and await it; only then report the points
done, so that the commit follows. A crash between two steps repeats outputs with the same ids and revisions, and counts
nothing twice.

Bounded: `MAX_PENDING` messages wait, `MAX_BATCH` are counted at once; a failure is passed to `failed`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections import Counter, deque
from collections.abc import Callable, Collection
from typing import cast

from aiokafka import AIOKafkaProducer

from schemas.codec import Rejected, decode
from schemas.messages import ConfidenceDataPoint
from streams.engine.batcher import Batcher
from streams.engine.yielder import Yielder
from streams.rules.records import Output
from streams.rules.source_record import SourceRecord
from streams.rules.windows.windows import UPDATE_S
from streams.statistics.event_clocks import EventClocks
from streams.statistics.outputs import StatsRecorder
from streams.statistics.owners_sender import NotOwner
from streams.statistics.source_log import SourceLog
from streams.statistics.state import Live, RecordAt, State, TooManySeries
from streams.statistics.table import Row, StatsTable, send_all
from streams.statistics.transport import LedgerConsumer, StatsMessage

MAX_PENDING = 8000
MAX_BATCH = 2000
LINGER_S = 0.05
"""How long a batch waits for more points; a full one does not."""
BUSY = 100
BUSY_LINGER_S = 0.2
"""A batch with this many points waits longer: the write per series is the main cost."""
TICK_S = 1.0
TICK_UPDATES = 2000
TICK_SERIES = 3000
"""Series checked in one tick: 30,000 take ten ticks, and none blocks the loop for long."""
AHEAD_MS = 600_000
"""How far a point may be after its record's time, or after the present if that is later (an old record may be written
again with present points). A larger distance is a wrong clock, and would close all earlier windows.
"""
SKEW_MS = 86_400_000
"""How far after the present a record's time may be: this worker's clock may be behind, but not by more."""
DRAIN_S = 5.0


class Released(Exception):
    """The partitions were revoked during a batch; it is dropped, and read again by their next owner."""


class Aggregator:
    """Counts the points of one processor. Build, `attach` to the parts of a started app, `run`."""

    def __init__(self, recorder: StatsRecorder, failed: Callable[[BaseException], None]) -> None:
        self.failed = failed
        self._recorder = recorder
        self._pending: deque[StatsMessage] = deque()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._full = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._clocks = EventClocks()
        self._read_s: dict[int, float] = {}  # partition -> when its last batch was counted, monotonic seconds
        self.releases = 0
        """How often partitions were revoked; what was read before is no longer certain."""
        self._round: list[Live] = []
        self._yielder = Yielder()
        self.ready = False
        self.points = 0
        self.rejected = 0
        self.expired = 0
        self.reported: Counter[tuple[str, str]] = Counter()
        """Anomalies reported as firing, by type and severity."""

    def attach(
        self,
        state: State,
        table: StatsTable,
        batcher: Batcher,
        consumer: Callable[[], LedgerConsumer],
        producer: Callable[[], AIOKafkaProducer],
        source_log: SourceLog,
    ) -> None:
        """Set the parts that exist once the app is built, and consumer and producer once it has started."""
        self.state, self._table, self._batcher = state, table, batcher
        self._consumer, self._producer, self._source_log = consumer, producer, source_log

    @property
    def pending(self) -> int:
        """Messages accepted and not counted yet."""
        return len(self._pending)

    def event_lag_s(self) -> dict[int, float]:
        """Partition -> how far the events that are counted lie behind the clock; 0 where all that was there is counted."""
        return self._clocks.lag_s()

    async def take(self, message: StatsMessage) -> None:
        """Accept one message from Faust; waits while too many are pending."""
        if not await self._consumer().accept(message):
            return
        self._pending.append(message)
        self._wake.set()
        if len(self._pending) >= MAX_BATCH:
            self._full.set()
        if len(self._pending) >= MAX_PENDING:
            self._room.clear()
            await self._room.wait()

    async def run(self) -> None:
        """Count until cancelled. Any failure goes to `failed`."""
        last_tick = time.monotonic()
        try:
            while True:
                await _at_most(self._wake, TICK_S)
                await self._linger()
                async with self._flushing:
                    with contextlib.suppress(Released):
                        await self.write_overtaken()
                        await self.count_batch()
                        if self.ready and time.monotonic() - last_tick >= TICK_S:
                            last_tick = time.monotonic()
                            await self.tick()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self.failed(error)

    async def watch_log_ends(self) -> None:
        """Ask for the logs' ends again and again, until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            if self.ready:
                await self.ask_log_ends()

    async def ask_log_ends(self) -> None:
        """Ask for the logs' ends once: a clock advances only where everything is counted."""
        await self._clocks.ask(self._consumer(), self._source_log)

    async def _linger(self) -> None:
        if 0 < len(self._pending) < MAX_BATCH:
            await _at_most(self._full, LINGER_S)
            if BUSY <= len(self._pending) < MAX_BATCH:
                await _at_most(self._full, BUSY_LINGER_S)

    # Rebalances

    async def load(self) -> None:
        """The table has been recovered: load its contents. They stay in memory, so they are exempt from garbage
        collection, which would take more than half of the time.
        """
        async with self._flushing:
            gc.disable()
            try:
                await self.state.load(int(time.time() * 1000))
                self._table.recovery.deleted.clear()  # a key for each window that went in the last hours
                gc.freeze()
            finally:
                gc.enable()
            for live in self.state:
                self._clocks.of(live.series.partition).observe_event(
                    live.series.windows.watermark_ms, live.series.arrived_ms
                )
            for partition, offset in (await self._source_log.resume_offsets(self.state.marks())).items():
                self.state.count_anew(partition, offset)
                self._consumer().resume_offsets[partition] = offset
            self.ready = True
            self._wake.set()

    async def drain(self) -> None:
        """Count and write what is pending, and publish the rest, within `DRAIN_S`; the remainder is read again
        later.
        """
        try:
            async with asyncio.timeout(DRAIN_S), self._flushing:
                await self.write_overtaken()
                while self._pending:
                    await self.count_batch()
                if self.ready:
                    await self._send(await self._updates(time.monotonic(), self.releases, all_of_them=True))
        except (TimeoutError, Released):
            pass
        except Exception as error:
            self.failed(error)

    def release(self) -> None:
        """The partitions are gone: drop everything in memory. What `load` exempted from garbage collection may be garbage by
        now.
        """
        self.ready = False
        self.releases += 1
        self._pending.clear()
        self._room.set()
        self._clocks.clear()
        self._round = []
        self.state.clear()
        gc.unfreeze()
        gc.collect()  # what was frozen never makes Python collect by itself
        gc.freeze()  # what is left belongs to the process, which exempted it when it started

    # One batch

    async def count_batch(self) -> None:
        """Count what is pending, `MAX_BATCH` points at most, and write it. Raises `Released`."""
        batch = [self._pending.popleft() for _ in range(min(len(self._pending), MAX_BATCH))]
        if not self._pending:
            self._wake.clear()
        if len(self._pending) < MAX_BATCH:
            self._full.clear()
        if len(self._pending) < MAX_PENDING // 2:
            self._room.set()
        if not batch:
            return
        releases = self.releases
        outputs: list[Output] = []
        touched: dict[bytes, Live] = {}
        for message in batch:
            await self._checkpoint(releases)
            live = self._aggregate(message, outputs)
            if live is not None:
                touched[live.key] = live
        now = time.monotonic()
        self._read_s.update(dict.fromkeys((message.partition for message in batch), now))
        for live in touched.values():
            self._clocks.of(live.series.partition).observe_event(
                live.series.windows.watermark_ms, live.series.arrived_ms
            )
        await self._store(touched.values(), outputs, now, releases)
        consumer = self._consumer()
        for message in batch:
            consumer.done(message)
        self.points += len(batch)

    def _aggregate(self, message: StatsMessage, outputs: list[Output]) -> Live | None:
        headers = cast("tuple[tuple[str, bytes], ...]", tuple(message.headers or ()))
        try:
            point = decode(ConfidenceDataPoint, message.value, headers)
            stamp_ms = -1 if message.timestamp is None else round(message.timestamp * 1000)
            now_ms = int(time.time() * 1000)
            ahead_ms = point.timestamp - max(min(stamp_ms, now_ms + SKEW_MS), now_ms)
            if ahead_ms > AHEAD_MS:
                raise Rejected("validate", f"timestamp: is {(point.timestamp - now_ms) // 1000} s after the present")
            if point.feedback and point.task_id is None:
                raise Rejected("validate", "feedback: needs taskId")
            return self.state.add_point(point, RecordAt(message.partition, message.offset, stamp_ms, now_ms))
        except TooManySeries as error:
            stage, reason = "process", str(error)
        except Rejected as error:
            stage, reason = error.stage, error.reason
        self.rejected += 1
        record = SourceRecord("data-points", message.partition, message.offset, message.key, message.value, headers)
        outputs += self._recorder.dead_letter(record, stage, reason, int(time.time() * 1000))
        return None

    async def _store(
        self, touched: Collection[Live], outputs: list[Output], now: float, releases: int, *, by_clock: bool = False
    ) -> None:
        """Write outputs first, then the state that records them: a replay of the points repeats them unchanged. Alarms
        that only time causes (`by_clock`) are stored before that: after a crash no offset would repeat them, and nothing
        end them. Windows that time closed come even before: the next owner reads that they are closed.
        """
        self._still(releases)
        for live in touched:
            await self._checkpoint(releases)
            windows = live.series.windows
            for window_id, window in windows.touched.items():
                if window.closed:
                    outputs.append(self._recorder.aggregate(live, window_id, window))
                    live.dirty.discard(window_id)
                    live.published.pop(window_id, None)
                else:
                    live.dirty.add(window_id)
            self._publish(live, now, outputs, quiet=False)
            calibration = self.state.calibration(live)
            if calibration is not None:
                outputs.append(self._recorder.calibration(calibration, live.series.windows.watermark_ms))
        if by_clock and (alarmed := [live for live in touched if live.series.anomalies]):
            await self._send(outputs)
            await self._save(alarmed, releases)
            outputs = []
        for live in touched:
            for anomaly in live.series.anomalies:
                outputs += self._recorder.anomaly(anomaly)
                self.reported[anomaly.type, anomaly.severity] += anomaly.state == "firing"
            live.series.anomalies.clear()
        await self._send(outputs)
        await self._save(touched, releases)

    async def _save(self, touched: Collection[Live], releases: int) -> None:
        """Write the rows of these series. Raises `Released`."""
        rows: list[Row] = []
        for live in touched:
            await self._checkpoint(releases)
            rows += self.state.rows(live)
        await self._write(rows, releases)
        for live in touched:
            live.series.windows.touched.clear()
            live.leaving.clear()

    async def write_overtaken(self) -> None:
        """Write the newest rows again where an earlier owner left an older one after them."""
        if self.ready and self._table.has_overtaken and await self._consumer().confirm_ownership():
            await self._write(self._table.overtaken(), self.releases)

    async def _write(self, rows: list[Row], releases: int) -> None:
        """Raises `Released` if the group says that the partitions are, or may be, another worker's."""
        self._still(releases)
        if not await self._consumer().confirm_ownership():
            raise Released
        self._still(releases)
        try:
            await self._table.write(rows)
        except NotOwner:
            raise Released from None

    def _still(self, releases: int) -> None:
        """Raises `Released` unless the partitions are still ours."""
        if releases != self.releases:
            raise Released

    async def _checkpoint(self, releases: int) -> None:
        """Let queries run in between. Raises `Released`."""
        await self._yielder()
        self._still(releases)

    async def _send(self, outputs: list[Output]) -> None:
        if outputs:
            await send_all(self._batcher, self._producer(), outputs)

    def _publish(self, live: Live, now: float, outputs: list[Output], *, quiet: bool) -> None:
        for window_id in list(live.dirty):
            if not quiet and now - live.published.get(window_id, 0.0) < UPDATE_S[window_id[0]]:
                continue
            window = live.series.windows.open.get(window_id)
            if window is not None:
                outputs.append(self._recorder.aggregate(live, window_id, window))
                live.published[window_id] = now
            live.dirty.discard(window_id)

    async def _updates(self, now: float, releases: int, *, all_of_them: bool = False) -> list[Output]:
        outputs: list[Output] = []
        for live in list(self.state):
            if not live.dirty:
                continue
            await self._checkpoint(releases)
            quiet = now - self._read_s.get(live.series.partition, 0.0) >= TICK_S
            self._publish(live, now, outputs, quiet=all_of_them or quiet)
            if len(outputs) >= TICK_UPDATES and not all_of_them:
                break
        return outputs

    # The clock

    async def tick(self) -> None:
        """Publish what is due and close what only time closes, for the series whose turn it is. Raises `Released`."""
        now, releases = time.monotonic(), self.releases
        await self._send(await self._updates(now, releases))
        self._still(releases)
        self._clocks.advance(self._consumer().positions())
        touched = []
        for live in self._turn():
            await self._checkpoint(releases)
            series = live.series
            clock = self._clocks.of(series.partition)
            at = series.windows.watermark_ms, series.arrived_ms
            if self.state.tick(live, clock.time_ms(*at), clock.idle_ms(series.arrived_ms), clock.closing_ms(*at)):
                touched.append(live)
                if len(touched) >= MAX_BATCH:
                    break
        if touched:
            await self._store(touched, [], now, releases, by_clock=True)

    def _turn(self) -> list[Live]:
        """The series whose turn it is; all series while they are few."""
        if not self._round:
            self._round = list(self.state)
        turn, self._round = self._round[:TICK_SERIES], self._round[TICK_SERIES:]
        return [live for live in turn if self.state.holds(live)]


async def _at_most(event: asyncio.Event, seconds: float) -> None:
    """Wait for the event, at most so long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
