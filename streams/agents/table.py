"""The agents this worker knows: the compacted topic `agents`, read whole at start and followed live.

In: registrations and tombstones. Out: look-ups, and a call for each change and each invalid record. After `catch_up`,
the table has everything acknowledged before: a task sent after its agent was acknowledged finds it. It never writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import structlog
from aiokafka.structs import ConsumerRecord

from agents_io.errors import Unsupported
from agents_io.protocols.registration_check import check_registration
from schemas.codec import Rejected, decode
from schemas.messages import AgentRegistration
from schemas.topics import full_name
from schemas.wire_format import key_text
from streams.engine.follower import Follower
from streams.rules.agents.leases import is_ended, only_renewed

log = structlog.get_logger(__name__)

Listener = Callable[[str, AgentRegistration | None, ConsumerRecord], None]
RejectedListener = Callable[[ConsumerRecord, Rejected], None]


class AgentTable:
    """Every registered agent by id."""

    def __init__(
        self, options: dict[str, Any], prefix: str, on_rejected: RejectedListener = lambda record, rejected: None
    ) -> None:
        """`on_rejected`: called for each invalid record that comes after the table was loaded."""
        self._agents: dict[str, AgentRegistration] = {}
        self._ended: dict[str, AgentRegistration] = {}
        self._listeners: list[Listener] = []
        self._on_rejected = on_rejected
        self._follower = Follower(options, full_name("agents", prefix), self._apply)
        self._loaded = False
        self.version = 0
        """Counts the changes."""

    def get(self, agent_id: str) -> AgentRegistration | None:
        """The agent of that id, or None."""
        return self._agents.get(agent_id)

    def all(self) -> Iterable[AgentRegistration]:
        """Every agent, in no order."""
        return self._agents.values()

    def ended(self, agent_id: str) -> AgentRegistration | None:
        """The registration of an agent whose lease ended; all others treat the agent as absent."""
        return self._ended.get(agent_id)

    def all_ended(self) -> Iterable[AgentRegistration]:
        """Every agent whose lease ended, in no order."""
        return self._ended.values()

    def __len__(self) -> int:
        return len(self._agents)

    def on_change(self, listener: Listener) -> None:
        """Subscribe to each change after the table was loaded: agent id, registration or None, the record."""
        self._listeners.append(listener)

    async def start(self) -> None:
        """Read the topic to its present end, then follow it. Raises `KafkaError`, `TimeoutError`."""
        await self._follower.start()
        self._loaded = True

    async def stop(self) -> None:
        await self._follower.stop()

    @property
    def problem(self) -> str | None:
        """Why the topic cannot be read now; None while it is read."""
        return self._follower.problem

    async def catch_up(self) -> None:
        """Wait (a few seconds at most) until everything acknowledged before this call is in the table."""
        await self._follower.catch_up()

    def _apply(self, record: ConsumerRecord) -> None:
        key = key_text(record.key, record.headers) if record.key is not None else None
        if record.value is None:
            if key is not None:
                self._ended.pop(key, None)
                self._remove(key, record)
            return
        try:
            agent = decode(AgentRegistration, record.value, record.headers)
            if key is not None and key != agent.id:
                raise Rejected("validate", f"id: is {agent.id!r} but the record's key is {key!r}")
        except Rejected as rejected:
            log.warning("registration ignored", offset=record.offset, key=key, reason=rejected.reason)
            if self._loaded:
                self._on_rejected(record, rejected)
            return
        try:
            check_registration(agent)
        except Unsupported as error:  # it is kept, since its tasks end with this reason; the log informs its owner now
            log.warning("registration cannot work", offset=record.offset, key=key, reason=error.message)
            if self._loaded:
                self._on_rejected(record, Rejected("validate", error.message))
        if is_ended(agent):
            self._ended[agent.id] = agent
            self._remove(agent.id, record)
            return
        self._ended.pop(agent.id, None)
        old = self._agents.get(agent.id)
        self._agents[agent.id] = agent
        if old is None or not only_renewed(old, agent):
            self._notify(agent.id, agent, record)

    def _remove(self, agent_id: str, record: ConsumerRecord) -> None:
        if self._agents.pop(agent_id, None) is not None:
            self._notify(agent_id, None, record)

    def _notify(self, agent_id: str, agent: AgentRegistration | None, record: ConsumerRecord) -> None:
        self.version += 1
        if self._loaded:
            for listener in self._listeners:
                listener(agent_id, agent, record)
