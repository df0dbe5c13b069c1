"""The live statistics: what is asked is whole at every moment."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from schemas.messages import ConfidenceDataPoint
from streams.rules.windows.windows import Span
from streams.statistics.state import Live, State

SPANS: Any = {"minute": Span(60_000, 0, 60), "hour": Span(3_600_000, 0, 24), "day": Span(86_400_000, 0, 30)}
NOON_MS = 1_795_348_800_000


def _point(time_ms: int, agent_id: str = "a") -> ConfidenceDataPoint:
    return ConfidenceDataPoint(
        agent_id=agent_id,
        pattern_name="",
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
