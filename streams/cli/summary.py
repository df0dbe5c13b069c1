"""Combines an agent's windows. Pure.

In: aggregates of one agent and one interval, any number of revisions of each window. Out: counts, means and spread over
all of them, as if the points had been in one window. Confidence in [0, 1]; times in ms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from schemas.messages import Aggregate
from schemas.times import format_time
from streams.rules.windows.trend import Mean, Trend
from streams.rules.windows.trend import trend as line

WindowKey = tuple[str, str, int]
MEASURES = {
    "waitTime": "wait_time",
    "inputTokens": "input_tokens",
    "outputTokens": "output_tokens",
    "totalTokens": "total_tokens",
    "cost": "cost",
}
"""Their names in documents and in `Aggregate`."""


def newest(aggregates: Iterable[Aggregate]) -> list[Aggregate]:
    """The last revision of each window, oldest window first. Of equal revisions the later one in the input counts."""
    found: dict[WindowKey, Aggregate] = {}
    for window in aggregates:
        key = (window.pattern_name, window.task_type, window.window_start)
        known = found.get(key)
        if known is None or (window.final, window.revision) >= (known.final, known.revision):
            found[key] = window
    return sorted(found.values(), key=lambda window: (window.window_start, window.pattern_name, window.task_type))


@dataclass(frozen=True, slots=True)
class Summary:
    """Many windows combined. `brier`: mean squared distance of confidence from outcome, 0 at best. `trend`: the slope
    of confidence, None with fewer than three window times.
    """

    executions: int
    successes: int
    avg_confidence: float
    variance: float
    avg_execution_time_ms: float
    brier: float
    trend: Trend | None
    measures: dict[str, dict[str, float]]
    """Wait, tokens and cost, each with `count`, `sum` and `mean`, if any execution has them."""

    @property
    def success_rate(self) -> float:
        """Share of executions that succeeded."""
        return self.successes / self.executions


def summarize(windows: Sequence[Aggregate]) -> Summary:
    """The summary of the windows; None if they hold no execution."""
    count = sum(window.count for window in windows)
    if count == 0:
        raise ValueError("windows without executions have no summary")
    mean = math.fsum(window.avg_confidence * window.count for window in windows) / count
    # Variance within the windows and between their means, each weighted: exact, whatever the windows' sizes.
    spread = math.fsum((w.variance + (w.avg_confidence - mean) ** 2) * w.count for w in windows) / count
    time_ms = math.fsum(window.avg_execution_time * window.count for window in windows) / count
    brier = math.fsum(window.brier * window.count for window in windows) / count
    successes = sum(w.success_count for w in windows)
    return Summary(count, successes, mean, spread, time_ms, brier, trend(windows), measures_of(windows))


def measures_of(windows: Sequence[Aggregate]) -> dict[str, dict[str, float]]:
    """Sums of values that only some executions report. Percentiles are left out: those of windows do not add up."""
    found = {}
    for name, field in MEASURES.items():
        held = [measure for window in windows if (measure := getattr(window, field)) is not None and measure.count]
        if held:
            count, total = sum(measure.count for measure in held), math.fsum(measure.sum for measure in held)
            found[name] = {"count": count, "sum": total, "mean": total / count}
    return found


def trend(windows: Sequence[Aggregate]) -> Trend | None:
    """Confidence per hour with its standard error (positive: improving); None with fewer than three window times."""
    return line([Mean(w.window_start, w.count, w.avg_confidence, w.variance) for w in windows])


def _mean(windows: Sequence[Aggregate]) -> float:
    return math.fsum(w.avg_confidence * w.count for w in windows) / sum(w.count for w in windows)


def averages(windows: Sequence[Aggregate], at_most: int) -> list[float]:
    """Mean confidence of the newest `at_most` window times, over all patterns and task types, oldest first."""
    by_start: dict[int, list[Aggregate]] = {}
    for window in windows:
        if window.count:
            by_start.setdefault(window.window_start, []).append(window)
    return [_mean(by_start[start]) for start in sorted(by_start)[-at_most:]]


def as_document(agent_id: str, windows: Sequence[Aggregate]) -> dict[str, Any]:
    """The summary with the names of the query API's `/agents/{id}/stats`."""
    whole = summarize(windows)
    patterns = sorted({window.pattern_name for window in windows if window.count})
    return {
        "agentId": agent_id,
        **_fields(whole),
        "from": format_time(min(window.window_start for window in windows)),
        "to": format_time(max(window.window_end for window in windows)),
        "patterns": [
            {"patternName": name, **_fields(summarize([w for w in windows if w.pattern_name == name]))}
            for name in patterns
        ],
        "windows": [window.wire() for window in windows],
    }


def _fields(summary: Summary) -> dict[str, Any]:
    return {
        "totalExecutions": summary.executions,
        "avgConfidence": summary.avg_confidence,
        "successRate": summary.success_rate,
        "variance": summary.variance,
        "avgExecutionTime": summary.avg_execution_time_ms,
        "brier": summary.brier,
        **summary.measures,
        "confidenceTrend": None if summary.trend is None else summary.trend.slope,
        "confidenceTrendError": None if summary.trend is None else summary.trend.error,
    }
