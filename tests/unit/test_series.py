"""What an earlier version wrote is taken over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from schemas.messages import ConfidenceDataPoint
from streams.rules.detection.alarms import SeriesId
from streams.rules.detection.detectors import Thresholds
from streams.rules.windows.series import VERSION, Series
from streams.rules.windows.windows import Span, Spans

SERIES = SeriesId("a", "p", "agent")
SPANS: Spans = {
    "minute": Span(60_000, 30_000, 60),
    "hour": Span(3_600_000, 300_000, 24),
    "day": Span(86_400_000, 3_600_000, 30),
}
EARLIER = Path(__file__).parents[1] / "data" / "series_v5.json"
NOON_MS = 1_795_348_800_000


def _next(series: Series, offset: int, confidence: float) -> None:
    point = ConfidenceDataPoint(
        agent_id="a",
        pattern_name="p",
        task_type="agent",
        confidence=confidence,
        success=True,
        timestamp=NOON_MS + offset * 1000,
        execution_time=100,
    )
    assert series.apply(point, offset, lambda _: None)


def test_a_record_of_version_5_is_read_with_its_windows_and_its_open_alarm() -> None:
    """260 points, a sudden drop firing at the end; it resolves under the id it fired with, and the tests know the ring."""
    data = json.loads(EARLIER.read_text())
    assert data[1] == 5
    series = Series.from_json(data, SERIES, 0, SPANS, Thresholds())
    assert series.detectors is not None
    firing = dict(series.detectors.alarms.firing)
    assert "sudden_drop" in firing
    assert sum(w.moments.count for (interval, _), w in series.windows.open.items() if interval == "hour") == 260
    for offset in range(260, 300):
        _next(series, offset, 0.86)
    assert [(a.id, a.state) for a in series.anomalies if a.type == "sudden_drop"] == [
        (firing["sudden_drop"].id, "resolved")
    ]
    written = json.loads(json.dumps(series.to_json()))
    assert written[1] == VERSION
    assert Series.from_json(written, SERIES, 0, SPANS, Thresholds()).to_json() == series.to_json()


@pytest.mark.parametrize("version", [3, 99])
def test_a_record_of_another_version_is_refused_with_all_numbers(version: int) -> None:
    """A worker that is older than the state must not guess."""
    data = json.loads(EARLIER.read_text())
    data[1] = version
    with pytest.raises(ValueError, match=rf"{version}.*4 to 6"):
        Series.from_json(data, SERIES, 0, SPANS, Thresholds())
