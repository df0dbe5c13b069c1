"""Figures of the last ten seconds: events a second by type, execution times, success. Pure.

In: events as they are read, with the time of writing, and `now_ms`. Out: one row of numbers. Older events are
forgotten; times are exact within 1 %. Memory: a few counters for each second of the span.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from streams.rules.windows import sketch

SPAN_MS = 10_000
SECOND_MS = 1000
MOST_KINDS = 100
"""Types counted separately within a second; any producer may write events, of any type."""
OTHERS = "other"
SUCCESS = "task:completed"
FAILURES = ("task:failed", "task:expired")


@dataclass(slots=True)
class _Second:
    counts: dict[str, int] = field(default_factory=dict)
    times: sketch.Histogram = field(default_factory=dict)


class Rates:
    """Counters by second of epoch time."""

    def __init__(self, span_ms: int = SPAN_MS) -> None:
        self._span_ms = span_ms
        self._seconds: dict[int, _Second] = {}
        self._known_from_ms = 0

    def known_from(self, ms: int) -> None:
        """Events written before `ms` may be missing: means are taken over the time since."""
        self._known_from_ms = max(self._known_from_ms, ms)

    def add(self, kind: str, at_ms: int, execution_ms: float | None, now_ms: int) -> None:
        """Count one event. `execution_ms`: of a completed task. An event from the future (another clock) counts as of
        now.
        """
        number = min(at_ms, now_ms) // SECOND_MS
        if number < self._first(now_ms):
            return
        second = self._seconds.get(number)
        if second is None:
            second = self._seconds[number] = _Second()
            self._forget(now_ms)
        if kind not in second.counts and len(second.counts) >= MOST_KINDS:
            kind = OTHERS
        second.counts[kind] = second.counts.get(kind, 0) + 1
        if execution_ms is not None:
            bucket = sketch.time_bucket(execution_ms)
            second.times[bucket] = second.times.get(bucket, 0) + 1

    def _first(self, now_ms: int) -> int:
        """The second in which the span begins; it counts as a whole, with its time."""
        return (now_ms - self._span_ms) // SECOND_MS

    def _forget(self, now_ms: int) -> None:
        first = self._first(now_ms)
        for number in [number for number in self._seconds if number < first]:
            del self._seconds[number]

    def row(self, now_ms: int) -> dict[str, Any]:
        """`perSecond` by type, `p50Ms`, `p95Ms`, `successRate` (the last three None when nothing is known).

        >>> rates = Rates()
        >>> for _ in range(20):
        ...     rates.add("task:completed", 5_000, 100.0, 9_000)
        >>> rates.row(11_000)["perSecond"], rates.row(11_000)["successRate"], rates.row(20_000)["p50Ms"]
        ({'task:completed': 2.0}, 1.0, None)
        """
        self._forget(now_ms)
        counts: dict[str, int] = {}
        times: sketch.Histogram = {}
        for second in self._seconds.values():
            sketch.merge(times, second.times)
            for kind, count in second.counts.items():
                counts[kind] = counts.get(kind, 0) + count
        covered_ms = now_ms - max(self._first(now_ms) * SECOND_MS, self._known_from_ms)
        covered_s = max(covered_ms, SECOND_MS) / 1000
        p50, p95 = (sketch.time_of(b) for b in sketch.quantiles(times, (0.5, 0.95))) if times else (None, None)
        ended = sum(counts.get(kind, 0) for kind in (SUCCESS, *FAILURES))
        return {
            "perSecond": {kind: round(count / covered_s, 3) for kind, count in sorted(counts.items())},
            "p50Ms": None if p50 is None else round(p50, 3),
            "p95Ms": None if p95 is None else round(p95, 3),
            "successRate": round(counts.get(SUCCESS, 0) / ended, 4) if ended else None,
        }
