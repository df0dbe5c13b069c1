"""One alarm for the agent when its patterns fall together; what is kept back is told once nothing covers it; replays agree."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

from schemas.messages import Anomaly, ConfidenceDataPoint
from streams.rules.detection.detectors import Thresholds
from streams.rules.windows.windows import Span
from streams.statistics.state import State

SPANS: Any = {"minute": Span(60_000, 30_000, 60), "hour": Span(3_600_000, 0, 24), "day": Span(86_400_000, 0, 30)}
NOON_MS = 1_795_348_800_000


def state() -> State:
    """An empty one with detectors."""
    return State(table=cast("Any", SimpleNamespace(data={})), spans=SPANS, limits=Thresholds())


def feed(into: State, start: int, rounds: int, **levels: float) -> list[Anomaly]:
    """`rounds` points of every pattern in turn, one a second; what was told."""
    found: list[Anomaly] = []
    offset = start
    for _ in range(rounds):
        for pattern, level in levels.items():
            point = ConfidenceDataPoint(
                agent_id="a",
                pattern_name=pattern,
                task_type="agent",
                confidence=level + (0.01 if offset % 3 else 0.0),
                success=True,
                timestamp=NOON_MS + offset * 1000,
                execution_time=10,
            )
            live = into.apply(point, 0, offset)
            found += live.series.anomalies
            live.series.anomalies.clear()
            offset += 1
    return found


def drops(found: list[Anomaly]) -> list[tuple[str | None, str]]:
    """Pattern and state of the sudden drops."""
    return [(anomaly.pattern_name, anomaly.state) for anomaly in found if anomaly.type == "sudden_drop"]


def test_patterns_that_fall_together_are_one_alarm_of_the_agent() -> None:
    """Three fall: the first is told as its own, the second as the agent's, the third is kept back; so with the ends."""
    into = state()
    assert feed(into, 0, 100, x=0.9, y=0.9, z=0.9) == []
    found = feed(into, 300, 20, x=0.5, y=0.5, z=0.5)
    assert drops(found) == [("x", "firing"), (None, "firing")]
    wide = next(a for a in found if a.type == "sudden_drop" and a.pattern_name is None)
    assert wide.details.window is not None
    assert "2 of 3 patterns" in wide.details.window
    ended = feed(into, 360, 40, x=0.9, y=0.9, z=0.9)
    assert sorted(drops(ended), key=str) == [("x", "resolved"), (None, "resolved")]
    assert {a.id for a in ended if a.pattern_name is None and a.type == "sudden_drop"} == {wide.id}


def test_one_pattern_alone_stays_the_patterns_alarm() -> None:
    """Nothing happened to the others."""
    into = state()
    feed(into, 0, 100, x=0.9, y=0.9, z=0.9)
    assert drops(feed(into, 300, 20, x=0.9, y=0.5, z=0.9)) == [("y", "firing")]


def test_what_was_kept_back_is_told_when_the_agents_alarm_has_ended() -> None:
    """x and y recover, z does not: it is told then, with the id it will end with."""
    into = state()
    feed(into, 0, 100, x=0.9, y=0.9, z=0.9)
    feed(into, 300, 20, x=0.5, y=0.5, z=0.5)
    found = feed(into, 360, 40, x=0.9, y=0.9, z=0.5)
    assert ("z", "firing") in drops(found)
    told = next(a for a in found if a.type == "sudden_drop" and a.pattern_name == "z")
    ended = feed(into, 480, 40, x=0.9, y=0.9, z=0.9)
    assert [a.id for a in ended if a.type == "sudden_drop"] == [told.id]


def test_a_replay_with_the_others_ahead_tells_the_same() -> None:
    """One series' row was lost in a crash: its points come again while its siblings are already past them."""
    whole = state()
    feed(whole, 0, 100, x=0.9, y=0.9, z=0.9)
    kept = {live.series.id.pattern_name: json.dumps(live.series.to_json()) for live in whole}
    expected = feed(whole, 300, 20, x=0.5, y=0.5, z=0.5) + feed(whole, 360, 40, x=0.9, y=0.9, z=0.9)
    for name in "xyz":
        live = next(live for live in whole if live.series.id.pattern_name == name)
        rules = (live.series.id, 0, SPANS, Thresholds())
        live.series = type(live.series).from_json(json.loads(kept[name]), *rules)
        again = feed(whole, 300, 20, x=0.5, y=0.5, z=0.5) + feed(whole, 360, 40, x=0.9, y=0.9, z=0.9)
        mine = {a.id for a in again}
        assert again == [a for a in expected if a.id in mine]
        assert mine or name == "z"


def test_silence_is_told_once_for_an_agent_and_ends_with_its_next_point() -> None:
    """Two hours of a point a second, then none: the series that spoke last tells it, after ten minutes."""
    into = state()
    feed(into, 0, 3600, x=0.9, y=0.9)
    last_ms = NOON_MS + 7199 * 1000
    assert not any(into.tick(live, last_ms + 599_000, 599_000) and live.series.anomalies for live in into)
    for live in into:
        into.tick(live, last_ms + 700_000, 700_000)
    told = [a for live in into for a in live.series.anomalies]
    assert [(a.type, a.state, a.detected_at) for a in told] == [("silent", "firing", last_ms + 600_000)]
    for live in into:
        live.series.anomalies.clear()
        into.tick(live, last_ms + 900_000, 900_000)
        assert live.series.anomalies == []
    ended = feed(into, 8200, 1, x=0.9, y=0.9)
    assert [(a.type, a.state, a.id) for a in ended] == [("silent", "resolved", told[0].id)]


def test_an_agent_that_only_ever_spoke_for_a_moment_is_idle_not_silent() -> None:
    """A burst of a thousand points in a few minutes, then nothing."""
    into = state()
    feed(into, 0, 500, x=0.9, y=0.9)
    for live in into:
        into.tick(live, NOON_MS + 86_400_000, 86_400_000)
    assert [a.type for live in into for a in live.series.anomalies] == []


def test_while_points_come_they_alone_bring_alarms() -> None:
    """The clock looks in after every tenth round of a stream that is low and wide, as the events have it and a day ahead."""

    def told(*, tick_ms: int | None, idle_ms: int = 0) -> list[tuple[str, str, str]]:
        into, found = state(), []
        for tenth in range(30):
            found += feed(into, tenth * 30, 10, x=0.9 if tenth % 2 else 0.45, y=0.6, z=0.47)
            for live in into if tick_ms is not None else ():
                into.tick(live, live.series.windows.watermark_ms + (tick_ms or 0), idle_ms)
                found += live.series.anomalies
                live.series.anomalies.clear()
        return sorted((a.type, a.state, a.id) for a in found)

    undisturbed = told(tick_ms=None)
    assert {kind for kind, _, _ in undisturbed} >= {"low_confidence", "high_variance"}
    assert told(tick_ms=0) == undisturbed
    assert told(tick_ms=86_400_000, idle_ms=60_000) == undisturbed
    assert told(tick_ms=86_400_000, idle_ms=86_400_000) != undisturbed


def test_an_idle_series_is_looked_at_without_another_point() -> None:
    """Seven low points are too few for the moving mean, but enough for a check interval that is over."""
    into = state()
    assert feed(into, 0, 7, x=0.3) == []
    (live,) = into
    into.tick(live, NOON_MS + 95_000, 80_000)
    assert live.series.anomalies == []
    into.tick(live, NOON_MS + 95_000, 90_000)
    assert [(a.type, a.state) for a in live.series.anomalies] == [("low_confidence", "firing")]
