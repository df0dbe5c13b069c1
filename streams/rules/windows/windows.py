"""Event-time windows of one series: minute, hour and day, each with its own grace and retention. Pure.

In: samples with their time. Out: which windows changed, which closed, which points came too late for their window.

A point is added to its minute, its hour and its day at once (one prepared sample, three additions). That is exact
because the sums are integers, costs less than merging minutes later, and a late point reaches every window that is
still kept. The watermark is the largest event time seen; a window closes when the watermark, or the caller's clock,
passes its end + grace. The watermark decides which windows are kept, and the clock only once a series has been idle for
as long as an interval is kept: whether a point counts or is too late does not depend on batches, restarts and pauses
before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from schemas.messages import Interval
from schemas.times import format_time
from schemas.topics import DAY_MS, HOUR_MS, MINUTE_MS
from streams.rules.windows import measures
from streams.rules.windows.moments import Moments, PointSample

SIZES_MS: dict[Interval, int] = {"minute": MINUTE_MS, "hour": HOUR_MS, "day": DAY_MS}
INTERVALS = tuple(SIZES_MS)
"""From the finest to the coarsest; each fits a whole number of times into the next."""
FINEST, COARSEST = INTERVALS[0], INTERVALS[-1]
UPDATE_S: dict[Interval, float] = {"minute": 1.0, "hour": 5.0, "day": 30.0}
"""How often an open window is published while it changes; when its series is quiet, at the next tick."""
NEVER = 1 << 62

WindowId = tuple[Interval, int]
"""Interval and start, epoch ms."""


@dataclass(frozen=True, slots=True)
class Span:
    """How one interval is kept: length, grace for late points, number of windows retained."""

    size_ms: int
    grace_ms: int
    keep: int

    @property
    def retention_ms(self) -> int:
        """How far behind the watermark a window's start may lie."""
        return self.size_ms * self.keep


Spans = dict[Interval, Span]


class Window:
    """One window: its moments, whether it is closed, and the source offset of the last point in it (-1: none)."""

    __slots__ = ("closed", "moments", "offset")

    def __init__(self, moments: Moments | None = None, offset: int = -1, closed: bool = False) -> None:
        self.moments = moments or Moments()
        self.offset = offset
        self.closed = closed

    def observe(self, sample: PointSample, offset: int) -> bool:
        """Add a point once: False if its offset was counted before (a replay)."""
        if offset <= self.offset:
            return False
        self.moments.observe(sample)
        self.offset = offset
        return True

    def correct(self, sample: PointSample, was: bool, offset: int) -> bool:
        """Correct the success of a point once: False if this record was counted before, or the point is not here."""
        if offset <= self.offset or not self.moments.correct(sample, was):
            return False
        self.offset = offset
        return True

    @property
    def revision(self) -> int:
        """Grows with every point and correction and once at the close; equal revisions of a window are equal records."""
        return 2 * (self.moments.count + self.moments.corrections) + (1 if self.closed else 0)

    def to_json(self) -> list[Any]:
        return [self.offset, self.closed, self.moments.to_json()]

    @classmethod
    def from_json(cls, data: list[Any]) -> Window:
        offset, closed, moments = data
        return cls(Moments.from_json(moments), offset, closed)


def start_of(time_ms: int, interval: Interval) -> int:
    """The start of the window that holds `time_ms`; UTC, so days are days whatever the local clock does.

    >>> start_of(90_000, "minute"), start_of(90_000, "hour")
    (60000, 0)
    """
    return time_ms - time_ms % SIZES_MS[interval]


