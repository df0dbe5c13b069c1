"""The live statistics: what is asked is whole at every moment."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from schemas.messages import AnomalyDetails, AnomalyType, ConfidenceDataPoint
from streams.rules.detection.alarms import Moment
from streams.rules.detection.detectors import Thresholds
from streams.rules.windows.windows import Span
from streams.statistics.query import Question, firing, part, stats_of
from streams.statistics.state import Live, State

SPANS: Any = {"minute": Span(60_000, 0, 60), "hour": Span(3_600_000, 0, 24), "day": Span(86_400_000, 0, 30)}
NOON_MS = 1_795_348_800_000


def _point(time_ms: int, agent_id: str = "a", pattern: str = "") -> ConfidenceDataPoint:
    return ConfidenceDataPoint(
        agent_id=agent_id,
        pattern_name=pattern,
        task_type="agent",
        confidence=0.5,
        success=True,
        timestamp=time_ms,
        execution_time=1,
    )


def test_a_window_that_closes_is_shown_before_and_while_it_is_written() -> None:
    """It has left the open windows, and the table shows rows only once the broker has them."""
    table = SimpleNamespace(data={})
    state = State(table=cast("Any", table), spans=SPANS, limits=None)
    live = cast("Live", None)
    for offset, time_ms in enumerate((NOON_MS, NOON_MS + 61_000)):
        live = state.apply(_point(time_ms), 0, offset)

    def minutes() -> list[tuple[int, int]]:
        return [(w.window_start, w.count) for w in state.windows("a") if w.interval == "minute"]

    both = [(NOON_MS, 1), (NOON_MS + 60_000, 1)]
    assert minutes() == both
    rows = state.rows(live)
    live.series.windows.touched.clear()
    assert minutes() == both
    table.data.update(rows)
    live.leaving.clear()
    assert minutes() == both


async def test_the_counters_are_those_of_the_series_that_are_kept() -> None:
    """Late points, and points too late for a window, through a start and through the end of a series."""
    table = SimpleNamespace(data={})
    state = State(table=cast("Any", table), spans=SPANS, limits=None)
    day = 86_400_000
    times = [NOON_MS, NOON_MS + 7_200_000, NOON_MS + 1000, NOON_MS - 2 * day, NOON_MS - 40 * day]
    for agent_id in ("a", "b"):
        for offset, time_ms in enumerate(times):
            live = state.apply(_point(time_ms, agent_id), 0, offset)
            table.data.update({key: value for key, value in state.rows(live) if value is not None})
            live.series.windows.touched.clear()
    told = {"series": 2, "late": 6, "dropped": {"minute": 6, "hour": 4, "day": 2}, "firing": {}}
    assert state.counters() == told
    await state.load()
    assert state.counters() == told
    gone = state.of_agent("b")[0]
    assert state.tick(gone, NOON_MS + 60 * day, 0)
    state.rows(gone)
    assert state.counters() == {"series": 1, "late": 3, "dropped": {"minute": 3, "hour": 2, "day": 1}, "firing": {}}


class Counted:
    """A state over a table that outlives it, with each point written at once."""

    def __init__(self, keep_minutes: int = 60, detect: bool = True) -> None:
        self.table = SimpleNamespace(data=dict[bytes, bytes]())
        self.offset = 0
        self.make(keep_minutes, detect)

    def make(self, keep_minutes: int = 60, detect: bool = True) -> None:
        spans = SPANS | {"minute": Span(60_000, 0, keep_minutes)}
        self.state = State(table=cast("Any", self.table), spans=spans, limits=Thresholds() if detect else None)

    async def restart(self, keep_minutes: int = 60, detect: bool = True) -> None:
        self.make(keep_minutes, detect)
        await self.state.load(NOON_MS)

    def take(self, time_ms: int, pattern: str = "") -> Live:
        live = self.state.apply(_point(time_ms, pattern=pattern), 0, self.offset)
        self.offset += 1
        return self.write(live)

    def write(self, live: Live) -> Live:
        for key, value in self.state.rows(live):
            if value is None:
                self.table.data.pop(key, None)
            else:
                self.table.data[key] = value
        live.series.windows.touched.clear()
        live.leaving.clear()
        return live

    async def executions(self, last_minutes: int, now_ms: int) -> int:
        question = Question(("a",), None, now_ms - last_minutes * 60_000, now_ms)
        found = await stats_of("a", [await part(self.state, question, [0])])
        return 0 if found is None else int(found["totalExecutions"])


async def test_more_minutes_are_kept_from_a_restart_on() -> None:
    """Minutes that were dropped before are not taken for empty ones: hours answer for them."""
    counted, now_ms = Counted(), NOON_MS + 4 * 3_600_000
    for time_ms in range(NOON_MS, now_ms, 60_000):
        counted.take(time_ms)
    assert await counted.executions(175, now_ms) == 180
    await counted.restart(keep_minutes=240)
    assert await counted.executions(175, now_ms) == 180
    counted.take(now_ms)
    assert await counted.executions(175, now_ms) == 180
    late = counted.take(now_ms - 120 * 60_000)  # its minute had been dropped
    assert late.series.windows.dropped["minute"] == 1
    assert await counted.executions(175, now_ms) == 181


async def test_more_minutes_may_be_kept_than_hours() -> None:
    """Where hours are no longer kept, minutes answer."""
    counted, now_ms = Counted(keep_minutes=48 * 60), NOON_MS + 40 * 3_600_000
    for time_ms in range(NOON_MS, now_ms, 600_000):
        counted.take(time_ms)
    assert await counted.executions(36 * 60, now_ms) == 36 * 6


def _hear(counted: Counted, pattern: str, begin_ms: int, end_ms: int, step_ms: int) -> None:
    for time_ms in range(begin_ms, end_ms, step_ms):
        counted.take(time_ms, pattern)


def _tick(counted: Counted, time_ms: int) -> list[tuple[str, str]]:
    """All series an idle time later; (pattern, type) of what is reported, and "-" for what is written in vain."""
    found = []
    for live in list(counted.state):
        series = live.series
        changed = counted.state.tick(live, time_ms, time_ms - series.windows.watermark_ms, time_ms)
        told = [(series.id.pattern_name, anomaly.type) for anomaly in series.anomalies if anomaly.state == "firing"]
        found += told or [(series.id.pattern_name, "-")] * changed
        series.anomalies.clear()
        counted.write(live)
    return found


def test_an_idle_series_is_not_written_again_and_again() -> None:
    """Three points wait for others to be evaluated with; its windows have closed."""
    counted, hour = Counted(), 3_600_000
    _hear(counted, "", NOON_MS, NOON_MS + 63_000, 1000)
    assert _tick(counted, NOON_MS + hour)
    begin = NOON_MS + hour
    written = [told for minute in range(1, 30) for told in _tick(counted, begin + minute * 60_000)]
    assert written == [("", "-")], "its minutes expire"


def test_a_silence_that_cannot_be_reported_again_yet_is_not_written_again_and_again() -> None:
    """An agent that comes and goes: from the fifth on, its silences are within the pause of that alarm."""
    counted, hour = Counted(), 3_600_000
    told = []
    for number in range(6):
        begin = NOON_MS + number * 3 * hour
        _hear(counted, "", begin, begin + 2 * hour, 10_000)
        told.append([found for minute in range(5, 50) for found in _tick(counted, begin + 2 * hour + minute * 60_000)])
    assert [("", "silent") in found for found in told] == [True, True, True, True, False, False]
    assert max(len(found) for found in told) <= 5


def test_a_silent_agent_is_reported_though_a_new_pattern_spoke_last() -> None:
    """The new one has too few points for its own silence to be unusual; while it speaks, the agent is not silent."""
    counted, hour = Counted(), 3_600_000
    _hear(counted, "old", NOON_MS, NOON_MS + 3 * hour, 10_000)
    end = NOON_MS + 3 * hour + 300_000
    _hear(counted, "new", NOON_MS + 3 * hour, end, 10_000)
    assert ("old", "silent") not in _tick(counted, end - 10_000 + 599_000)
    assert ("old", "silent") in _tick(counted, end - 10_000 + 601_000)
    assert [kind for minute in range(11, 60) for _, kind in _tick(counted, end + minute * 60_000) if kind != "-"] == []


async def test_no_silence_is_reported_of_the_time_without_detection() -> None:
    """Detection is turned off, points come all the time, and it is turned on again in a pause."""
    counted, hour = Counted(), 3_600_000
    _hear(counted, "", NOON_MS, NOON_MS + 3 * hour, 10_000)
    await counted.restart(detect=False)
    _hear(counted, "", NOON_MS + 3 * hour, NOON_MS + 5 * hour, 10_000)
    await counted.restart()
    assert ("", "silent") not in _tick(counted, NOON_MS + 5 * hour + 120_000)


@pytest.mark.parametrize(
    ("kind", "side", "shown"),
    [
        ("drift", "down", 0.9),
        ("sudden_drop", "down", 0.9),
        ("outlier", "", 0.9),
        ("drift", "spread", None),
        ("high_variance", "", None),
        ("slow", "up", None),
        ("silent", "", None),
    ],
)
async def test_a_baseline_is_a_confidence_or_none(kind: AnomalyType, side: str, shown: float | None) -> None:
    """Alarms about other things keep another number there: a spread, a bucket of times, a pause."""
    state = State(table=cast("Any", SimpleNamespace(data={})), spans=SPANS, limits=Thresholds())
    detectors = state.apply(_point(NOON_MS), 0, 0).series.detectors
    assert detectors is not None
    detectors.alarms.fire(kind, Moment(0, 0, NOON_MS), "medium", 0.9, AnomalyDetails(detector="x"), 0.1, side)
    [alarm] = (await firing(state, [0]))["alarms"]
    assert (alarm["type"], alarm["baseline"]) == (kind, shown)
