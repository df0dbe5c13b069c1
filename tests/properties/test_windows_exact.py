"""Windows are exact: whatever the order, the batches and the replays, they equal a plain recount."""

from __future__ import annotations

import json
import math
import random
import statistics
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.messages import ConfidenceDataPoint
from streams.rules.detection.alarms import SeriesId
from streams.rules.detection.detectors import Thresholds
from streams.rules.windows.moments import Moments, PointSample
from streams.rules.windows.series import Series
from streams.rules.windows.windows import SIZES_MS, Span, Spans, Window, WindowId

SERIES = SeriesId("a", "p", "agent")
SPANS: Spans = {
    "minute": Span(60_000, 30_000, 60),
    "hour": Span(3_600_000, 300_000, 24),
    "day": Span(86_400_000, 3_600_000, 30),
}
BASE_MS = 1_795_354_000_000

confidences = st.floats(0, 1, allow_nan=False) | st.sampled_from((0.0, 0.1, 0.5, 0.95, 1.0, 5e-324, 1 - 2**-53))
times = st.floats(0, 1e9, allow_nan=False) | st.sampled_from((0.0, 0.05, 1.0, 250.0))
samples = st.tuples(confidences, st.booleans(), times)


def point(confidence: float, success: bool, execution_ms: float, time_ms: int = BASE_MS) -> ConfidenceDataPoint:
    """One data point of the series."""
    return ConfidenceDataPoint(
        agent_id="a",
        pattern_name="p",
        task_type="agent",
        confidence=confidence,
        success=success,
        timestamp=time_ms,
        execution_time=execution_ms,
    )


def folded(values: list[tuple[float, bool, float]]) -> Moments:
    """One pass."""
    moments = Moments()
    for value in values:
        moments.observe(PointSample(point(*value)))
    return moments


def merged(*parts: Moments) -> Moments:
    """All parts, left to right."""
    whole = Moments()
    for part in parts:
        whole.merge(part)
    return whole


@given(st.lists(samples), st.lists(samples), st.lists(samples))
def test_merge_commutes_associates_and_equals_one_pass(a: Any, b: Any, c: Any) -> None:
    """Bit for bit, not nearly."""
    x, y, z = folded(a), folded(b), folded(c)
    assert merged(x, y) == merged(y, x)
    assert merged(merged(x, y), z) == merged(x, merged(y, z)) == folded([*a, *b, *c])


@given(st.lists(samples, min_size=1), st.randoms(use_true_random=False))
def test_any_order_gives_the_same_and_what_the_standard_library_says(values: Any, rng: random.Random) -> None:
    """Mean and variance to 1e-12 of `statistics`, calibration by its definition, quantiles within their accuracy."""
    shuffled = list(values)
    rng.shuffle(shuffled)
    moments = folded(shuffled)
    assert moments == folded(values)
    scores = [value[0] for value in values]
    assert moments.count == len(values)
    assert moments.successes == sum(value[1] for value in values)
    assert math.isclose(moments.mean(), statistics.fmean(scores), abs_tol=1e-12)
    assert math.isclose(moments.variance(), statistics.pvariance(scores), abs_tol=1e-12)
    assert 0 <= moments.variance() <= 0.25
    assert (moments.min, moments.max) == (min(scores), max(scores))
    assert math.isclose(moments.mean_time_ms(), statistics.fmean(v[2] for v in values), rel_tol=1e-12, abs_tol=1e-12)
    assert math.isclose(moments.brier(), statistics.fmean((v[0] - v[1]) ** 2 for v in values), abs_tol=1e-12)
    groups: dict[int, list[Any]] = {}
    for value in values:
        groups.setdefault(min(int(value[0] * 10), 9), []).append(value)
    ece = sum(abs(sum(v[0] for v in group) - sum(v[1] for v in group)) for group in groups.values()) / len(values)
    assert math.isclose(moments.ece(), ece, abs_tol=1e-12)
    ordered = sorted(value[2] for value in values)
    median = ordered[math.ceil(len(ordered) / 2) - 1]
    estimate = moments.time_quantiles_ms(0.5)[0]
    assert math.isclose(estimate, median, rel_tol=0.0100001) or (median < 0.1 and estimate == 0)
    low = sorted(scores)[math.ceil(len(scores) / 10) - 1]
    assert abs(moments.confidence_quantiles(0.1)[0] - low) <= 1 / 400 + 1e-9


@given(st.lists(samples))
def test_json_round_trip(values: Any) -> None:
    """Through orjson, which cannot write large integers."""
    moments = folded(values)
    assert Moments.from_json(orjson.loads(orjson.dumps(moments.to_json()))) == moments


