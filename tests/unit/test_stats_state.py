"""The live statistics: what is asked is whole at every moment."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from schemas.messages import ConfidenceDataPoint
from streams.rules.windows.windows import Span
from streams.statistics.state import Live, State

SPANS: Any = {"minute": Span(60_000, 0, 60), "hour": Span(3_600_000, 0, 24), "day": Span(86_400_000, 0, 30)}
NOON_MS = 1_795_348_800_000


def _point(time_ms: int) -> ConfidenceDataPoint:
    return ConfidenceDataPoint(
        agent_id="a",
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
    state = State(cast("Any", table), SPANS, None)
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
