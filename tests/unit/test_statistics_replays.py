"""Anomalies are those of an undisturbed run wherever a worker dies, and whichever rows of its last batch are in the changelog."""

from __future__ import annotations

import random
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from schemas.codec import decode
from schemas.messages import Anomaly, ConfidenceDataPoint
from streams.settings import Settings
from streams.statistics.state import Live, RecordAt, State, spans_of, thresholds_of
from tests.support.points import fleet

NOW_MS = 1_795_967_000_000
POINTS, AGENTS = 6000, 6
DIES = 0.2
"""How often a worker dies in the middle of a batch."""

Told = dict[tuple[str, str], Anomaly]


@cache
def made() -> list[ConfidenceDataPoint]:
    """Points of one partition; two agents fall with all their patterns."""
    rows = fleet(11, POINTS, AGENTS, NOW_MS - POINTS * 100, 100.0, drops=("agent-2", "agent-4"))
    return [decode(ConfidenceDataPoint, orjson.dumps(row), ()) for row in rows]


def state(table: Any) -> State:
    """Of a worker that has just recovered this table."""
    return State(table=cast("Any", table), spans=spans_of(Settings()), limits=thresholds_of(Settings()))


def take(live: Live, into: Told) -> None:
    """Publish what a series has to tell."""
    into |= {(anomaly.id, anomaly.state): anomaly for anomaly in live.series.anomalies}
    live.series.anomalies.clear()


@cache
def undisturbed() -> Told:
    """What one worker tells that lives on."""
    one, found = state(SimpleNamespace(data={})), Told()
    for offset, point in enumerate(made()):
        take(one.add_point(point, RecordAt(0, offset, NOW_MS, NOW_MS)), found)
    return found


async def disturbed(points: list[ConfidenceDataPoint], rng: random.Random) -> tuple[Told, int]:
    """Workers that die; what they told, and how many did."""
    table, found, deaths = SimpleNamespace(data={}), Told(), 0
    worker, offset, committed = state(table), 0, 0
    while offset < len(points):
        end = min(offset + rng.choice((1, 50, 300, 2000)), len(points))
        touched: dict[bytes, Live] = {}
        for number in range(offset, end):
            live = worker.add_point(points[number], RecordAt(0, number, NOW_MS, NOW_MS))
            touched[live.key] = live
        rows = []
        for live in touched.values():
            take(live, found)
            rows += worker.rows(live)
            live.series.windows.touched.clear()
            live.leaving.clear()
        dies = rng.random() < DIES
        for key, value in rows:
            if dies and rng.random() < 0.5:
                continue
            if value is None:
                table.data.pop(key, None)
            else:
                table.data[key] = value
        if dies:
            deaths += 1
            worker, offset = state(table), committed
            await worker.load(NOW_MS)
        else:
            offset = end
            committed = end if rng.random() < 0.5 else committed
    return found, deaths


@pytest.mark.parametrize("seed", range(8))
async def test_a_worker_that_dies_changes_no_anomaly(seed: int) -> None:
    """Rows of a series may be ahead of those of its agent's others, and of the points that are read again."""
    expected = undisturbed()
    assert {anomaly.pattern_name for anomaly in expected.values() if anomaly.type == "sudden_drop"} > {None}
    found, deaths = await disturbed(made(), random.Random(seed))
    assert deaths
    apart = found.keys() ^ expected.keys()
    assert not apart, [(found | expected)[key] for key in sorted(apart)]
