"""What statistics show on `/metrics`, before, while and after a processor runs."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from streams.statistics.metrics import StatsMetrics


def test_a_reading_shows_what_the_processor_counts_now() -> None:
    """Zeros while there is no processor; no series while it recovers."""
    now: list[dict[str, Any] | None] = [None]
    registry = CollectorRegistry()
    registry.register(StatsMetrics(lambda: now[0]))
    page = generate_latest(registry).decode()
    assert "parallax_stats_points_total 0.0" in page
    assert 'parallax_anomalies_firing{severity="high",type="silent"} 0.0' in page
    now[0] = {"points": 3, "rejected": 1, "pending": 0, "reported": {("drift", "high"): 2}, "event_lag": {3: 1.5}}
    page = generate_latest(registry).decode()
    assert "parallax_stats_points_total 3.0" in page
    assert "parallax_stats_series 0.0" in page
    now[0] = now[0] | {"series": 7, "late": 2, "dropped": {"minute": 1, "hour": 0, "day": 0}}
    now[0] |= {"firing": {("drift", "high"): 1}}
    page = generate_latest(registry).decode()
    for line in (
        "parallax_stats_rejected_total 1.0",
        "parallax_stats_series 7.0",
        "parallax_stats_late_points 2.0",
        'parallax_stats_missed_points{interval="minute"} 1.0',
        'parallax_stats_event_time_lag_seconds{partition="3"} 1.5',
        'parallax_anomalies_total{severity="high",type="drift"} 2.0',
        'parallax_anomalies_firing{severity="high",type="drift"} 1.0',
        'parallax_anomalies_firing{severity="low",type="drift"} 0.0',
    ):
        assert line in page
