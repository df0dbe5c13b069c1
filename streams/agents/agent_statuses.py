"""The status of every agent, as its owner published it: the compacted topic `standings`, read whole at start and
followed live.

In: `AgentStanding` records. Out: look-ups, and a call when an agent becomes available. A worker learns of its own
agents in the same way, so there is one order. A status may be a second old or from a worker that crashed: it serves the
choice among agents, and no limit depends on it. It never writes.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
from aiokafka.structs import ConsumerRecord

from schemas.codec import Rejected, decode
from schemas.messages import AgentStanding

log = structlog.get_logger(__name__)


class AgentStatuses:
    """The newest status of each agent. `turns` counts the changes that make an agent available or unavailable at
    once.
    """

    def __init__(self) -> None:
        self.turns = 0
        self._agent_statuses: dict[str, AgentStanding] = {}
        self._listeners: list[Callable[[str], None]] = []

    def get(self, agent_id: str) -> AgentStanding | None:
        """The agent's status, or None."""
        return self._agent_statuses.get(agent_id)

    def on_available(self, listener: Callable[[str], None]) -> None:
        """Call `listener` for each agent that became healthy, with a circuit that lets calls through."""
        self._listeners.append(listener)

    def apply(self, record: ConsumerRecord) -> None:
        """Apply one record of the topic; a null value removes the agent."""
        if record.value is None:
            key = (record.key or b"").decode("utf-8", "replace")
            if self._agent_statuses.pop(key, None) is not None:
                self.turns += 1
            return
        try:
            self.note(decode(AgentStanding, record.value, record.headers))
        except Rejected as rejected:
            log.warning("agent status ignored", offset=record.offset, reason=rejected.reason)

    def note(self, agent_status: AgentStanding) -> None:
        """Set the present status of an agent."""
        before = self._agent_statuses.get(agent_status.agent_id)
        self._agent_statuses[agent_status.agent_id] = agent_status
        was, now = _turn(before), _turn(agent_status)
        if was == now:
            return
        self.turns += 1
        if now == _USABLE or (now[0] and now[1] == "half_open"):
            for listener in self._listeners:
                listener(agent_status.agent_id)


_USABLE = (True, "closed")


def _turn(agent_status: AgentStanding | None) -> tuple[bool, str]:
    return _USABLE if agent_status is None else (agent_status.healthy, agent_status.circuit)
