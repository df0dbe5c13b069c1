"""Publishes the status of the agents that this worker's partitions own: on `standings` for the balancers, and events
about their health.

In: the callers of the open partitions, checked every second; results of health checks; which agents are dialled in.
Out: records on `standings`, at once when an agent becomes available or unavailable, at most every second when load,
times or confidence change; `agent:healthy` and `agent:unhealthy` exactly at the change, also when the partition moved
meanwhile (the last published status is read from the topic). While an agent has several problems, only the first is
reported, and then the end of the last. Best effort, outside transactions: it changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from agents_io.calling.caller import Caller
from agents_io.calling.rules.health import Checks, ChecksConfig
from schemas.codec import pack
from schemas.messages import AgentRegistration, AgentStanding, EventType
from schemas.times import format_time
from streams.agents.agent_statuses import AgentStatuses
from streams.metrics import DispatchMetrics
from streams.rules.agents.gateway_claim import connected, where_of
from streams.rules.records import Output, Recorder
from streams.settings import Settings

LOOK_S = 1.0
REPEAT_MS = 10_000
"""The status of an active agent is published this often, changed or not: readers trust an old one less."""
MOVED = 0.2
"""Times and confidence count as changed when they differ by this share."""


class AgentStatusPublisher:
    """`callers`: those of each open partition, by agent id. `lookup`: registrations. `wall_ms`: epoch ms.

    `dialled`: agents of open partitions that dial in, by id, another mapping whenever something changed.
    """

    def __init__(
        self,
        *,
        callers: Callable[[], Iterable[Mapping[str, Caller[Any]]]],
        lookup: Callable[[str], AgentRegistration | None],
        dialled: Callable[[], Mapping[str, AgentRegistration]],
        agent_statuses: AgentStatuses,
        settings: Settings,
        recorder: Recorder,
        emit: Callable[[Output], None],
        metrics: DispatchMetrics,
        wall_ms: Callable[[], int],
    ) -> None:
        self._callers = callers
        self._lookup = lookup
        self._dialled = dialled
        self._agent_statuses = agent_statuses
        self._config = ChecksConfig(settings.health.unhealthy_after, settings.health.healthy_after)
        self._lately_s = (settings.health.check_interval + settings.health.check_timeout) / 1000
        self._recorder = recorder
        self._emit = emit
        self._metrics = metrics
        self._wall_ms = wall_ms
        self._loop = asyncio.get_running_loop()
        self._published: dict[str, AgentStanding] = {}
        self._ended: dict[str, tuple[int, int]] = {}
        self._checks: dict[str, Checks] = {}
        self._hedges = 0
        self._known_dialled: Mapping[str, AgentRegistration] = {}

    @property
    def published(self) -> Mapping[str, AgentStanding]:
        """The last published status of each agent of the open partitions that was called or is checked."""
        return self._published

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self.publish_changes()

    def publish_changes(self) -> None:
        """Publish the statuses that changed, and forget agents whose partition has moved."""
        present = self._checks.keys() | self._dialled().keys()
        hedges = 0
        for callers in self._callers():
            for agent_id, caller in callers.items():
                present.add(agent_id)
                hedges += caller.stats.hedges
                busy = caller.queue.waiting + caller.queue.in_flight
                seen = caller.queue.ended, busy
                last = self._published.get(agent_id)
                # An agent without calls since, healthy and with a closed circuit, has the same status as before.
                if self._ended.get(agent_id) != seen or last is None or not last.healthy or last.circuit != "closed":
                    self._ended[agent_id] = seen
                    self.publish(agent_id, caller)
                elif caller.queue.breaker.config.mode == "open":
                    self.publish(agent_id, caller)
        if hedges > self._hedges:
            self._metrics.hedges.inc(hedges - self._hedges)
        self._hedges = hedges
        self._follow_connections()
        for agent_id in [agent_id for agent_id in self._published if agent_id not in present]:
            self._published.pop(agent_id)
            self._ended.pop(agent_id, None)

    def _follow_connections(self) -> None:
        """Note agents that connected or disconnected while the partition was elsewhere."""
        dialled = self._dialled()
        if dialled is self._known_dialled:
            return
        self._known_dialled = dialled
        for agent_id, agent in dialled.items():
            last = self._published.get(agent_id) or self._agent_statuses.get(agent_id)
            if last is None or (last.reason == "connection") == connected(agent):
                self.publish(agent_id, self._caller(agent_id))

    def _caller(self, agent_id: str) -> Caller[Any] | None:
        return next((callers[agent_id] for callers in self._callers() if agent_id in callers), None)

    def publish(self, agent_id: str, caller: Caller[Any] | None) -> None:
        """Publish the agent's status if it changed. `caller`: None if it has not been called yet."""
        last = self._published.get(agent_id) or self._agent_statuses.get(agent_id)
        agent_status = self._agent_status(agent_id, caller, last)
        if agent_id in self._published and last is not None and not is_news(last, agent_status):
            return
        self._published[agent_id] = agent_status
        # An agent that dials in and has not connected yet is absent.
        was_well = connected(self._lookup(agent_id)) is None if last is None else last.healthy
        if agent_status.healthy != was_well:
            self._publish_health(agent_status, last)
        if last is None or is_news(last, agent_status):
            wire = agent_status.model_dump(by_alias=True, exclude_none=True)
            self._emit(Output("standings", agent_id.encode(), pack(wire)))

    def checked(self, agent_id: str, caller: Caller[Any] | None, well: bool | None) -> None:
        """A health check ended. `well`: None if the agent did not answer in time.

        An agent that handles one request at a time answers no check while it is called. Three cases without an answer:
        1 it answered a call recently: healthy. 2 a call is under way: wait for its outcome. 3 neither: unhealthy.
        """
        if well is None and caller is not None:
            if self._loop.time() - caller.stats.answered_at <= self._lately_s:
                well = True
            elif caller.queue.in_flight:
                return
        checks = self._checks.get(agent_id)
        if checks is None:
            known = self._agent_statuses.get(agent_id)
            well_before = known is None or known.reason != "checks"
            checks = self._checks[agent_id] = Checks(self._config, well=well_before)
        before = checks.well
        last = self._published.get(agent_id)
        if checks.observe(well is True) != before or last is None or not last.healthy:
            self.publish(agent_id, caller)

    def on_not_checked(self, agent_id: str) -> None:
        """The agent is no longer checked: its partition moved, it is gone, or it has no health check."""
        self._checks.pop(agent_id, None)

    def gone(self, agent_id: str) -> None:
        """The agent was unregistered: remove its status."""
        self.on_not_checked(agent_id)
        self._published.pop(agent_id, None)
        self._ended.pop(agent_id, None)
        if self._agent_statuses.get(agent_id) is not None:
            self._emit(Output("standings", agent_id.encode(), None))

    def _agent_status(self, agent_id: str, caller: Caller[Any] | None, last: AgentStanding | None) -> AgentStanding:
        now, now_ms = self._loop.time(), self._wall_ms()
        checks = self._checks.get(agent_id)
        fields: dict[str, Any] = {"agent_id": agent_id, "at": now_ms}
        if caller is not None:
            queue, stats = caller.queue, caller.stats
            shut_until = queue.breaker.shut_until(now)
            fields |= {
                "circuit": queue.breaker.state(now),
                "load": queue.waiting + queue.in_flight,
                "concurrency": queue.concurrency,
            }
            if now < shut_until < float("inf"):
                fields["open_until"] = now_ms + round((shut_until - now) * 1000)
            if stats.latency.mean.value is not None:
                fields["response_time"] = round(stats.latency.mean.value * 1000, 1)
            if stats.confidence.value is not None:
                fields["confidence"] = round(stats.confidence.value, 4)
            if stats.calibrated.value is not None:
                fields["calibrated_confidence"] = round(stats.calibrated.value, 4)
            if stats.ejection.out(now):
                fields["ejected_until"] = now_ms + round((stats.ejection.until - now) * 1000)
                fields |= {"healthy": False, "reason": "calls"}
        elif last is not None:
            fields = last.model_dump() | fields
            if (last.ejected_until or 0) <= now_ms:
                fields |= {"healthy": True, "reason": "", "ejected_until": None}
            else:
                fields |= {"healthy": False, "reason": "calls"}
        if checks is not None and not checks.well:
            fields |= {"healthy": False, "reason": "checks"}
        if connected(self._lookup(agent_id)) is False:
            fields |= {"healthy": False, "reason": "connection"}
        return AgentStanding.model_validate(fields)

    def _publish_health(self, agent_status: AgentStanding, last: AgentStanding | None) -> None:
        kind: EventType = "agent:healthy" if agent_status.healthy else "agent:unhealthy"
        data: dict[str, Any] = {"agentId": agent_status.agent_id} | self._why(agent_status, last)
        if not agent_status.healthy and agent_status.ejected_until is not None:
            data["until"] = format_time(agent_status.ejected_until)
        self._emit(self._recorder.event(kind, agent_status.agent_id, data, agent_status.at, tail=f"/{agent_status.at}"))

    def _why(self, agent_status: AgentStanding, last: AgentStanding | None) -> dict[str, str]:
        where = where_of(self._lookup(agent_status.agent_id))
        found = {} if where is None else {"node": where.node}
        if not agent_status.healthy:
            lost = agent_status.reason == "connection" and where is not None and where.why
            return found | {"reason": lost or agent_status.reason}
        if where is not None and (last is None or last.reason == "connection"):
            return found | {"reason": "connected"}
        return found


def is_news(last: AgentStanding, now: AgentStanding) -> bool:
    """Whether the difference is worth a record."""
    if (last.circuit, last.open_until is None, last.healthy, last.reason, last.concurrency) != (
        now.circuit, now.open_until is None, now.healthy, now.reason, now.concurrency
    ):  # fmt: skip
        return True
    if now.open_until is not None and abs(now.open_until - (last.open_until or 0)) > 1000:
        return True
    if now.at - last.at >= REPEAT_MS:
        return True
    if abs(now.load - last.load) > max(1, (now.concurrency or 1) // 4):
        return True
    return (
        _differs(last.response_time, now.response_time)
        or _differs(last.confidence, now.confidence)
        or _differs(last.calibrated_confidence, now.calibrated_confidence)
    )


def _differs(last: float | None, now: float | None) -> bool:
    if last is None or now is None:
        return last is not now
    return abs(now - last) > MOVED * max(last, now, 0.001)
