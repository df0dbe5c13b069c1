"""What statistics show on `/metrics`: points folded, refused and late, how many series are kept, which alarms are on.

In: the counters of the running processor, read with each request; None while there is none. Out: gauges and counters,
which begin anew with a processor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from schemas.messages import AnomalyType, Severity


class StatsMetrics(Collector):
    """To be registered with the worker's registry."""

    def __init__(self, counters: Callable[[], Mapping[str, Any] | None]) -> None:
        self._counters = counters

    def collect(self) -> Iterable[Metric]:
        found = self._counters() or {}
        yield CounterMetricFamily("parallax_stats_points", "Data points counted", value=found.get("points", 0))
        yield CounterMetricFamily("parallax_stats_rejected", "Data points refused", value=found.get("rejected", 0))
        yield GaugeMetricFamily(
            "parallax_stats_pending", "Data points read, not counted yet", value=found.get("pending", 0)
        )
        yield CounterMetricFamily(
            "parallax_stats_expired_points",
            "Data points that retention removed before they were counted",
            value=found.get("expired", 0),
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
        behind = GaugeMetricFamily(
            "parallax_stats_event_time_lag_seconds",
            "How far the events that are counted lie behind the clock; 0 where all that was there is counted",
            labels=["partition"],
        )
        for partition, seconds in found.get("event_lag", {}).items():
            behind.add_metric([str(partition)], seconds)
        yield behind
        used = found.get("process")  # only where they have a process to themselves
        cpu = CounterMetricFamily("parallax_stats_process_cpu_seconds", "CPU time of the statistics' own process")
        memory = GaugeMetricFamily(
            "parallax_stats_process_resident_memory_bytes", "Memory of the statistics' own process"
        )
        if used is not None:
            cpu.add_metric([], used["cpu"])
            memory.add_metric([], used["memory"])
        yield cpu
        yield memory
        kinds = ["type", "severity"]
        reported = CounterMetricFamily("parallax_anomalies", "Anomalies reported as firing", labels=kinds)
        firing = GaugeMetricFamily(
            "parallax_anomalies_firing", "Anomalies that are firing, of the series kept here", labels=kinds
        )
        for kind in get_args(AnomalyType):
            for severity in get_args(Severity):
                reported.add_metric([kind, severity], found.get("reported", {}).get((kind, severity), 0))
                firing.add_metric([kind, severity], found.get("firing", {}).get((kind, severity), 0))
        yield reported
        yield firing
