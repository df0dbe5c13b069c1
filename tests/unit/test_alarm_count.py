"""Alarms counted beside the series: always as many as a walk over all of them finds."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, cast

from schemas.messages import ConfidenceDataPoint
from streams.rules.detection.detectors import Thresholds
from streams.rules.windows.windows import SIZES_MS, Span
from streams.statistics.state import State
from streams.statistics.table import StatsTable

START_MS = 1_800_000_000_000
SPANS = {name: Span(size, 0, 2) for name, size in SIZES_MS.items()}
LIMITS = Thresholds(sudden_drop=0.3, low_confidence=0.5, high_variance=0.2, check_interval_ms=1000, run_length=1000)


class Table:
    """Rows in a dictionary."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}

    def write(self, rows: list[tuple[bytes, bytes | None]]) -> None:
        """Keep or delete."""
        for key, value in rows:
            if value is None:
                self.data.pop(key, None)
            else:
                self.data[key] = value


def recount(state: State) -> dict[Any, int]:
    """By looking at every series."""
    return Counter(
        (kind, episode.severity)
        for live in state
        if live.series.detectors is not None
        for kind, episode in live.series.detectors.alarms.firing.items()
        if episode.scope != "hidden"
    )


def counted(state: State) -> dict[Any, int]:
    """As it is kept."""
    return {kind: count for kind, count in state.counters()["firing"].items() if count}


def fold(state: State, table: Table, offset: int, rng: random.Random) -> None:
    """One point of two agents with three patterns each; they are good, then bad, then good, then bad again."""
    mean = 0.15 if 400 <= offset < 900 or offset >= 1500 else 0.9
    point = ConfidenceDataPoint(
        agent_id=f"a{offset % 2}",
        pattern_name=f"p{offset % 3}",
        task_type="agent",
        confidence=min(max(rng.gauss(mean, 0.03), 0.0), 1.0),
        success=True,
        timestamp=START_MS + offset * 100,
        execution_time=10.0,
    )
    live = state.apply(point, 0, offset)
    table.write(state.rows(live))
    live.series.anomalies.clear()
    live.series.windows.touched.clear()
    live.leaving.clear()


async def test_the_count_is_that_of_a_walk_at_every_point_and_after_every_start() -> None:
    """Alarms begin, are told as the agent's in place of a pattern's, and end; series are loaded, and forgotten."""
    rng, table = random.Random(5), Table()
    state, most = State(table=cast("StatsTable", table), spans=SPANS, limits=LIMITS), 0
    for offset in range(1500):
        fold(state, table, offset, rng)
        assert counted(state) == recount(state), offset
        most = max(most, sum(counted(state).values()))
        if offset == 700:
            before = counted(state)
            assert before, "the fault was not felt"
            state = State(table=cast("StatsTable", table), spans=SPANS, limits=LIMITS)
            await state.load()
            assert counted(state) == before
    assert most >= 2
    for offset in range(1500, 1700):  # and then nothing for months
        fold(state, table, offset, rng)
    assert counted(state) == recount(state) != {}
    late_ms = START_MS + 90 * SIZES_MS["day"]
    for _ in range(5):
        for live in list(state):
            state.tick(live, late_ms, 0)
            table.write(state.rows(live))
    assert len(state) == 0
    assert counted(state) == {}
    state.clear()
    assert counted(state) == {}
