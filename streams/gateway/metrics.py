"""What the gateway shows on `/metrics`: who is connected here, how busy they say they are, which answers came amiss.

In: a gateway, read with each request. Out: gauges and counters. Agents are distinguished by status only: there may be
thousands of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from agents_io.protocols.gateway.service import Gateway


class GatewayMetrics(Collector):
    """To be registered with the worker's registry."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def collect(self) -> Iterable[Metric]:
        present = self._gateway.present().values()
        agents = GaugeMetricFamily("parallax_gateway_agents", "Agents connected to this worker", labels=["status"])
        by_status = Counter(found.status for found in present)
        for status in ("healthy", "degraded", "draining"):
            agents.add_metric([status], by_status[status])
        yield agents
        open_now = sum(found.outstanding for found in present)
        yield GaugeMetricFamily(
            "parallax_gateway_outstanding", "Requests that wait for such an agent's answer", value=open_now
        )
        messages = CounterMetricFamily(
            "parallax_gateway_messages",
            "Messages of such agents: answers in time, late answers, answers to no request, and refusals",
            labels=["kind"],
        )
        for kind, count in self._gateway.counters().items():
            messages.add_metric([kind], count)
        yield messages
