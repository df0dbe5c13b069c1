"""One owner's part of an answer about statistics, and how parts become one answer.

In: a question and the live state of the owned partitions. Out: a part, JSON-able, with the partitions it covers; and
from parts that together cover every partition once, the answer: windows merged exactly, never averaged. A long answer
yields to the loop: no question delays the points that come meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from schemas.messages import Interval
from schemas.times import format_time
from streams.engine.yielder import Yielder
from streams.rules.detection.alarms import Alarms, Episode, Key, SeriesId, type_of
from streams.rules.detection.calibration import Calibration
from streams.rules.detection.level_shift import LEVELS
from streams.rules.windows import measures
from streams.rules.windows.moments import Moments
from streams.rules.windows.ranges import COARSEST_FIRST, covered, tiles
from streams.rules.windows.trend import FEWEST, Means, trend
from streams.rules.windows.windows import COARSEST, FINEST, INTERVALS, SIZES_MS, Window, WindowId, start_of
from streams.statistics.state import Live, State

FOREVER = 1 << 53
MOST_SERIES = 5000
"""Series in one answer; more are refused, not cut off."""


class TooMuch(Exception):
    """The question covers more series than one answer may."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question: agents (none named: all), a pattern (None: all; "": points without one), a range of time."""

    agents: tuple[str, ...] = ()
    pattern: str | None = None
    begin_ms: int = 0
    end_ms: int = FOREVER
    interval: Interval | None = None
    """None: the coarsest windows that fit; else the windows of this interval that begin in the range."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Question:
        """The inverse of `to_json`. Raises TypeError, KeyError for an invalid one."""
        return cls(**{**data, "agents": tuple(data["agents"])})


# One owner's part


async def part(state: State, question: Question, partitions: Iterable[int]) -> dict[str, Any]:
    """The part of the state for a question; each series as it is at its turn. Raises `TooMuch`."""
    mine, checkpoint = set(partitions), Yielder()
    found: list[Live] = []
    for live in _asked(state, question):
        await checkpoint()
        if live.series.partition in mine and question.pattern in (None, live.series.id.pattern_name):
            found.append(live)
            if len(found) > MOST_SERIES:
                raise TooMuch(f"more than {MOST_SERIES} series of agent, pattern and task type; ask for less at once")
    rows = []
    for live in found:
        await checkpoint()
        rows.append(_series(state, live, question))
    return {"partitions": sorted(mine), "series": rows}


def _asked(state: State, question: Question) -> list[Live]:
    if not question.agents:
        return list(state)
    return [live for agent in question.agents for live in state.of_agent(agent)]


def _series(state: State, live: Live, question: Question) -> dict[str, Any]:
    """For a question about windows each of them, else all merged: sums are exact wherever they are merged."""
    series = live.series
    windows = series.windows
    ids = state.window_ids(live)
    if question.interval is None:
        floors = {interval: windows.floor(interval) for interval in INTERVALS}
        newest = start_of_next(windows.watermark_ms)
        wanted = tiles(question.begin_ms, min(question.end_ms, newest), floors)
    else:
        wanted = sorted(
            (interval, start)
            for interval, start in ids
            if interval == question.interval and question.begin_ms <= start < question.end_ms
        )
    begin, end = covered(wanted)
    held = {key: window for key in wanted if (window := state.window(live, key, ids))}
    row = {"id": [series.id.agent_id, series.id.pattern_name, series.id.task_type], "range": [begin, end]}
    if question.interval is not None:
        return row | {"windows": [[*key, w.closed, w.moments.to_json()] for key, w in held.items()]}
    whole = Moments()
    for window in held.values():
        whole.merge(window.moments)
    return row | {
        "whole": whole.to_json() if held else None,
        "trend": _means(state, live, ids, held, begin, end),
        "calibration": series.calibration.to_json(),
    }


def start_of_next(time_ms: int) -> int:
    """The end of the coarsest window that contains this time: no retained window of the series begins after it."""
    return start_of(time_ms, COARSEST) + SIZES_MS[COARSEST]


def _means(
    state: State, live: Live, ids: set[WindowId], held: Mapping[WindowId, Window], begin: int, end: int
) -> list[list[Any]]:
    """Means of the coarsest windows of which at least three begin in the range, else of the finest. `held`: already
    read.
    """
    for interval in COARSEST_FIRST:
        keys = sorted(key for key in ids if key[0] == interval and begin <= key[1] < end)
        if len(keys) >= FEWEST or interval == FINEST:
            found = ((key[1], held.get(key) or state.window(live, key, ids)) for key in keys)
            rows = [(start, w.moments) for start, w in found if w is not None]
            return [[interval, start, m.count, m.mean(), m.variance()] for start, m in rows]
    return []


async def firing(state: State, partitions: Iterable[int]) -> dict[str, Any]:
    """Every reported firing or pending alarm of those partitions."""
    mine, checkpoint = set(partitions), Yielder()
    rows: list[dict[str, Any]] = []
    for live in list(state):
        await checkpoint()
        if live.series.partition in mine and live.series.detectors is not None:
            rows += _alarms(live.series.id, live.series.detectors.alarms)
    return {"partitions": sorted(mine), "alarms": rows}


def _alarms(owner: SeriesId, alarms: Alarms) -> Iterator[dict[str, Any]]:
    pattern = owner.pattern_name or None
    for kind, episode in alarms.firing.items():
        if episode.scope != "hidden":
            yield {
                "id": episode.id,
                "type": type_of(kind),
                "agentId": owner.agent_id,
                "patternName": None if episode.scope == "agent" else pattern,
                "severity": episode.severity,
                "state": "firing",
                "detectedAt": format_time(episode.at_ms) if episode.at_ms else None,
                "baseline": episode.baseline if _of_level(kind, episode) else None,
                "points": episode.age,
            }
    for kind in alarms.pending:
        yield {"type": type_of(kind), "agentId": owner.agent_id, "patternName": pattern, "state": "pending"}


def _of_level(kind: Key, episode: Episode) -> bool:
    """Whether its baseline is a confidence that was normal; others have a spread, a time, or what is abnormal."""
    return type_of(kind) in (*LEVELS, "outlier") and episode.side != "spread"


# One answer of all parts


def complete(parts: Sequence[Mapping[str, Any]], partitions: int) -> bool:
    """Whether the parts cover every partition exactly once: anything else would be a wrong number."""
    return sorted(number for one in parts for number in one["partitions"]) == list(range(partitions))


async def stats_of(agent_id: str | None, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The answer of `/agents/{id}/stats` (without an agent: of `/patterns/{name}/stats`); None without a point."""
    checkpoint, outcomes = Yielder(), Calibration()
    rows = [
        row
        for one in parts
        for row in one["series"]
        if row["whole"] is not None and (agent_id is None or row["id"][0] == agent_id)
    ]
    if not rows:
        return None
    place, name, many = (1, "patternName", "patterns") if agent_id is not None else (0, "agentId", "agents")
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["id"]):
        groups.setdefault(row["id"][place], []).append(row)
    figures, all_of_them, all_means = [], Moments(), Means()
    for group in sorted(groups):
        whole, means = Moments(), Means()
        for row in groups[group]:
            await checkpoint()
            outcomes.merge(Calibration.from_json(row["calibration"]))
            whole.merge(Moments.from_json(row["whole"]))
            for window in row["trend"]:
                means.add(*window)
        all_of_them.merge(whole)
        all_means.merge(means)
        figures.append({name: group, **_figures(whole, means)})
    return {
        **({} if agent_id is None else {"agentId": agent_id}),
        **_figures(all_of_them, all_means),
        "calibration": reliability(outcomes),
        "from": format_time(min(row["range"][0] for row in rows)),
        "to": format_time(max(row["range"][1] for row in rows)),
        many: figures,
    }


