"""The gateway's metrics: connected agents by status, open requests, and unexpected answers.

In: a gateway, read with each request. Out: gauges and counters. Agents are counted by status only: there may be
thousands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from agents_io.protocols.gateway.service import Gateway
from streams.metrics import family


class GatewayMetrics(Collector):
    """A collector for the worker's registry."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def collect(self) -> Iterable[Metric]:
        present = self._gateway.present().values()
        by_status = Counter(found.status for found in present)
        yield family(
            "parallax_gateway_agents",
            [((status,), by_status[status]) for status in ("healthy", "degraded", "draining")],
        )
        yield family("parallax_gateway_outstanding", [((), sum(found.outstanding for found in present))])
        yield family(
            "parallax_gateway_messages", [((kind,), count) for kind, count in self._gateway.counters().items()]
        )
