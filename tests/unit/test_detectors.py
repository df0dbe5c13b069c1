"""The detectors: what must fire fires soon, what must not stays silent, an episode is one, a restart changes nothing."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable

import pytest

from schemas.messages import Anomaly
from streams.rules.detection.alarms import Moment, SeriesId, event_data
from streams.rules.detection.detectors import Detectors, Thresholds

SERIES = SeriesId("agent", "pattern", "agent")
STEP_MS = 1000


def detect(values: Iterable[float], detectors: Detectors | None = None, start: int = 0) -> list[tuple[int, Anomaly]]:
    """All transitions with the index of the point that brought them."""
    detectors = detectors or Detectors(SERIES, Thresholds())
    return [
        (index, anomaly)
        for index, value in enumerate(values, start)
        for anomaly in detectors.observe(value, Moment(0, index, index * STEP_MS))
    ]


def beta(seed: int, mean: float, count: int, kappa: float = 20) -> list[float]:
    """Confidences around a mean."""
    rng = random.Random(seed)
    return [rng.betavariate(mean * kappa, (1 - mean) * kappa) for _ in range(count)]


def of_type(found: list[tuple[int, Anomaly]], kind: str, state: str) -> list[int]:
    """Where transitions of that kind were."""
    return [index for index, anomaly in found if anomaly.type == kind and anomaly.state == state]


@pytest.mark.parametrize("level", [0.0, 0.5, 0.95, 1.0])
def test_constant_streams_stay_silent(level: float) -> None:
    """No change detector speaks when nothing changes, whatever the level."""
    found = detect([level] * 2000)
    assert {anomaly.type for _, anomaly in found} <= {"low_confidence"}
    assert level < 0.5 or not found


def test_two_valued_and_rounded_streams_stay_silent() -> None:
    """Models say 0.9 and 0.95 in turn, or round to 0.05."""
    assert detect([0.9, 0.95] * 1000) == []
    assert detect([round(value * 20) / 20 for value in beta(1, 0.85, 5000)]) == []


@pytest.mark.parametrize("seed", range(5))
def test_an_obvious_drop_fires_within_ten_points_and_once(seed: int) -> None:
    """From 0.85 to 0.4: one episode of sudden_drop, ten points at most."""
    found = detect(beta(seed, 0.85, 300) + beta(seed + 100, 0.4, 150))
    fired = of_type(found, "sudden_drop", "firing")
    assert len(fired) == 1
    assert 300 < fired[0] <= 310
    anomaly = next(a for _, a in found if a.type == "sudden_drop")
    assert anomaly.details.historical_average == pytest.approx(0.85, abs=0.03)
    assert anomaly.details.current_confidence is not None
    assert anomaly.details.current_confidence < 0.56
    assert len(anomaly.details.points) == 20


def test_a_drop_resolves_when_the_level_returns_and_may_fire_again() -> None:
    """Down, up, down: two episodes, each with its own id, each resolved with the id it fired with."""
    found = detect(beta(1, 0.85, 200) + beta(2, 0.4, 60) + beta(3, 0.85, 300) + beta(4, 0.4, 60) + beta(5, 0.85, 100))
    drops = [(anomaly.state, anomaly.id) for _, anomaly in found if anomaly.type == "sudden_drop"]
    assert [state for state, _ in drops] == ["firing", "resolved", "firing", "resolved"]
    assert drops[0][1] == drops[1][1] != drops[2][1] == drops[3][1]


def test_a_drop_that_lasts_becomes_the_new_normal() -> None:
    """After 200 points at the new level the episode is over and the level is not reported again."""
    found = detect(beta(1, 0.9, 200) + beta(2, 0.55, 2000))
    assert len(of_type(found, "sudden_drop", "firing")) == 1
    assert len(of_type(found, "sudden_drop", "resolved")) == 1


def test_drift_of_a_fifth_is_found_within_forty_points_and_both_ways() -> None:
    """The rank test needs about 6 points for 0.2 (river's ADWIN with its default delta needs about 50 at best)."""
    down = detect(beta(1, 0.85, 300) + beta(2, 0.65, 250))
    assert 300 < of_type(down, "drift", "firing")[0] <= 315
    up = detect(beta(1, 0.6, 300) + beta(2, 0.85, 150))
    first = next(anomaly for _, anomaly in up if anomaly.type == "drift")
    assert first.severity == "low"
    assert len(of_type(down, "drift", "resolved")) == 1


def test_false_alarms_are_rare() -> None:
    """Independent points, standard deviation 0.08: none in 20,000 (the seeds are fixed; the promise is about one in 10,000)."""
    assert detect(beta(77, 0.85, 20_000)) == []


def test_low_confidence_fires_and_resolves_with_hysteresis() -> None:
    """Mean of twenty below 0.5, over at 0.55."""
    found = detect(beta(1, 0.4, 60) + beta(2, 0.8, 60))
    assert len(of_type(found, "low_confidence", "firing")) == 1
    assert of_type(found, "low_confidence", "firing")[0] <= 60
    assert len(of_type(found, "low_confidence", "resolved")) == 1
    assert of_type(found, "low_confidence", "resolved")[0] > 60


def test_high_variance_is_about_the_standard_deviation_and_needs_thirty_points() -> None:
    """A coin between 0.1 and 0.9 has 0.4; it is seen at the first check interval with 30 points, and ends when the coin does."""
    rng = random.Random(4)
    coin = [rng.choice((0.1, 0.9)) for _ in range(180)]
    found = detect(coin + [0.9] * 400)
    assert of_type(found, "high_variance", "firing") == [60]
    assert len(of_type(found, "high_variance", "resolved")) == 1
    assert of_type(detect([0.1, 0.9] * 14), "high_variance", "firing") == []
    quiet = detect(beta(1, 0.85, 2000, kappa=6))
    assert of_type(quiet, "high_variance", "firing") == []


def test_an_idle_series_is_looked_at_by_the_clock() -> None:
    """Points of one interval and then none: the look that a later point would have brought comes from outside."""
    detectors = Detectors(SERIES, Thresholds())
    assert detect([0.1, 0.9] * 20, detectors) == []
    assert detectors.due_ms() == 60_000
    found = detectors.evaluate_idle(Moment(0, 39, 39_000))
    assert {anomaly.type for anomaly in found} == {"high_variance"}
    assert detectors.due_ms() == -1


@pytest.mark.parametrize("every", [1, 7, 150])
def test_a_restart_at_any_point_continues_identically(every: int) -> None:
    """State through JSON every few points gives the very same transitions as no restart at all."""
    rng = random.Random(9)
    values = [
        value
        for mean in (0.85, 0.35, 0.8, 0.6)
        for value in beta(rng.randrange(1000), mean, 170, kappa=rng.choice((6, 20)))
    ]
    whole = detect(values)
    assert whole
    detectors = Detectors(SERIES, Thresholds())
    parts: list[tuple[int, Anomaly]] = []
    for start in range(0, len(values), every):
        parts += detect(values[start : start + every], detectors, start)
        detectors = Detectors.from_json(json.loads(json.dumps(detectors.to_json())), SERIES, Thresholds())
    assert parts == whole


def test_the_event_says_what_the_original_documents() -> None:
    """`{type, agentId, details}`, and ours beside them."""
    anomaly = detect(beta(1, 0.85, 100) + [0.1] * 10)[0][1]
    kind, data = event_data(anomaly)
    assert kind == "anomaly:detected"
    assert {"type", "agentId", "details", "anomalyId", "severity", "patternName"} == data.keys()
    assert data["details"]["detector"]


@pytest.mark.parametrize("interval_ms", [10_000, 60_000, 600_000])
def test_a_changed_check_interval_takes_effect(interval_ms: int) -> None:
    """Whether it became longer or shorter: a series that scatters is found at the end of an interval of the new length."""
    rng = random.Random(4)
    detectors = Detectors(SERIES, Thresholds())
    assert detect([0.9] * 3600, detectors) == []
    written = json.loads(json.dumps(detectors.to_json()))
    detectors = Detectors.from_json(written, SERIES, Thresholds(check_interval_ms=interval_ms))
    found = detect([rng.choice((0.1, 0.9)) for _ in range(1300)], detectors, 3600)
    [at] = of_type(found, "high_variance", "firing")
    assert at <= 3600 + 60 + interval_ms // STEP_MS


def test_an_idle_series_is_evaluated_once() -> None:
    """A few points that a later one is to join: they are not evaluated again at each boundary, through restarts."""
    detectors = Detectors(SERIES, Thresholds())
    detect([0.9] * 63, detectors)
    assert detectors.due_ms() == 120_000
    assert detectors.evaluate_idle(Moment(0, 62, 62_000)) == []
    assert detectors.due_ms() == -1
    again = Detectors.from_json(json.loads(json.dumps(detectors.to_json())), SERIES, Thresholds())
    assert again.due_ms() == -1
    assert again.observe(0.9, Moment(0, 63, 63_000)) == []
    assert again.due_ms() == 120_000


@pytest.mark.parametrize(("step_ms", "end"), [(1000, "00:01:00"), (100_000, "00:07:00")], ids=["one", "several joined"])
def test_an_alarm_of_a_check_interval_names_the_end_of_its_points(step_ms: int, end: str) -> None:
    """Not that of the interval in which the next point came, an hour later."""
    detectors = Detectors(SERIES, Thresholds())
    for offset in range(5):
        assert not detectors.observe(0.4, Moment(0, offset, offset * step_ms))
    [found] = detectors.observe(0.4, Moment(0, 5, 3_600_000))
    assert (found.type, found.details.window) == ("low_confidence", f"5 points to 1970-01-01T{end}.000Z")
