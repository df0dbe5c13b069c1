"""Honest agents look honest at any number of outcomes, overconfident ones are put right, parts merge, verdicts count once."""

from __future__ import annotations

import json
import math
import random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from schemas.messages import AgentCalibration, ConfidenceDataPoint
from streams.agents.calibration_table import CalibrationTable
from streams.rules.detection.alarms import SeriesId
from streams.rules.detection.calibration import BINS, Calibration, calibrated
from streams.rules.detection.detectors import Thresholds
from streams.rules.detection.verdicts import KEPT, Verdicts
from streams.rules.windows.series import Series
from streams.rules.windows.windows import Span, Spans, Window, WindowId
from streams.statistics.state import State, calibration_message

SPANS: Spans = {
    "minute": Span(60_000, 30_000, 60),
    "hour": Span(3_600_000, 300_000, 24),
    "day": Span(86_400_000, 3_600_000, 30),
}
NOON_MS = 1_795_348_800_000


def truth(stated: float) -> float:
    """What the overconfident agent's confidence is worth."""
    return 1 / (1 + math.exp(-(0.6 * math.log(stated / (1 - stated)) - 0.8)))


def outcomes(seed: int, count: int, honest: bool) -> list[tuple[float, bool]]:
    """Stated confidence around .85 and what came of it."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        stated = min(max(rng.betavariate(17, 3), 0.001), 0.999)
        found.append((stated, rng.random() < (stated if honest else truth(stated))))
    return found


def filled(values: list[tuple[float, bool]]) -> Calibration:
    """All of them."""
    found = Calibration()
    for confidence, success in values:
        found.add(confidence, success)
    return found


@pytest.mark.parametrize("count", [30, 100, 1000])
def test_an_honest_agent_shows_no_error_and_a_gap_within_its_interval(count: int) -> None:
    """Where the plain ten-bin error of a perfect agent would show 0.098, 0.053, 0.017."""
    whole = [filled(outcomes(seed, count, True)) for seed in range(40)]
    assert sum(c.error() for c in whole) / 40 < 0.05
    inside = sum(1 for c in whole if c.gap()[1] <= 0 <= c.gap()[2])
    assert inside >= 36


@pytest.mark.parametrize(("count", "excess"), [(30, 0.02), (100, 0.011), (300, 0.007), (1000, 0.003)])
def test_an_overconfident_agent_is_put_right(count: int, excess: float) -> None:
    """Mean square distance of the calibrated confidence from the truth; raw it is about 0.08."""
    rng = random.Random(1)
    total = 0.0
    for seed in range(20):
        table = filled(outcomes(seed, count, False)).table()
        assert table is not None
        assert len(table) == BINS
        assert table == sorted(table)
        for _ in range(100):
            stated = min(max(rng.betavariate(17, 3), 0.001), 0.999)
            total += (calibrated(table, stated) - truth(stated)) ** 2 / 2000
    assert total <= excess


def test_few_outcomes_make_no_table_and_merged_parts_equal_the_whole() -> None:
    """Nine are not enough; sums of integers do not mind the order."""
    values = outcomes(3, 500, False)
    assert filled(values[:9]).table() is None
    parts = Calibration()
    for start in (200, 0, 350):
        parts.merge(filled(values[start : {0: 200, 200: 350, 350: 500}[start]]))
    assert parts == filled(values)
    assert parts.brier() == pytest.approx(sum((c - s) ** 2 for c, s in values) / 500, abs=1e-4)
    changed = filled(values)
    changed.correct(values[7][0], not values[7][1])
    assert changed == filled([*values[:7], (values[7][0], not values[7][1]), *values[8:]])


def _point(offset: int, confidence: float, success: bool, task_id: str, feedback: bool = False) -> ConfidenceDataPoint:
    return ConfidenceDataPoint(
        agent_id="a", pattern_name="", task_type="agent", confidence=confidence, success=success,
        timestamp=NOON_MS + offset * 1000, execution_time=5, task_id=task_id, feedback=feedback,
    )  # fmt: skip


def _series() -> Series:
    return Series(SeriesId("a", "", "agent"), 0, SPANS, Thresholds())


def test_feedback_corrects_the_windows_once_and_a_changed_verdict_changes_them_back() -> None:
    """Three answers; the second turns out wrong, is said so twice, then right after all."""
    series = _series()
    closed: dict[WindowId, Window] = {}
    for offset in range(3):
        series.apply(_point(offset, 0.9, True, f"t{offset}"), offset, closed.get)
    revisions = []

    def counts() -> tuple[int, int, float]:
        window = series.windows.open["hour", NOON_MS]
        revisions.append(window.revision)
        return window.moments.count, window.moments.successes, round(window.moments.brier(), 6)

    assert counts() == (3, 3, 0.01)
    wrong = _point(1, 0.9, False, "t1", feedback=True)
    series.apply(wrong, 3, closed.get)
    assert counts() == (3, 2, 0.276667)
    series.apply(wrong, 4, closed.get)
    assert counts() == (3, 2, 0.276667)
    series.apply(wrong, 3, closed.get)  # a replay
    series.apply(_point(1, 0.9, True, "t1", feedback=True), 5, closed.get)
    assert counts() == (3, 3, 0.01)
    assert revisions[0] < revisions[1] == revisions[2] < revisions[3]
    assert series.calibration == filled([(0.9, True)])
    again = Series.from_json(json.loads(json.dumps(series.to_json())), series.id, 0, SPANS, Thresholds())
    assert again.to_json() == series.to_json()


def test_feedback_about_a_point_nobody_has_changes_no_window_and_moves_no_clock() -> None:
    """A verdict on an unknown task, far in the future: it counts for the calibration alone."""
    series = _series()
    series.apply(_point(0, 0.9, True, "t0"), 0, lambda _: None)
    series.apply(_point(999_999, 0.4, False, "other", feedback=True), 1, lambda _: None)
    assert series.windows.watermark_ms == NOON_MS
    assert series.windows.open["hour", NOON_MS].moments.successes == 1
    assert series.calibration.count == 1


def test_answers_alone_teach_nothing_of_how_sure_to_be() -> None:
    """Dispatch tells success for every answer and confidence 0 for every failure: no table may come of that."""
    series = _series()
    for offset in range(200):
        failed = offset % 10 == 0
        series.apply(_point(offset, 0.0 if failed else 0.8, not failed, f"t{offset}"), offset, lambda _: None)
    assert series.calibration.count == 0
    series.apply(_point(200, 0.8, False, "t200"), 200, lambda _: None)
    assert series.judged == "points"


def test_only_verdicts_make_an_agent_miscalibrated_once_there_are_any() -> None:
    """Every task is answered, half of the answers are wrong, as only feedback tells."""
    series = _series()
    kinds = []
    for offset in range(0, 400, 2):
        task = f"t{offset}"
        series.apply(_point(offset, 0.9, True, task), offset, lambda _: None)
        series.apply(_point(offset, 0.9, offset % 4 == 0, task, feedback=True), offset + 1, lambda _: None)
        kinds += [a.type for a in series.anomalies if a.state == "firing"]
        series.anomalies.clear()
    assert kinds == ["miscalibrated"]


def test_verdicts_are_bounded() -> None:
    """The oldest task is forgotten."""
    verdicts = Verdicts()
    for number in range(KEPT + 1):
        verdicts.change(f"t{number}", True)
    assert len(verdicts) == KEPT
    assert verdicts.first("t0")
    assert not verdicts.first("t1")


def test_an_agents_calibration_is_published_as_it_grows_and_read_by_dispatch() -> None:
    """First at ten outcomes, then with five more; the table gives what the record says."""
    state = State(table=cast("Any", SimpleNamespace(data={})), spans=SPANS, limits=None)
    published: list[tuple[int, AgentCalibration]] = []
    for offset in range(17):
        live = state.apply(_point(offset, 0.9, offset % 2 == 0, f"t{offset}", feedback=True), 0, offset)
        found = state.calibration(live)
        if found is not None:
            published.append((offset, found))
    assert [(offset, found.count) for offset, found in published] == [(9, 10), (14, 15)]
    newest = published[-1][1]
    assert newest.gap > 0.2
    table = CalibrationTable({}, "parallax.")
    assert table.of("a", 0.9) is None
    value = json.dumps(newest.wire()).encode()
    table.apply(cast("Any", SimpleNamespace(value=value, key=b"a", headers=(), offset=1)))
    assert table.of("a", 0.9) == newest.table[18] < 0.8
    table.apply(cast("Any", SimpleNamespace(value=None, key=b"a", headers=(), offset=2)))
    assert table.of("a", 0.9) is None
    assert calibration_message("a", state.calibrations("a"), [0.0] * 21).count == 17


def test_a_verdict_may_change_after_all_counts_were_halved() -> None:
    """The only outcome of its bin, and one of three: what is left of them is never negative."""
    series = _series()
    rare = [_point(n, 0.3 + n / 20, True, f"r{n}", feedback=True) for n in (0, 1, 1, 1)]
    for offset in range(3997):
        series.apply(_point(offset, 0.9, True, f"t{offset}", feedback=True), offset, {}.get)
    for offset, point in enumerate(rare, 3997):
        series.apply(point.model_copy(update={"task_id": f"r{offset}"}), offset, {}.get)
    assert series.calibration.count == 1999
    for offset, point in enumerate(rare, 3997):
        again = point.model_copy(update={"task_id": f"r{offset}", "success": False})
        series.apply(again, offset + 4, {}.get)
    series.apply(_point(9, 0.3, False, "last", feedback=True), 4010, {}.get)
    bins = {round(b.confidence, 2): (b.count, b.rate) for b in series.calibration.bins()}
    assert bins == {0.3: (1, 0.0), 0.35: (1, 0.0), 0.9: (1998, 1.0)}
    table = series.calibration.table()
    assert table is not None
    assert calibration_message("a", series.calibration, table).success_rate == 1998 / 2000


def test_halved_counts_keep_their_means() -> None:
    """Bins with few outcomes among thousands, halved again and again."""
    rng, found = random.Random(5), Calibration()
    for number in range(40_000):
        confidence = rng.choice((0.05, 0.2, 0.4)) if number % 400 == 0 else 0.97
        found.add(confidence, rng.random() < confidence)
        if found.count > 4000:
            found.fade()
    assert {round(b.confidence, 2) for b in found.bins()} == {0.05, 0.2, 0.4, 0.97}
    assert 0.025 < found.brier() < 0.04
    assert abs(found.gap()[0]) < 0.02


def test_broken_counts_of_earlier_versions_are_read() -> None:
    """More successes than outcomes, fewer than none, and a sum of more than the outcomes can have stated."""
    read = Calibration.from_json([[[0, 0, -1, 4], [4, 1, -1, 3000], [6, 2, 3, 40_000], [18, 9, 8, 81_000]], 0, 0, 0])
    assert [(b.count, b.confidence, b.rate) for b in read.bins()] == [(1, 0.3, 0.0), (2, 1.0, 1.0), (9, 0.9, 8 / 9)]
