"""Metrics of single agents: those that live in this worker's partitions and have been called.

In: the callers of the open partitions and the last published statuses, read while the page is written. Out: nine series
an agent, for the first `MOST_AGENTS` agents, and a count of all. An agent whose partition has moved is shown by its new
owner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from prometheus_client import CollectorRegistry

from agents_io.calling.caller import Caller
from schemas.messages import AgentStanding
from streams.metrics import Observed, Row

MOST_AGENTS = 5000
STATES = ("closed", "open", "half_open")


class AgentMetrics:
    """`callers`: those of each open partition, by agent id. `published`: statuses of agents that live here, by id."""

    def __init__(
        self,
        registry: CollectorRegistry,
        callers: Callable[[], Iterable[Mapping[str, Caller[Any]]]],
        published: Callable[[], Mapping[str, AgentStanding]],
    ) -> None:
        self._callers = callers
        self._published = published
        self._loop = asyncio.get_running_loop()
        observed = Observed(registry)
        observed.add("parallax_agents", self._count)
        observed.add("parallax_agent_healthy", self._healthy)
        observed.add("parallax_circuit_state", self._circuits)
        series: Mapping[str, Callable[[Caller[Any]], float | None]] = {
            "parallax_agent_inflight_calls": lambda caller: caller.queue.in_flight,
            "parallax_agent_waiting_tasks": lambda caller: caller.queue.waiting,
            "parallax_agent_calls": lambda caller: caller.queue.ended,
            "parallax_agent_response_seconds": lambda caller: caller.stats.latency.mean.value,
            "parallax_agent_confidence_ratio": lambda caller: caller.stats.confidence.value,
        }
        for name, of in series.items():
            observed.add(name, _each(self._here, of))

    def _here(self) -> dict[str, Caller[Any]]:
        """A copy: agents are added and removed while the page is written."""
        found: dict[str, Caller[Any]] = {}
        for callers in self._callers():
            found |= callers
        return found

    def _count(self) -> Iterable[Row]:
        return [((), sum(map(len, self._callers())))]

    def _healthy(self) -> Iterator[Row]:
        here, published = self._here(), dict(self._published())
        ill = [agent_id for agent_id, agent_status in published.items() if not agent_status.healthy]
        for agent_id in islice(dict.fromkeys((*ill, *here)), MOST_AGENTS):
            agent_status = published.get(agent_id)
            yield (agent_id,), float(agent_status is None or agent_status.healthy)

    def _circuits(self) -> Iterator[Row]:
        now = self._loop.time()
        for agent_id, caller in islice(self._here().items(), MOST_AGENTS):
            is_in = caller.queue.breaker.state(now)
            for state in STATES:
                yield (agent_id, state), float(state == is_in)


def _each(
    here: Callable[[], Mapping[str, Caller[Any]]], of: Callable[[Caller[Any]], float | None]
) -> Callable[[], Iterator[Row]]:
    """A series for each agent for which `of` returns a value."""

    def rows() -> Iterator[Row]:
        for agent_id, caller in islice(here().items(), MOST_AGENTS):
            value = of(caller)
            if value is not None:
                yield (agent_id,), value

    return rows
