"""Waits, tokens and cost: in data points, in windows, in alarms, and in what an earlier version wrote."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest

from schemas.messages import Aggregate, Anomaly, ConfidenceDataPoint, Task
from streams.rules.detection.alarms import SeriesId
from streams.rules.detection.detectors import Thresholds
from streams.rules.task_records import Success, TaskRecorder, Timing
from streams.rules.usage import Price, Prices
from streams.rules.windows.moments import Moments, PointSample
from streams.rules.windows.series import Series
from streams.rules.windows.windows import Span, Spans, Window, aggregate

NOON = 1_795_348_800_000
SERIES = SeriesId("a", "", "agent")
SPANS: Spans = {
    "minute": Span(60_000, 30_000, 60),
    "hour": Span(3_600_000, 300_000, 24),
    "day": Span(86_400_000, 3_600_000, 30),
}
EARLIER = Path(__file__).parents[1] / "data" / "series_v5.json"


def _point(index: int, **more: Any) -> ConfidenceDataPoint:
    values = {"agent_id": "a", "task_type": "agent", "confidence": 0.9, "success": True, "execution_time": 100}
    return ConfidenceDataPoint.model_validate({**values, "timestamp": NOON + index * 1000, **more})


def _fold(points: Iterable[dict[str, Any]], series: Series | None = None, begin: int = 0) -> list[Anomaly]:
    series = Series(SERIES, 0, SPANS, Thresholds()) if series is None else series
    for index, more in enumerate(points, begin):
        series.apply(_point(index, **more), index, lambda _: None)
    return series.anomalies


def _costs(count: int, mean: float = 0.004, seed: int = 1) -> list[dict[str, Any]]:
    rng = Random(seed)
    return [{"cost": mean * rng.lognormvariate(0, 0.4), "total_tokens": 1000} for _ in range(count)]


def test_a_data_point_says_what_its_answer_used_up() -> None:
    """Time without waiting (that of the last call), wait, tokens, cost."""
    recorder = TaskRecorder(
        app_id="app",
        processor="dispatch",
        prefix="t.",
        group="g",
        prices=Prices(models={"m": Price(input=1.0, output=2.0)}),
    )
    task = Task.model_validate({"id": "t1", "type": "agent", "target": "a", "payload": 1})
    answer = Success(b"1", 0.9, b'{"model":"m","usage":{"prompt_tokens":10,"completion_tokens":5}}')
    outputs = recorder.succeeded(task, {}, "a", answer, Timing(5000.0, 1, 20.0, 70.0), False, NOON)
    point = ConfidenceDataPoint.model_validate(
        orjson.loads(next(o.value for o in outputs if o.topic == "data-points") or b"")
    )
    assert (point.execution_time, point.wait_time, point.model) == (20.0, 70.0, "m")
    assert (point.input_tokens, point.output_tokens, point.total_tokens, point.cost) == (10, 5, 15, 2e-05)


def test_windows_have_sum_mean_and_p95_of_each() -> None:
    """Over the points that have a value; the others count for nothing."""
    window = Window()
    for index in range(100):
        more = {"cost": (index + 1) / 1000, "input_tokens": index + 1, "wait_time": 10.0} if index < 50 else {}
        window.observe(PointSample(_point(index, **more)), index)
    record = aggregate("a", "", "agent", ("minute", NOON), window)
    found = Aggregate.model_validate(record)
    assert found.count == 100
    assert found.cost is not None
    assert found.input_tokens is not None
    assert (found.cost.count, found.input_tokens.sum, found.input_tokens.mean) == (50, 1275, 25.5)
    assert found.cost.sum == pytest.approx(1.275)
    assert found.cost.p95 == pytest.approx(0.048, rel=0.011)
    assert found.wait_time is not None
    assert found.wait_time.mean == 10.0
    assert found.output_tokens is None
    assert "outputTokens" not in record


@pytest.mark.parametrize("cost", [999.0, 1600.0, 1e6, 1e9])
def test_answers_may_cost_thousands(cost: float) -> None:
    """In a currency of small units."""
    window = Window()
    for index in range(20):
        window.observe(PointSample(_point(index, cost=cost)), index)
    found = Aggregate.model_validate(aggregate("a", "", "agent", ("minute", NOON), window)).cost
    assert found is not None
    assert found.mean == cost
    assert found.p95 == pytest.approx(cost, rel=0.011)


@pytest.mark.parametrize("mean", [900.0, 2500.0, 100_000.0])
def test_costs_of_thousands_that_double_are_an_alarm(mean: float) -> None:
    """Up to what the rank test can tell apart; dearer answers are counted, and raise no false alarm."""
    found = _fold([*_costs(400, mean), *_costs(60, 4 * mean, 2)])
    assert [a.type for a in found if a.state == "firing"] == (["costly"] if mean < 3000 else [])


def test_windows_of_parts_equal_one_pass() -> None:
    """Whatever the order, bit for bit, after JSON too."""
    points = [_point(index, cost=0.1 * index / 7, wait_time=index * 1.1) for index in range(40)]
    whole, first, second = Moments(), Moments(), Moments()
    for point in points:
        whole.observe(PointSample(point))
    for index, point in enumerate(reversed(points)):
        (first, second)[index % 2].observe(PointSample(point))
    first.merge(Moments.from_json(json.loads(json.dumps(second.to_json()))))
    assert first == whole


def test_answers_that_cost_a_multiple_are_an_alarm_and_its_end() -> None:
    """One episode, with the factor in its details."""
    found = _fold([*_costs(400), *_costs(60, 0.016, 2), *_costs(60, 0.004, 3)])
    costly = [anomaly for anomaly in found if anomaly.type == "costly"]
    assert [anomaly.state for anomaly in costly] == ["firing", "resolved"]
    assert costly[0].id == costly[1].id
    assert costly[0].details.detector in ("rank-cost", "spike-cost")
    assert costly[0].severity == "medium"
    assert 2.5 < (costly[0].details.deviation or 0) < 8


def test_one_answer_of_fifty_times_the_cost_is_an_alarm() -> None:
    """It is over when the answers after it cost what they did."""
    found = _fold([*_costs(400), {"cost": 0.2}, *_costs(30, seed=2)])
    assert [(a.type, a.state, a.details.detector) for a in found] == [
        ("costly", "firing", "spike-cost"),
        ("costly", "resolved", "spike-cost"),
    ]
    assert "0.2" in (found[0].details.window or "")


@pytest.mark.parametrize("seed", range(3))
def test_costs_as_they_are_raise_no_alarm(seed: int) -> None:
    """Log-normal costs, waits and tokens, 3,000 points."""
    rng = Random(seed)
    points = [
        {
            "cost": rng.lognormvariate(-6, 0.8),
            "total_tokens": rng.randrange(1, 9000),
            "wait_time": rng.expovariate(0.01),
        }
        for _ in range(3000)
    ]
    assert _fold(points) == []


def test_tokens_stand_in_until_costs_are_known() -> None:
    """An alarm about tokens ends when prices are set: costs have another scale."""
    series = Series(SERIES, 0, SPANS, Thresholds())
    tokens = [{"total_tokens": 900 + index % 200} for index in range(300)]
    _fold([*tokens, *({"total_tokens": 9000} for _ in range(20))], series)
    assert [(a.type, a.state) for a in series.anomalies] == [("costly", "firing")]
    assert "tokens" in (series.anomalies[0].details.window or "")
    _fold(_costs(300), series, 320)
    assert [(a.type, a.state) for a in series.anomalies] == [("costly", "firing"), ("costly", "resolved")]


def test_waits_of_a_minute_are_a_low_alarm() -> None:
    """A long queue is not the agent's fault; short waits that double are none at all."""
    rng = Random(1)
    short = [{"wait_time": 20 * rng.lognormvariate(0, 0.5)} for _ in range(300)]
    assert _fold([*short, *({"wait_time": one["wait_time"] * 20} for one in short)]) == []
    found = _fold([*short, *({"wait_time": 60_000.0 + index} for index in range(60)), *short])
    assert [(a.type, a.severity, a.state, a.details.detector) for a in found] == [
        ("slow", "low", "firing", "wait"),
        ("slow", "low", "resolved", "wait"),
    ]


