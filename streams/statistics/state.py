"""The live statistics of a worker's partitions: series in memory, closed windows as bytes in the table.

In: the table after recovery; points, one by one. Out: rows to write and windows to publish, per touched series. Never
talks to a broker. Bounded: at most `MAX_SERIES` series; a series keeps 60 minutes, 24 hours and 30 days and is deleted
once all are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import orjson

from schemas.codec import pack
from schemas.messages import AgentCalibration, Aggregate, ConfidenceDataPoint, Interval
from streams.engine.yielder import Yielder
from streams.rules.detection.alarms import Moment, SeriesId
from streams.rules.detection.calibration import Calibration
from streams.rules.detection.detectors import Thresholds
from streams.rules.detection.grouping import Sibling
from streams.rules.detection.specs import DetectorSpec
from streams.rules.windows.log_identity import Mark
from streams.rules.windows.series import Series
from streams.rules.windows.windows import FINEST, INTERVALS, SIZES_MS, Span, Spans, Window, WindowId, aggregate
from streams.settings import Settings
from streams.statistics.alarm_count import AlarmCount, CountedAlarms
from streams.statistics.calibrations import calibration_message
from streams.statistics.table import Row, StatsTable, parse_key, series_key, window_key

MAX_SERIES = 200_000
CLOCK_SKEW_MS = 600_000
"""Read times are by the clock of the worker that read; a new owner's clock may be this far ahead."""


class TooManySeries(Exception):
    """The worker has reached its limit of series; the point becomes a dead letter."""


class RecordAt(NamedTuple):
    """Where and when a point was read: partition, offset on the broker, the record's time (-1: none), and the time of
    reading, epoch ms.
    """

    partition: int
    offset: int
    stamp_ms: int
    read_ms: int


class Live:
    """One series with state that is not in its record: which closed windows the table holds, what was published
    when.
    """

    __slots__ = ("alarms", "archived", "dirty", "key", "leaving", "published", "series")

    def __init__(self, key: bytes, series: Series) -> None:
        self.key = key
        self.series = series
        self.archived: dict[Interval, set[int]] = {interval: set() for interval in INTERVALS}
        self.leaving: dict[WindowId, Window] = {}  # closed, and on its way to the table
        self.dirty: set[WindowId] = set()  # open windows that changed since they were published
        self.published: dict[WindowId, float] = {}  # open window -> when, monotonic seconds
        self.alarms: CountedAlarms = ()

    def aggregate(self, window_id: WindowId, window: Window) -> dict[str, Any]:
        """The record of one of its windows."""
        owner = self.series.id
        return aggregate(owner.agent_id, owner.pattern_name, owner.task_type, window_id, window)


def spans_of(settings: Settings) -> Spans:
    """How windows are kept: settings `minute_grace`, `keep_minutes` and the like for each interval."""
    stats = settings.stats
    return {
        interval: Span(size_ms, getattr(stats, f"{interval}_grace"), getattr(stats, f"keep_{interval}s"))
        for interval, size_ms in SIZES_MS.items()
    }


def thresholds_of(settings: Settings) -> Thresholds | None:
    """The thresholds of detection; None when detection is off."""
    stats = settings.stats
    if not stats.detect:
        return None
    return Thresholds(
        sudden_drop=stats.sudden_drop,
        low_confidence=stats.low_confidence,
        high_variance=stats.high_variance,
        check_interval_ms=max(stats.check_interval, 1000),
        run_length=stats.run_length,
        overconfidence=stats.overconfidence,
        slow_factor=stats.slow_factor,
        cost_factor=stats.cost_factor,
        silent_after_ms=stats.silent_after,
        chosen=tuple(stats.detectors),
    )


