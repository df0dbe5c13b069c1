"""One incident is one episode: stuck values, levels that move for good and come back, seasons that move with their level."""

from __future__ import annotations

import json
import math
from array import array
from base64 import b64decode, b64encode
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from schemas.messages import Anomaly
from streams.rules.detection.alarms import Moment, SeriesId
from streams.rules.detection.detectors import Detectors, Thresholds
from streams.rules.detection.ranks import LEVEL, RankTest
from streams.rules.detection.tail import Tail

SERIES = SeriesId("a", "", "agent")
DAY = 288
STEP_MS = 300_000
START_MS = 1_790_000_000_000


def _run(values: Sequence[float], detectors: Detectors | None = None, begin: int = 0) -> list[tuple[int, Anomaly]]:
    detectors = Detectors(SERIES, Thresholds()) if detectors is None else detectors
    return [
        (index, anomaly)
        for index, value in enumerate(values, begin)
        for anomaly in detectors.observe(round(min(max(value, 0), 1), 4), Moment(0, index, START_MS + index * STEP_MS))
    ]


def _firing(found: list[tuple[int, Anomaly]], begin: int = 0) -> list[tuple[int, str, str]]:
    return [(i - begin, a.type, a.severity) for i, a in found if a.state == "firing" and i >= begin]


def _steady(count: int, mean: float = 0.8, spread: float = 0.03, seed: int = 1) -> list[float]:
    rng = Random(seed)
    return [mean + rng.gauss(0, spread) for _ in range(count)]


def _daily(count: int, seed: int = 1, begin: int = 0) -> list[float]:
    rng = Random(seed)
    return [0.5 + 0.2 * math.sin(2 * math.pi * i / DAY) + rng.gauss(0, 0.03) for i in range(begin, begin + count)]


def test_a_stuck_value_is_reported_while_drifts_pause() -> None:
    """Alarms that return have longer and longer pauses; a stuck value is another thing than a level that moves."""
    detectors = Detectors(SERIES, Thresholds())
    _run(_steady(600), detectors)
    kept = detectors.to_json()
    _, _, (_, pauses, *_), *_ = kept
    pauses.append(["drift", 2500])
    detectors = Detectors.from_json(kept, SERIES, Thresholds())
    found = _run([*[0.8] * 60, *_steady(60, seed=99)], detectors, 600)
    assert [(a.details.detector, a.state) for _, a in found] == [("flat-line", "firing"), ("level", "resolved")]
    assert found[0][0] < 615


def test_a_drop_to_one_value_is_one_episode() -> None:
    """An agent that breaks answers the same all the time: the drop says so already."""
    found = _run([*_steady(600), *[0.3] * 60])
    level = [(i, a) for i, a in found if i >= 600 and a.type in ("sudden_drop", "drift") and a.state == "firing"]
    assert [a.type for _, a in level] == ["sudden_drop"]


def test_the_way_back_from_a_new_normal_is_no_second_incident() -> None:
    """The level returns after it was taken for normal: still told, as low."""
    found = _run([*_steady(800), *_steady(260, 0.6, seed=2), *_steady(300, seed=3)])
    severities = [severity for i, _, severity in _firing(found) if i >= 1060]
    assert severities == ["low"]
    assert _firing(found, 800)[0][2] == "medium"


def test_a_change_to_elsewhere_after_a_new_normal_is_a_new_incident() -> None:
    """Only the level from before is known."""
    found = _firing(_run([*_steady(800), *_steady(260, 0.6, seed=2), *_steady(100, 0.4, seed=3)]), 1060)
    assert [severity for _, _, severity in found][:1] == ["medium"]


@pytest.mark.parametrize("seed", range(8))
def test_the_shift_of_two_values_is_judged_by_the_changed_points(seed: int) -> None:
    """Two of seven points have changed: their mean counts, not that of all seven."""
    rng = Random(seed)
    before = [0.9 if rng.random() < 0.7 else 0.95 for _ in range(800)]
    found = _firing(_run([*before, *[value - 0.22 for value in before[:60]]]), 800)
    assert found[0][1:] == ("drift", "medium")
    assert found[0][0] < 5


def test_a_daily_series_that_moves_for_good_alarms_once() -> None:
    """After the shift was taken for normal, the day's profile has moved with it."""
    values = _daily(10 * DAY)
    shifted = [value - 0.25 for value in _daily(4 * DAY, 2, 10 * DAY)]
    found = [row for row in _firing(_run([*values, *shifted]), 10 * DAY) if row[2] != "low"]
    assert len({kind for _, kind, _ in found}) == len(found) >= 1
    assert max(i for i, _, _ in found) < 30