def _figures(whole: Moments, means: Means) -> dict[str, Any]:
    count, successes = whole.count, whole.successes
    p50, p95, p99 = whole.time_quantiles_ms(0.5, 0.95, 0.99)
    line = trend(means.finest())
    return {
        "totalExecutions": count,
        "successCount": successes,
        "avgConfidence": whole.mean(),
        "minConfidence": whole.min,
        "maxConfidence": whole.max,
        "variance": whole.variance(),
        "successRate": successes / count,
        "avgExecutionTime": whole.mean_time_ms(),
        "p50ExecutionTime": p50,
        "p95ExecutionTime": p95,
        "p99ExecutionTime": p99,
        "brier": whole.brier(),
        "ece": whole.ece(),
        **measures.figures(whole.measures),
        "confidenceTrend": None if line is None else line.slope,
        "confidenceTrendError": None if line is None else line.error,
    }


def reliability(outcomes: Calibration) -> dict[str, Any] | None:
    """The agent's calibration; None without a known outcome."""
    if outcomes.count == 0:
        return None
    gap, low, high = outcomes.gap()
    return {
        "count": outcomes.count,
        "brier": outcomes.brier(),
        "logLoss": outcomes.log_loss(),
        "gap": gap,
        "gapInterval": [low, high],
        "calibrationError": outcomes.error(),
        "table": outcomes.table(),
        "bins": [
            {"count": b.count, "confidence": b.confidence, "successRate": b.rate, "interval": [b.low, b.high]}
            for b in outcomes.bins()
        ],
    }


def windows_of(parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The answer of `/agents/{id}/windows`: patterns and task types together, oldest first."""
    found: dict[WindowId, list[Any]] = {}
    for one in parts:
        for row in one["series"]:
            for interval, start, closed, moments in row["windows"]:
                found.setdefault((interval, start), []).append((closed, moments))
    answer = []
    for (interval, start), held in sorted(found.items(), key=lambda item: item[0][1]):
        whole = Moments()
        for _, moments in held:
            whole.merge(Moments.from_json(moments))
        answer.append(
            {
                "interval": interval,
                "windowStart": format_time(start),
                "windowEnd": format_time(start + SIZES_MS[interval]),
                "final": all(closed for closed, _ in held),
                "count": whole.count,
                "avgConfidence": whole.mean(),
                "variance": whole.variance(),
                "successRate": whole.successes / max(whole.count, 1),
                "avgExecutionTime": whole.mean_time_ms(),
                **measures.figures(whole.measures),
            }
        )
    return answer