def test_waits_that_are_always_long_are_no_alarm() -> None:
    """An agent with a small rate has a queue every day."""
    rng = Random(2)
    assert _fold({"wait_time": 60_000 * rng.lognormvariate(0, 0.5)} for _ in range(300)) == []


@pytest.mark.parametrize("cut", [30, 399, 405, 420])
def test_a_restart_continues_exactly(cut: int) -> None:
    """The state is numbers; the alarms are the same as without a restart."""
    rng = Random(3)
    points = [{**one, "wait_time": rng.lognormvariate(3, 1)} for one in [*_costs(400), *_costs(60, 0.02, 2)]]
    whole = Series(SERIES, 0, SPANS, Thresholds())
    _fold(points, whole)
    before = Series(SERIES, 0, SPANS, Thresholds())
    _fold(points[:cut], before)
    after = Series.from_json(json.loads(json.dumps(before.to_json())), SERIES, 0, SPANS, Thresholds())
    _fold(points[cut:], after, cut)
    assert [a.wire() for a in after.anomalies] == [a.wire() for a in whole.anomalies]
    assert any(a.type == "costly" for a in whole.anomalies)
    assert after.to_json() == whole.to_json()


def test_a_record_of_version_5_is_read() -> None:
    """It has neither waits nor costs: they begin with the next point that has them."""
    written = json.loads(EARLIER.read_text())
    assert written[1] == 5
    again = Series.from_json(written, SERIES, 0, SPANS, Thresholds())
    again.anomalies.clear()
    begin = again.offset + 1
    found = _fold([*_costs(400), *_costs(60, 0.016, 2)], again, begin)
    assert "costly" in [anomaly.type for anomaly in found]