class Windows:
    """The open windows of one series and the rules by which they close and expire.

    `apply`, `correct` and `close_due` put windows to be written into `touched`, open or closed; the caller empties it.
    """

    __slots__ = ("dropped", "due_ms", "floors", "open", "spans", "touched", "watermark_ms")

    def __init__(self, spans: Spans) -> None:
        self.spans = spans
        self.open: dict[WindowId, Window] = {}
        self.watermark_ms = 0
        self.floors: dict[Interval, int] = dict.fromkeys(INTERVALS, 0)  # raised by the clock, see `expire`
        self.due_ms = NEVER  # when the next open window closes
        self.dropped: dict[Interval, int] = dict.fromkeys(INTERVALS, 0)  # points whose window was gone
        self.touched: dict[WindowId, Window] = {}

    def floor(self, interval: Interval) -> int:
        """Windows that start before this are dropped: only the last `keep` up to the watermark are kept."""
        span = self.spans[interval]
        return max(self.floors[interval], start_of(self.watermark_ms, interval) - (span.keep - 1) * span.size_ms)

    def floor_at(self, interval: Interval, now_ms: int) -> int:
        """What `floor` is after `expire(now_ms)`."""
        span = self.spans[interval]
        if now_ms - self.watermark_ms < span.retention_ms:
            return self.floor(interval)
        return max(self.floor(interval), start_of(now_ms, interval) - (span.keep - 1) * span.size_ms)

    def apply(
        self, time_ms: int, sample: PointSample, offset: int, archived: Callable[[WindowId], Window | None]
    ) -> bool:
        """Count one point; True if it was late (past the minute's grace).

        `archived` returns a closed window that is no longer in memory, or None without one.
        """
        late = time_ms < self.watermark_ms - self.spans[FINEST].grace_ms
        if time_ms > self.watermark_ms:
            self.watermark_ms = time_ms
            if time_ms >= self.due_ms:
                self.close_due(time_ms)
        for interval, size in SIZES_MS.items():
            start = time_ms - time_ms % size
            key = (interval, start)
            window = self.open.get(key)
            if window is None:
                window = self._find(key, archived)
                if window is None:
                    self.dropped[interval] += 1
                    continue
            if window.observe(sample, offset):
                self.touched[key] = window
        return late

    def correct(
        self, time_ms: int, sample: PointSample, was: bool, offset: int, archived: Callable[[WindowId], Window | None]
    ) -> None:
        """Correct the success of a point of that time in every window that still holds it."""
        for interval in INTERVALS:
            key = (interval, start_of(time_ms, interval))
            window = self.open.get(key) or self.touched.get(key)
            if window is None and key[1] >= self.floor(interval):
                window = archived(key)
            if window is not None and window.correct(sample, was, offset):
                self.touched[key] = window

    def _find(self, key: WindowId, archived: Callable[[WindowId], Window | None]) -> Window | None:
        interval, start = key
        if start < self.floor(interval):
            return None
        window = self.touched.get(key) or archived(key)
        if window is not None:
            return window
        span = self.spans[interval]
        window = Window()
        end = start + span.size_ms + span.grace_ms
        if end <= self.watermark_ms:
            window.closed = True  # its end had passed before its first point came
        else:
            self.open[key] = window
            self.due_ms = min(self.due_ms, end)
        return window

    def close_due(self, now_ms: int) -> None:
        """Close every open window whose end + grace is not after `now_ms` (the watermark, or the clock for idle series)."""
        if now_ms < self.due_ms:
            return
        due = NEVER
        for key in sorted(self.open, key=lambda key: key[1]):
            span = self.spans[key[0]]
            end = key[1] + span.size_ms + span.grace_ms
            if end <= now_ms:
                window = self.open.pop(key)
                window.closed = True
                self.touched[key] = window
            else:
                due = min(due, end)
        self.due_ms = due

    def expire(self, now_ms: int) -> None:
        """Drop by the clock the intervals of a series that has had no point for as long as they are kept."""
        self.floors = {interval: self.floor_at(interval, now_ms) for interval in INTERVALS}

    def to_json(self) -> list[Any]:
        """A JSON-able form of what is open; closed windows are stored on their own, `floors` with the series."""
        return [
            self.watermark_ms,
            0,
            [self.dropped[interval] for interval in INTERVALS],
            [[interval, start, window.to_json()] for (interval, start), window in self.open.items()],
        ]

    @classmethod
    def from_json(cls, data: list[Any], spans: Spans) -> Windows:
        """The inverse of `to_json`. The second item was once the time up to which the clock had dropped windows."""
        windows = cls(spans)
        windows.watermark_ms, horizon_ms, dropped, opened = data
        if horizon_ms:
            for interval, span in spans.items():
                windows.floors[interval] = start_of(horizon_ms, interval) - (span.keep - 1) * span.size_ms
        windows.dropped = dict(zip(INTERVALS, dropped, strict=True))
        for interval, start, window in opened:
            windows.open[(interval, start)] = Window.from_json(window)
            span = spans[interval]
            windows.due_ms = min(windows.due_ms, start + span.size_ms + span.grace_ms)
        return windows


def aggregate(agent_id: str, pattern_name: str, task_type: str, key: WindowId, window: Window) -> dict[str, Any]:
    """The record of a window with at least one point: an `Aggregate` as JSON, a plain dict since many are written."""
    moments = window.moments
    interval, start = key
    count = moments.count
    successes = moments.successes
    p50, p95, p99 = moments.time_quantiles_ms(0.5, 0.95, 0.99)
    p10_confidence, p50_confidence = moments.confidence_quantiles(0.1, 0.5)
    return {
        "agentId": agent_id,
        "patternName": pattern_name,
        "taskType": task_type,
        "interval": interval,
        "windowStart": format_time(start),
        "windowEnd": format_time(start + SIZES_MS[interval]),
        "final": window.closed,
        "count": count,
        "successCount": successes,
        "avgConfidence": moments.mean(),
        "minConfidence": moments.min,
        "maxConfidence": moments.max,
        "variance": moments.variance(),
        "successRate": successes / count,
        "avgExecutionTime": moments.mean_time_ms(),
        "p50ExecutionTime": p50,
        "p95ExecutionTime": p95,
        "p99ExecutionTime": p99,
        "p10Confidence": p10_confidence,
        "p50Confidence": p50_confidence,
        "brier": moments.brier(),
        "ece": moments.ece(),
        **measures.figures(moments.measures),
        "revision": window.revision,
    }