class State:
    """All series of all owned partitions."""

    def __init__(
        self,
        *,
        table: StatsTable,
        spans: Spans,
        limits: Thresholds | None,
        registered: Callable[[str], tuple[DetectorSpec, ...]] = lambda _: (),
    ) -> None:
        """`registered`: the detectors of an agent's registration."""
        self._table = table
        self._registered = registered
        self._spans = spans
        self._limits = limits
        self._idle_ms = 0 if limits is None else limits.check_interval_ms + spans[FINEST].grace_ms
        self._series: dict[tuple[int, SeriesId], Live] = {}
        self._by_agent: dict[str, set[tuple[int, SeriesId]]] = {}
        self._calibrated: dict[str, int] = {}  # agent -> outcomes when its calibration was last published
        self._late = 0
        self._dropped = dict.fromkeys(INTERVALS, 0)
        self._firing = AlarmCount()
        self._bases: dict[int, int] = {}  # partition -> what is added to its offsets, see `count_anew`

    def __len__(self) -> int:
        return len(self._series)

    def __iter__(self) -> Iterator[Live]:
        return iter(self._series.values())

    def clear(self) -> None:
        """Forget everything that is not in the table."""
        self._series.clear()
        self._by_agent.clear()
        self._calibrated.clear()
        self._late, self._dropped = 0, dict.fromkeys(INTERVALS, 0)
        self._firing.clear()
        self._bases.clear()

    async def load(self, now_ms: int = 0) -> None:
        """Load the table after recovery. Yields to the loop now and then.

        A series without the time of its last point counts as idle from `now_ms` on, others from slightly less than the
        time written.
        """
        self.clear()
        windows: list[tuple[int, SeriesId, WindowId]] = []
        checkpoint = Yielder()
        for key, value in list(self._table.data.items()):
            await checkpoint()
            partition, series_id, window = parse_key(key)
            if window is not None:
                windows.append((partition, series_id, window))
            else:
                data = orjson.loads(value)
                live = self._add(partition, series_id, Series.from_json(data, series_id, partition, *self._rules))
                arrived_ms = live.series.arrived_ms
                live.series.arrived_ms = min(arrived_ms + CLOCK_SKEW_MS, now_ms) if arrived_ms else now_ms
                self._bases[partition] = max(self._bases.get(partition, 0), live.series.base)
                live.dirty.update(live.series.windows.open)
        for partition, series_id, (interval, start) in windows:
            await checkpoint()
            owner = self._series.get((partition, series_id))
            if owner is not None:
                owner.archived[interval].add(start)

    @property
    def _rules(self) -> tuple[Spans, Thresholds | None]:
        return self._spans, self._limits

    def _add(self, partition: int, series_id: SeriesId, series: Series) -> Live:
        live = Live(series_key(partition, series_id), series)
        self._series[partition, series_id] = live
        self._count(series, 1)
        self._by_agent.setdefault(series_id.agent_id, set()).add((partition, series_id))
        live.alarms = self._firing.update((), series)
        return live

    def marks(self) -> dict[int, list[Mark]]:
        """Partition -> the last record each series counted in the newest counted log."""
        found: dict[int, list[Mark]] = {}
        for (partition, _), live in self._series.items():
            series = live.series
            if series.offset >= 0 and series.base == self._bases.get(partition, 0):
                found.setdefault(partition, []).append(Mark(series.offset - series.base, series.stamp_ms))
        return found

    def count_anew(self, partition: int, offset: int) -> None:
        """From `offset` on the log is a new one: its points come after all counted before, whatever their offsets."""
        counted = max((live.series.offset for (at, _), live in self._series.items() if at == partition), default=-1)
        self._bases[partition] = counted + 1 - offset

    def add_point(self, point: ConfidenceDataPoint, record: RecordAt) -> Live:
        """Count the point of one record; see `apply`."""
        base = self._bases.get(record.partition, 0)
        live = self.apply(point, record.partition, base + record.offset)
        series = live.series
        if series.offset == base + record.offset:
            series.base, series.stamp_ms = base, record.stamp_ms
        if not point.feedback:
            series.arrived_ms = record.read_ms
        return live

    def apply(self, point: ConfidenceDataPoint, partition: int, offset: int) -> Live:
        """Count one point; returns the series it touched. `offset` ascends over all logs there were. Raises `TooManySeries`."""
        series_id = SeriesId(point.agent_id, point.pattern_name, point.task_type)
        live = self._series.get((partition, series_id))
        if live is None:
            if len(self._series) >= MAX_SERIES:
                raise TooManySeries(
                    f"this worker keeps {MAX_SERIES} series of (agentId, patternName, taskType), no more"
                )
            live = self._add(partition, series_id, Series(series_id, partition, *self._rules))
        owner, series = live, live.series
        known = len(series.anomalies)
        self._count(series, -1)
        if series.detectors is not None and offset > series.offset:
            at = Moment(partition, offset, point.timestamp)
            series.anomalies += series.detectors.choose(self._registered(series_id.agent_id), at)
        fresh = series.apply(point, offset, lambda window_id: self.archived(owner, window_id))
        self._count(series, 1)
        # A point that was counted before a crash causes no alarm again: the series' alarms have later offsets.
        if fresh and (len(series.anomalies) > known or series.grouping):
            series.group(known, Moment(partition, offset, point.timestamp), self._siblings(live))
        live.alarms = self._firing.update(live.alarms, series)
        return live

    def _count(self, series: Series, sign: int) -> None:
        self._late += sign * series.late
        for interval, count in series.windows.dropped.items():
            self._dropped[interval] += sign * count

    def _siblings(self, live: Live) -> list[Sibling]:
        """The agent's other series in that partition, whose offsets can be compared."""
        mine = live.series
        others = (self._series[key].series for key in self._by_agent[mine.id.agent_id] if key[0] == mine.partition)
        return [Sibling(s.born, s.detectors.alarms) for s in others if s is not mine and s.detectors is not None]

    def tick(self, live: Live, events_ms: int, idle_ms: int, closing_ms: int = 0) -> bool:
        """Apply the effects of time alone to a series; True if anything must be written or published.

        `events_ms`: its event time; `idle_ms`: how long it has certainly had no point; `closing_ms`: the time by which
        windows close, if that is later (all from `rules/windows/clock.py`). While points come, only they cause alarms:
        a replay causes the same.
        """
        series = live.series
        known = len(series.anomalies)
        changed = series.close_due(max(events_ms, closing_ms)) or known > 0
        if idle_ms >= self._idle_ms:
            changed |= series.evaluate_idle(events_ms)
            if 0 <= series.silent_ms() <= events_ms and self._agent_is_silent(live, events_ms):
                series.fall_silent()
                changed = True
        if len(series.anomalies) > known:
            moment = Moment(series.partition, series.offset, series.windows.watermark_ms)
            series.group(known, moment, self._siblings(live))
        if self.expires(live, events_ms):
            series.windows.expire(events_ms)
            changed = True
        live.alarms = self._firing.update(live.alarms, series)
        return changed

    def calibration(self, live: Live) -> AgentCalibration | None:
        """The agent's calibration once it has grown enough to be published: by a twentieth, or by five outcomes."""
        agent_id = live.series.id.agent_id
        if not live.series.judged or agent_id not in self._by_agent:
            return None
        whole = self.calibrations(agent_id)
        before = self._calibrated.get(agent_id)
        if before is not None and abs(whole.count - before) < max(5, before // 20):
            return None
        table = whole.table()
        if table is None:
            return None
        self._calibrated[agent_id] = whole.count
        return calibration_message(agent_id, whole, table)

    def calibrations(self, agent_id: str) -> Calibration:
        """All outcomes of an agent, over all patterns."""
        whole = Calibration()
        for key in self._by_agent.get(agent_id, ()):
            whole.merge(self._series[key].series.calibration)
        return whole

    def _agent_is_silent(self, live: Live, now_ms: int) -> bool:
        """Whether all series of the agent have been silent for as long as this one may be. Silence is reported once for
        an agent: by the one that spoke last of those whose silence is unusual.
        """
        mine = live.series
        ours = [self._series[key].series for key in self._by_agent[mine.id.agent_id]]
        heard_ms = max(series.silence.last_ms for series in ours)
        if mine.silent_ms() + heard_ms - mine.silence.last_ms > now_ms:
            return False
        rank = mine.silence.last_ms, repr(mine.id)
        return all((s.silence.last_ms, repr(s.id)) <= rank for s in ours if s.silent_from_ms() >= 0)

    def archived(self, live: Live, window_id: WindowId) -> Window | None:
        """A closed window from the table."""
        if window_id[1] not in live.archived[window_id[0]]:
            return None
        value = self._table.data.get(window_key(live.series.partition, live.series.id, window_id))
        return None if value is None else Window.from_json(orjson.loads(value))

    def rows(self, live: Live) -> list[Row]:
        """The rows to write for a touched series, closed windows first and the series' own record last.

        The order matters: a series' record shows which offsets need not be replayed for anything before it.
        """
        series = live.series
        rows: list[Row] = []
        for window_id, window in series.windows.touched.items():
            if window.closed:
                key = window_key(series.partition, series.id, window_id)
                rows.append((key, pack(window.to_json())))
                live.leaving[window_id] = window
                live.archived[window_id[0]].add(window_id[1])
        for interval, starts in live.archived.items():
            floor = series.windows.floor(interval)
            for start in [start for start in starts if start < floor]:
                starts.discard(start)
                rows.append((window_key(series.partition, series.id, (interval, start)), None))
        if self._over(live):
            rows.append((live.key, None))
            self._forget(live)
        else:
            rows.append((live.key, pack(series.to_json())))
        return rows

    def expires(self, live: Live, now_ms: int) -> bool:
        """Whether by this clock one of the series' closed windows is past its retention, or nothing is left of it."""
        if self._over(live):
            return True
        windows = live.series.windows
        return any(starts and min(starts) < windows.floor_at(i, now_ms) for i, starts in live.archived.items())

    @staticmethod
    def _over(live: Live) -> bool:
        return not live.series.windows.open and not any(live.archived.values())

    def _forget(self, live: Live) -> None:
        key = (live.series.partition, live.series.id)
        if self._series.pop(key, None) is not None:
            self._count(live.series, -1)
            live.alarms = self._firing.update(live.alarms, None)
        mine = self._by_agent.get(live.series.id.agent_id)
        if mine is not None:
            mine.discard(key)
            if not mine:
                del self._by_agent[live.series.id.agent_id]
                self._calibrated.pop(live.series.id.agent_id, None)

    def holds(self, live: Live) -> bool:
        """Whether the series is still there."""
        return self._series.get((live.series.partition, live.series.id)) is live

    def of_agent(self, agent_id: str) -> list[Live]:
        """An agent's series, in a fixed order."""
        return [self._series[key] for key in sorted(self._by_agent.get(agent_id, ()), key=repr)]

    def window_ids(self, live: Live) -> set[WindowId]:
        """Every retained window of a series."""
        ids = {(interval, start) for interval in INTERVALS for start in live.archived[interval]}
        return ids.union(live.leaving, live.series.windows.open, live.series.windows.touched)

    def window(self, live: Live, window_id: WindowId, ids: set[WindowId]) -> Window | None:
        """One of its windows now; None if it is not among `ids`. Do not change it."""
        if window_id not in ids:
            return None
        windows = live.series.windows
        held = windows.touched.get(window_id) or windows.open.get(window_id) or live.leaving.get(window_id)
        return held or self.archived(live, window_id)

    def windows(self, agent_id: str) -> list[Aggregate]:
        """Every retained window of an agent, by series, interval and start."""
        found = []
        for key in sorted(self._by_agent.get(agent_id, ()), key=repr):
            live = self._series[key]
            windows: dict[WindowId, Window | None] = {
                (interval, start): None for interval in INTERVALS for start in live.archived[interval]
            }
            windows |= live.leaving | live.series.windows.open | live.series.windows.touched
            for window_id in sorted(windows, key=lambda at: (INTERVALS.index(at[0]), at[1])):
                window = windows[window_id] or self.archived(live, window_id)
                if window is not None:
                    found.append(Aggregate.model_validate(live.aggregate(window_id, window)))
        return found

    def counters(self) -> dict[str, Any]:
        """Late points, points too late for their minute, series, and reported firing alarms by type and severity."""
        return {
            "series": len(self._series),
            "late": self._late,
            "dropped": dict(self._dropped),
            "firing": self._firing.by_kind(),
        }
