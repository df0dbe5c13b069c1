"""What one owner knows for a question about statistics, and how owners' parts become one answer.

In: a question and the live state of the owned partitions. Out: a part, JSON-able, with the partitions it speaks for; and from
parts that together speak for every partition, once each, the answer: windows merged exactly, never averaged. Never waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from schemas.messages import Interval
from schemas.times import format_time
from streams.rules.detection.calibration import Calibration
from streams.rules.windows.moments import Moments
from streams.rules.windows.ranges import COARSEST, covered, tiles
from streams.rules.windows.trend import FEWEST, Mean, trend
from streams.rules.windows.windows import INTERVALS, SIZES_MS, WindowId
from streams.statistics.state import Live, State

FOREVER = 1 << 53
MOST_SERIES = 5000
"""Of one answer; more is refused, not cut."""


class TooMuch(Exception):
    """The question concerns more series than one answer may."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: agents (all, if none is named), a pattern (None: all; "" is the points without one), a range of time."""

    agents: tuple[str, ...] = ()
    pattern: str | None = None
    begin_ms: int = 0
    end_ms: int = FOREVER
    interval: Interval | None = None
    """None: the coarsest windows that fit; else the windows of this interval that begin in the range."""

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Question:
        """The inverse of `to_json`. Raises TypeError, KeyError for what is none."""
        return cls(**{**data, "agents": tuple(data["agents"])})


# One owner's part


def part(state: State, question: Question, partitions: Iterable[int]) -> dict[str, Any]:
    """What the state has for a question. Raises `TooMuch`."""
    mine = set(partitions)
    found = [live for live in _concerned(state, question) if live.series.partition in mine]
    if len(found) > MOST_SERIES:
        raise TooMuch(f"more than {MOST_SERIES} series of agent, pattern and task type; ask for less at once")
    return {"partitions": sorted(mine), "series": [_series(state, live, question) for live in found]}


def _concerned(state: State, question: Question) -> Iterator[Live]:
    lives = state if not question.agents else (live for agent in question.agents for live in state.of_agent(agent))
    return (live for live in lives if question.pattern in (None, live.series.id.pattern_name))


def _series(state: State, live: Live, question: Question) -> dict[str, Any]:
    series = live.series
    windows = series.windows
    floors = {interval: windows.floor(interval) for interval in INTERVALS}
    newest = start_of_next(windows.watermark_ms)
    ids = state.window_ids(live)
    if question.interval is None:
        wanted = tiles(question.begin_ms, min(question.end_ms, newest), floors)
    else:
        wanted = sorted(
            (interval, start)
            for interval, start in ids
            if interval == question.interval and question.begin_ms <= start < question.end_ms
        )
    begin, end = covered(wanted)
    return {
        "id": [series.id.agent_id, series.id.pattern_name, series.id.task_type],
        "range": [begin, end],
        "windows": [[*key, w.closed, w.moments.to_json()] for key in wanted if (w := state.window(live, key, ids))],
        "trend": [] if question.interval else _means(state, live, ids, begin, end),
        "calibration": series.calibration.to_json(),
    }


def start_of_next(time_ms: int) -> int:
    """The end of the day that holds this time: no retained window of the series begins after it."""
    return time_ms - time_ms % SIZES_MS["day"] + SIZES_MS["day"]


def _means(state: State, live: Live, ids: set[WindowId], begin: int, end: int) -> list[list[Any]]:
    """Means of the coarsest windows of which at least three begin in the range, else of the minutes."""
    for interval in COARSEST:
        starts = sorted(start for kind, start in ids if kind == interval and begin <= start < end)
        if len(starts) >= FEWEST or interval == "minute":
            held = ((start, state.window(live, (interval, start), ids)) for start in starts)
            rows = [(start, w.moments) for start, w in held if w is not None]
            return [[interval, start, m.count, m.mean(), m.variance()] for start, m in rows]
    return []


# One answer of all parts


def complete(parts: Sequence[Mapping[str, Any]], partitions: int) -> bool:
    """True when the parts speak for every partition, and for each once: anything else would be a wrong number."""
    return sorted(number for one in parts for number in one["partitions"]) == list(range(partitions))


def _merged(rows: Iterable[Mapping[str, Any]]) -> Moments:
    whole = Moments()
    for row in rows:
        for *_, moments in row["windows"]:
            whole.merge(Moments.from_json(moments))
    return whole


def stats_of(agent_id: str | None, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The answer of `/agents/{id}/stats` (without an agent: of `/patterns/{name}/stats`); None when no point is known."""
    rows = [
        row
        for one in parts
        for row in one["series"]
        if row["windows"] and (agent_id is None or row["id"][0] == agent_id)
    ]
    if not rows:
        return None
    name = "patternName" if agent_id is not None else "agentId"
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["id"][1 if agent_id is not None else 0], []).append(row)
    outcomes = Calibration()
    for row in rows:
        outcomes.merge(Calibration.from_json(row["calibration"]))
    return {
        **({} if agent_id is None else {"agentId": agent_id}),
        **_figures(rows),
        "calibration": reliability(outcomes),
        "from": format_time(min(row["range"][0] for row in rows)),
        "to": format_time(max(row["range"][1] for row in rows)),
        ("patterns" if agent_id is not None else "agents"): [
            {name: group, **_figures(groups[group])} for group in sorted(groups)
        ],
    }


def _figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    whole = _merged(rows)
    count, successes = whole.count, whole.successes
    p50, p95, p99 = whole.time_quantiles_ms(0.5, 0.95, 0.99)
    line = _trend(rows)
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
        "confidenceTrend": None if line is None else line.slope,
        "confidenceTrendError": None if line is None else line.error,
    }


def _trend(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Of the finest interval that any of the series answered in: the coarser would hide what the others have."""
    means = [entry for row in rows for entry in row["trend"]]
    finest = next((i for i in INTERVALS if any(entry[0] == i for entry in means)), None)
    return trend([Mean(start, count, mean, spread) for i, start, count, mean, spread in means if i == finest])


def reliability(outcomes: Calibration) -> dict[str, Any] | None:
    """What the agent's confidence has been worth; None while no outcome is known."""
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
    found: dict[tuple[str, int], list[Any]] = {}
    for one in parts:
        for row in one["series"]:
            for interval, start, closed, moments in row["windows"]:
                found.setdefault((interval, start), []).append((closed, moments))
    answer = []
    for (interval, start), held in sorted(found.items(), key=lambda item: item[0][1]):
        whole = Moments()
        for _, moments in held:
            whole.merge(Moments.from_json(moments))
        size = SIZES_MS["minute" if interval == "minute" else "hour" if interval == "hour" else "day"]
        answer.append(
            {
                "interval": interval,
                "windowStart": format_time(start),
                "windowEnd": format_time(start + size),
                "final": all(closed for closed, _ in held),
                "count": whole.count,
                "avgConfidence": whole.mean(),
                "variance": whole.variance(),
                "successRate": whole.successes / max(whole.count, 1),
                "avgExecutionTime": whole.mean_time_ms(),
            }
        )
    return answer
