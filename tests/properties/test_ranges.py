"""Tiles cover a range without gap or overlap, from windows that are kept, and a trend is what least squares say."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from streams.rules.windows.ranges import covered, tiles
from streams.rules.windows.trend import HOUR_MS, Mean, Means, trend
from streams.rules.windows.windows import SIZES_MS, WindowId

NOW_MS = 1_795_354_000_000
DAY_MS = SIZES_MS["day"]


def floors(now_ms: int) -> dict[str, int]:
    """What a series keeps: 60 minutes, 24 hours, 30 days."""
    kept = {"minute": 60, "hour": 24, "day": 30}
    return {name: now_ms - now_ms % size - (kept[name] - 1) * size for name, size in SIZES_MS.items()}


def check_kept_side_by_side(found: list[WindowId], held: Mapping[str, int]) -> int:
    """Each window is kept and begins where the one before it ends; returns where the last one ends."""
    at = found[0][1] if found else 0
    for interval, start in found:
        assert start == at
        assert start % SIZES_MS[interval] == 0
        assert start >= held[interval]
        at += SIZES_MS[interval]
    return at


@given(st.integers(0, 31 * DAY_MS), st.integers(1, 31 * DAY_MS), st.integers(0, DAY_MS))
def test_tiles_are_kept_windows_side_by_side_around_the_range(back: int, length: int, jitter: int) -> None:
    """Whatever is asked: contiguous, nothing of the kept range is missing, grown by less than a day at each end."""
    now = NOW_MS + jitter
    held = floors(now)
    begin = now - back
    end = min(begin + length, now + 1)
    found = tiles(begin, end, held)  # type: ignore[arg-type]
    check_kept_side_by_side(found, held)
    left, right = covered(found)
    if end > max(begin, held["day"]):
        assert left <= max(begin, held["day"]) < left + DAY_MS
        assert end <= right < end + DAY_MS
        assert len(found) <= 30 + 2 * 24 + 2 * 60
    else:
        assert found == []


def test_a_recent_range_is_answered_to_the_minute_and_a_day_by_one_window() -> None:
    """The last half hour needs minutes; two whole days need two windows."""
    held = floors(NOW_MS)
    begin = NOW_MS - NOW_MS % 60_000 - 30 * 60_000
    recent = tiles(begin, NOW_MS, held)  # type: ignore[arg-type]
    assert recent[0] == ("minute", begin)
    midnight = NOW_MS - NOW_MS % DAY_MS - 3 * DAY_MS
    assert tiles(midnight, midnight + 2 * DAY_MS, held) == [  # type: ignore[arg-type]
        ("day", midnight),
        ("day", midnight + DAY_MS),
    ]


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1), st.integers(1, 40)), min_size=4, max_size=30))
def test_the_slope_is_that_of_the_weighted_line(rows: list[tuple[int, float, int]]) -> None:
    """A window of n points weighs like n windows of one point."""
    means = [Mean(hour * HOUR_MS, count, value, 0.0) for hour, value, count in rows]
    found = trend(means)
    if len({hour for hour, *_ in rows}) < 3:
        assert found is None
        return
    assert found is not None
    xs = [float(hour) for hour, _, count in rows for _ in range(count)]
    ys = [value for _, value, count in rows for _ in range(count)]
    assert math.isclose(found.slope, statistics.linear_regression(xs, ys).slope, rel_tol=1e-6, abs_tol=1e-8)
    assert found.error >= 0


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 1), st.integers(1, 40)), min_size=4, max_size=30))
def test_series_laid_together_have_the_line_of_all_their_windows(rows: list[tuple[int, float, int]]) -> None:
    """Whichever series a window is of; and in parts as at once."""
    apart = trend([Mean(hour * HOUR_MS, count, value, 0.0) for hour, value, count in rows])
    whole, halves = Means(), (Means(), Means())
    for number, (hour, value, count) in enumerate(rows):
        whole.add("hour", hour * HOUR_MS, count, value, 0.0)
        halves[number % 2].add("hour", hour * HOUR_MS, count, value, 0.0)
    halves[0].merge(halves[1])
    for together in (trend(whole.finest()), trend(halves[0].finest())):
        assert (together is None) == (apart is None)
        if together is not None and apart is not None:
            assert math.isclose(together.slope, apart.slope, rel_tol=1e-6, abs_tol=1e-8)


def test_the_error_knows_how_few_points_there_are() -> None:
    """The same line through windows of scattered points: with a hundred times the points it is ten times surer."""
    few = trend([Mean(hour * HOUR_MS, 4, 0.9 - hour / 100, 0.04) for hour in range(6)])
    many = trend([Mean(hour * HOUR_MS, 400, 0.9 - hour / 100, 0.04) for hour in range(6)])
    assert few is not None
    assert many is not None
    assert few.slope == many.slope
    assert math.isclose(few.error / many.error, 10, rel_tol=1e-4)


@given(
    st.integers(1, 3000), st.integers(1, 100), st.integers(1, 40),
    st.integers(0, 41 * DAY_MS), st.integers(1, 41 * DAY_MS), st.integers(0, DAY_MS),
)  # fmt: skip
def test_tiles_are_kept_windows_whatever_is_kept(
    minutes: int, hours: int, days: int, back: int, length: int, jitter: int
) -> None:
    """Minutes may be kept for longer than hours, and hours for longer than days."""
    now = NOW_MS + jitter
    kept = {"minute": minutes, "hour": hours, "day": days}
    held = {name: now - now % size - (kept[name] - 1) * size for name, size in SIZES_MS.items()}
    begin = now - back
    end = min(begin + length, now + 1)
    found = tiles(begin, end, held)  # type: ignore[arg-type]
    at = check_kept_side_by_side(found, held)
    begin = max(begin, min(held.values()))
    if end > begin and len(found) < 2000:
        assert found[0][1] <= begin < found[0][1] + DAY_MS
        assert end <= at < end + DAY_MS
