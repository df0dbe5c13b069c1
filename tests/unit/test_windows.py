"""Windows of one series: when they close, what late points do, what expires, what a record looks like."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

from schemas.messages import Aggregate, ConfidenceDataPoint, Interval
from streams.cli.stats import Interval as Option
from streams.rules.windows.moments import PointSample
from streams.rules.windows.windows import (
    INTERVALS,
    SIZES_MS,
    UPDATE_S,
    Span,
    Spans,
    Window,
    WindowId,
    Windows,
    aggregate,
)
from streams.settings import Settings
from streams.statistics.state import spans_of

MINUTE = 60_000
SPANS: Spans = {
    "minute": Span(MINUTE, 30_000, 3),
    "hour": Span(SIZES_MS["hour"], 300_000, 2),
    "day": Span(SIZES_MS["day"], 3_600_000, 2),
}
NOON = 1_795_348_800_000 // SIZES_MS["day"] * SIZES_MS["day"] + 12 * SIZES_MS["hour"]


class Fold:
    """Windows with an archive, as the processor keeps it."""

    def __init__(self) -> None:
        self.windows = Windows(SPANS)
        self.archive: dict[WindowId, Window] = {}
        self.offset = -1

    def at(self, *times_ms: int) -> set[tuple[str, int, bool, int]]:
        """Fold points at these times after noon; returns what was touched: interval, start after noon, closed, count."""
        for time_ms in times_ms:
            self.offset += 1
            self.windows.apply(NOON + time_ms, PointSample(_point(NOON + time_ms)), self.offset, self.archive.get)
        return self.flush()

    def flush(self) -> set[tuple[str, int, bool, int]]:
        """What the carrier does after a batch."""
        touched = {(i, start - NOON, w.closed, w.moments.count) for (i, start), w in self.windows.touched.items()}
        self.archive |= {key: w for key, w in self.windows.touched.items() if w.closed}
        self.windows.touched.clear()
        return {row for row in touched if row[0] == "minute"}


def _point(time_ms: int, confidence: float = 0.5) -> ConfidenceDataPoint:
    return ConfidenceDataPoint(agent_id="a", confidence=confidence, success=True, timestamp=time_ms, execution_time=10)


def test_a_window_closes_when_the_watermark_passes_its_grace_and_not_before() -> None:
    """End + 30 s, to the millisecond."""
    fold = Fold()
    assert fold.at(0, 59_999, MINUTE + 29_999) == {("minute", 0, False, 2), ("minute", MINUTE, False, 1)}
    assert fold.at(MINUTE + 30_000) == {("minute", 0, True, 2), ("minute", MINUTE, False, 2)}


def test_a_late_point_enters_its_closed_window_and_raises_the_revision() -> None:
    """It stays final; the revision grows."""
    fold = Fold()
    fold.at(0, MINUTE + 30_000)
    before = fold.archive["minute", NOON].revision
    assert fold.at(1000) == {("minute", 0, True, 2)}
    assert fold.archive["minute", NOON].revision > before


def test_a_late_point_opens_a_window_that_nobody_had() -> None:
    """Its window's time is over: it is born closed."""
    fold = Fold()
    fold.at(5 * MINUTE)
    assert fold.at(3 * MINUTE) == {("minute", 3 * MINUTE, True, 1)}


def test_a_point_behind_the_retention_is_counted_as_dropped_where_it_is_too_late() -> None:
    """Three minutes are kept: the fourth back is gone for minutes, not for hours."""
    fold = Fold()
    fold.at(5 * MINUTE)
    assert fold.at(2 * MINUTE) == set()
    assert fold.windows.dropped == {"minute": 1, "hour": 0, "day": 0}
    assert fold.windows.open["hour", NOON].moments.count == 2


def test_only_late_points_are_called_late() -> None:
    """Within the minute's grace of the watermark a point is merely out of order."""
    windows = Windows(SPANS)
    times = [100_000, 70_000, 69_999, 100_000]
    late = [windows.apply(NOON + t, PointSample(_point(NOON + t)), n, lambda key: None) for n, t in enumerate(times)]
    assert late == [False, False, True, False]


def test_the_clock_closes_what_is_due_and_nothing_else() -> None:
    """An idle series: the minute closes, the hour stays open."""
    fold = Fold()
    fold.at(0)
    fold.windows.close_due(NOON + MINUTE + 29_999)
    assert fold.flush() == set()
    fold.windows.close_due(NOON + MINUTE + 30_000)
    assert fold.flush() == {("minute", 0, True, 1)}
    assert set(fold.windows.open) == {("hour", NOON), ("day", NOON - 12 * SIZES_MS["hour"])}


def test_the_clock_moves_the_retention_of_an_idle_series() -> None:
    """After `expire` an old window is gone though no point came."""
    fold = Fold()
    fold.at(0)
    assert fold.windows.floor("minute") == NOON - 2 * MINUTE
    fold.windows.expire(NOON + 10 * MINUTE)
    assert fold.windows.floor("minute") == NOON + 8 * MINUTE


def test_a_replayed_offset_changes_nothing() -> None:
    """The window knows the last offset in it."""
    window = Window()
    sample = PointSample(_point(NOON))
    assert window.observe(sample, 7)
    assert not window.observe(sample, 7)
    assert not window.observe(sample, 3)
    assert window.moments.count == 1


def test_the_record_of_a_window() -> None:
    """All figures of the contract, from two points."""
    window = Window()
    window.observe(PointSample(_point(NOON, 0.25)), 0)
    window.observe(PointSample(_point(NOON, 0.75)), 1)
    record = aggregate("a", "p", "agent", ("minute", NOON), window)
    assert Aggregate.model_validate(record).wire() == record
    assert record["windowEnd"] == "2026-11-22T12:01:00.000Z"
    assert (record["count"], record["avgConfidence"], record["variance"]) == (2, 0.5, 0.0625)
    assert (record["minConfidence"], record["maxConfidence"], record["successRate"]) == (0.25, 0.75, 1.0)
    assert (record["brier"], record["ece"]) == (0.3125, 0.5)
    assert record["avgExecutionTime"] == 10
    assert abs(record["p99ExecutionTime"] / 10 - 1) <= 0.01
    assert (record["final"], record["revision"]) == (False, 4)


def test_what_the_clock_had_dropped_is_taken_over_from_older_records() -> None:
    """They hold one time for all intervals."""
    fold = Fold()
    fold.at(0)
    data = fold.windows.to_json()
    data[1] = NOON + 10 * MINUTE
    taken = Windows.from_json(data, SPANS)
    assert taken.floor("minute") == NOON + 8 * MINUTE
    assert taken.floor("hour") == NOON - SIZES_MS["hour"]


def test_each_interval_of_the_messages_has_a_size_a_pace_settings_and_an_option() -> None:
    """A new size of windows is complete, and each size fits into the next."""
    intervals = get_args(Interval)
    assert intervals == INTERVALS == tuple(UPDATE_S) == tuple(spans_of(Settings())) == tuple(Option)
    sizes = [SIZES_MS[interval] for interval in intervals]
    assert [large % small for small, large in pairwise(sizes)] == [0] * (len(sizes) - 1)