class Store:
    """What the table does: a series' record and its closed windows, as JSON text."""

    def __init__(self) -> None:
        self.series: str | None = None
        self.closed: dict[WindowId, str] = {}
        self.published: dict[tuple[WindowId, int], str] = {}
        self.anomalies: dict[tuple[str, str], str] = {}

    def open(self) -> Series:
        """The series as it was last written."""
        if self.series is None:
            return Series(SERIES, 0, SPANS, Thresholds())
        return Series.from_json(json.loads(self.series), SERIES, 0, SPANS, Thresholds())

    def archived(self, key: WindowId) -> Window | None:
        """A closed window."""
        text = self.closed.get(key)
        return None if text is None else Window.from_json(json.loads(text))

    def flush(self, series: Series, *, torn: bool = False) -> None:
        """Publish, then write closed windows, then (unless torn by a crash) the series' record."""
        for key, window in series.windows.touched.items():
            text = json.dumps(window.moments.to_json())
            assert self.published.setdefault((key, window.revision), text) == text, "a revision must not change"
            if window.closed:
                self.closed[key] = json.dumps(window.to_json())
        for anomaly in series.anomalies:
            text = anomaly.model_dump_json()
            assert self.anomalies.setdefault((anomaly.id, anomaly.state), text) == text
        series.windows.touched.clear()
        series.anomalies.clear()
        if not torn:
            self.series = json.dumps(series.to_json())

    def all(self) -> dict[WindowId, Moments]:
        """Every window, open or closed."""
        found = {key: Window.from_json(json.loads(text)).moments for key, text in self.closed.items()}
        return found | {key: window.moments for key, window in self.open().windows.open.items()}


def stream(rng: random.Random, count: int, jitter_ms: int) -> list[ConfidenceDataPoint]:
    """Points with growing time, out of order by up to `jitter_ms`, with a drop in the middle."""
    points = []
    for index in range(count):
        mean = 0.3 if count // 2 < index < count * 3 // 4 else 0.85
        time_ms = BASE_MS + index * 2000 - rng.randrange(jitter_ms)
        value = rng.betavariate(mean * 20, (1 - mean) * 20)
        points.append(point(value, rng.random() < value, rng.random() * 1000, time_ms))
    return points


def run(points: list[ConfidenceDataPoint], batches: list[int], crashes: set[int], torn: bool) -> Store:
    """Feed in batches; at the named ones crash before (torn: in the middle of) the write and read again from the commit."""
    store = Store()
    committed = 0
    series = store.open()
    step = 0
    while committed < len(points):
        size = batches[step % len(batches)]
        for offset in range(committed, min(committed + size, len(points))):
            series.apply(points[offset], offset, store.archived)
        if step in crashes:
            store.flush(series, torn=True) if torn else None
            series = store.open()
        else:
            store.flush(series)
            if step % 3 != 2:  # a commit that did not get through: the batch is read again
                committed = min(committed + size, len(points))
        step += 1
    return store


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32),
    st.lists(st.integers(1, 90), min_size=1, max_size=5),
    st.sets(st.integers(0, 30)),
    st.booleans(),
    st.sampled_from((1, 5_000, 200_000)),
)
def test_batches_crashes_and_replays_change_nothing(
    seed: int, batches: list[int], crashes: set[int], torn: bool, jitter_ms: int
) -> None:
    """Windows equal one pass and a recount, anomalies are the same with the same ids, revisions never change their content."""
    points = stream(random.Random(seed), 600, jitter_ms)
    calm = run(points, [len(points)], set(), False)
    rough = run(points, batches, crashes, torn)
    assert rough.all() == calm.all()
    assert rough.anomalies == calm.anomalies
    assert any(anomaly[1] == "firing" for anomaly in calm.anomalies)
    expected: dict[WindowId, Moments] = {}
    for item in points:
        for interval, size in SIZES_MS.items():
            key = (interval, item.timestamp - item.timestamp % size)
            expected.setdefault(key, Moments()).observe(PointSample(item))
    assert calm.all() == expected


@given(st.lists(st.tuples(st.integers(0, 3 * 86_400_000), samples), min_size=1, max_size=60))
def test_every_point_is_counted_or_counted_as_dropped(values: Any) -> None:
    """Whatever the times: each point is in exactly one window of each interval, or in that interval's drop counter."""
    store = Store()
    series = store.open()
    for offset, (time_ms, value) in enumerate(values):
        series.apply(point(*value, time_ms=BASE_MS + time_ms), offset, store.archived)
        store.flush(series)
    windows = store.all()
    for interval in SIZES_MS:
        counted = sum(moments.count for key, moments in windows.items() if key[0] == interval)
        assert counted + series.windows.dropped[interval] == len(values)
