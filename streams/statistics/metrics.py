"""What statistics show on `/metrics`: points folded, refused and late, and how many series are kept.

In: the counters of whatever processor runs, read whenever somebody asks; None while there is none. Out: gauges and counters,
which begin anew with a processor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class StatsMetrics(Collector):
    """To be registered with the worker's registry."""

    def __init__(self, counters: Callable[[], Mapping[str, Any] | None]) -> None:
        self._counters = counters

    def collect(self) -> Iterable[Metric]:
        """One reading."""
        found = self._counters() or {}
        ready = "series" in found
        yield GaugeMetricFamily("parallax_stats_ready", "1 once what was known has been recovered", value=int(ready))
        yield CounterMetricFamily("parallax_stats_points", "Data points counted", value=found.get("points", 0))
        yield CounterMetricFamily("parallax_stats_rejected", "Data points refused", value=found.get("rejected", 0))
        yield GaugeMetricFamily(
            "parallax_stats_pending", "Data points read, not counted yet", value=found.get("pending", 0)
        )
        yield GaugeMetricFamily(
            "parallax_stats_series", "Series (agent, pattern, task type) kept here", value=found.get("series", 0)
        )
        yield GaugeMetricFamily(
            "parallax_stats_late_points", "Late points of the series kept here", value=found.get("late", 0)
        )
        dropped = GaugeMetricFamily(
            "parallax_stats_missed_points",
            "Points too late for a window of that length, of the series kept here",
            labels=["interval"],
        )
        for interval, count in found.get("dropped", {}).items():
            dropped.add_metric([interval], count)
        yield dropped
