"""The metrics of statistics: points counted, refused and late, series kept, alarms firing.

In: the counters of the running processor, read with each request; None without one. Out: gauges and counters, which
restart with a processor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import product
from typing import Any, get_args

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from schemas.messages import AnomalyType, Severity
from streams.metrics import family

SINGLE = {
    "parallax_stats_points": "points",
    "parallax_stats_rejected": "rejected",
    "parallax_stats_pending": "pending",
    "parallax_stats_expired_points": "expired",
    "parallax_stats_series": "series",
    "parallax_stats_late_points": "late",
}
"""Metrics of one value, and their counters."""


class StatsMetrics(Collector):
    """A collector for the worker's registry."""

    def __init__(self, counters: Callable[[], Mapping[str, Any] | None]) -> None:
        self._counters = counters

    def collect(self) -> Iterable[Metric]:
        found = self._counters() or {}
        for name, key in SINGLE.items():
            yield family(name, [((), found.get(key, 0))])
        dropped = found.get("dropped", {})
        yield family("parallax_stats_missed_points", [((interval,), count) for interval, count in dropped.items()])
        behind = found.get("event_lag", {})
        yield family(
            "parallax_stats_event_time_lag_seconds", [((str(number),), seconds) for number, seconds in behind.items()]
        )
        used = found.get("process")  # only where they have a process to themselves
        for name, key in (
            ("parallax_stats_process_cpu_seconds", "cpu"),
            ("parallax_stats_process_resident_memory_bytes", "memory"),
        ):
            yield family(name, [] if used is None else [((), used[key])])
        kinds = list(product(get_args(AnomalyType), get_args(Severity)))
        for name, key in (("parallax_anomalies", "reported"), ("parallax_anomalies_firing", "firing")):
            yield family(name, [(kind, found.get(key, {}).get(kind, 0)) for kind in kinds])