def test_a_daily_series_is_back_when_it_is_where_it_is_at_that_time_of_the_day() -> None:
    """Six hours later normal is another level: the episode ends with the drop, not with the new normal."""
    values = _daily(13 * DAY)
    begin = 10 * DAY - 20
    for index in range(begin, begin + 90):
        values[index] -= 0.25
    found = _run(values)
    told = [(i - begin, a.state) for i, a in found if i >= begin and a.type in ("drift", "sudden_drop")]
    assert told[0][1] == "firing"
    assert told[0][0] < 10
    assert [state for i, state in told if 90 <= i < 130] == ["resolved"]
    assert len(told) == 2


@pytest.mark.parametrize("cut", [10 * DAY + 35, 10 * DAY + 90, 10 * DAY + 300])
def test_a_restart_amid_an_incident_continues_exactly(cut: int) -> None:
    """State is numbers, those about seasons and levels left too."""
    values = [*_daily(10 * DAY), *(value - 0.25 for value in _daily(2 * DAY, 2, 10 * DAY))]
    whole = _run(values)
    before = Detectors(SERIES, Thresholds())
    told = _run(values[:cut], before)
    after = Detectors.from_json(json.loads(json.dumps(before.to_json())), SERIES, Thresholds())
    told += _run(values[cut:], after, cut)
    assert [(i, a.wire()) for i, a in told] == [(i, a.wire()) for i, a in whole]


def test_two_kinds_of_values_do_not_hide_a_third() -> None:
    """Bursts of 0.3 now and then; one point of 0.9 is none of them."""
    rng = Random(7)
    values: list[float] = []
    while len(values) < 3000:
        values += [0.15 + rng.gauss(0, 0.02) for _ in range(rng.randrange(60, 140))]
        values += [0.4 + rng.gauss(0, 0.03) for _ in range(rng.randrange(3, 9))]
    values += [0.15 + rng.gauss(0, 0.02) for _ in range(50)]
    at = len(values)
    found = _firing(_run([*values, 0.98, *(0.15 + rng.gauss(0, 0.02) for _ in range(30))]), at)
    assert [kind for _, kind, _ in found] == ["outlier"]


def test_states_of_version_5_are_read() -> None:
    """Histograms as bins and counts in turn, profiles as lists."""
    detectors = Detectors(SERIES, Thresholds())
    _run(_daily(4 * DAY), detectors)
    new = json.loads(json.dumps(detectors.to_json()))
    old = json.loads(json.dumps(new))
    old[3] = _pairs(old[3])
    deviation = old[7][0]
    deviation[1] = deviation[1][:2]
    for profile in deviation[5]:
        means = array("f", b64decode(profile[0])) if profile[0] else array("f")
        profile[0] = [None if mean != mean else mean for mean in means]
    deviation[6] = [_tail_pairs(tail) for tail in deviation[6]]
    del old[7][7:]
    del old[8:]
    again = Detectors.from_json(old, SERIES, Thresholds())
    values = _daily(2 * DAY, 3, 4 * DAY)
    assert _run(values, again, 4 * DAY) == _run(values, detectors, 4 * DAY)
    mine, theirs = again.to_json(), detectors.to_json()
    assert mine[3] == theirs[3]
    assert mine[7][0][5:] == theirs[7][0][5:]


def _pairs(data: list[Any]) -> list[Any]:
    counts, products, evidence, run, low, code = data
    held = enumerate(array(code, b64decode(counts)), low)
    return [[n for index, count in held if count for n in (index, count)], products, evidence, run]


def _tail_pairs(data: list[Any]) -> list[Any]:
    counts, held, first = data
    return [[n for i, count in enumerate(array("H", b64decode(counts)), first) if count for n in (i, count)], held]


def test_a_histogram_outgrows_two_bytes() -> None:
    """A constant stream of more points than two bytes count: the test goes on, and its state is read again."""
    test = RankTest.from_json(
        [b64encode(array("H", [65_534]).tobytes()).decode(), [0.0] * 7, [0.0] * 4, 0, 190, "H"], LEVEL, 10_000
    )
    assert not any(test.observe(190) for _ in range(5))
    again = RankTest.from_json(json.loads(json.dumps(test.to_json())), LEVEL, 10_000)
    assert again.count == test.count == 65_539
    assert any(again.observe(60) for _ in range(20))


@pytest.mark.parametrize("seed", range(3))
def test_the_threshold_lies_where_the_wanted_rate_is(seed: int) -> None:
    """Exponential scores: the quantile of one in ten thousand, from at most five thousand scores."""
    rng = Random(seed)
    tail = Tail(1e-4, 1.0)
    for _ in range(20_000):
        tail.push(rng.expovariate(50))
    assert 0.7 < tail.limit / (math.log(1e4) / 50) < 1.4
