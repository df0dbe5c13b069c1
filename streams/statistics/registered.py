"""Detectors in registrations: `metadata.detectors` on the topic `agents`, read whole at start and followed.

In: registrations. Out: detector specs by agent. A registration with invalid detectors keeps working; the reason is
logged. If the topic cannot be read, statistics run without the detectors of registrations.
"""

from __future__ import annotations

from typing import Any

import structlog
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from schemas.codec import Rejected, decode
from schemas.messages import AgentRegistration
from schemas.topics import full_name
from schemas.wire_format import key_text
from streams.engine.follower import Follower
from streams.rules.detection.specs import DetectorSpec, parse_specs

log = structlog.get_logger(__name__)


class RegisteredDetectors:
    """The detectors of every registered agent."""

    def __init__(self, options: dict[str, Any], prefix: str) -> None:
        self._specs: dict[str, tuple[DetectorSpec, ...]] = {}
        self._follower = Follower(options, full_name("agents", prefix), self.apply)

    def of(self, agent_id: str) -> tuple[DetectorSpec, ...]:
        """The detectors of one agent; usually none."""
        return self._specs.get(agent_id, ())

    async def start(self) -> None:
        """Read the topic to its present end, then follow it."""
        try:
            await self._follower.start()
        except (KafkaError, TimeoutError) as error:
            log.warning("registrations cannot be read; statistics run without their detectors", error=repr(error))

    async def stop(self) -> None:
        await self._follower.stop()

    def apply(self, record: ConsumerRecord) -> None:
        """Apply one registration, or its removal."""
        agent_id = key_text(record.key, record.headers)
        self._specs.pop(agent_id, None)
        if record.value is None:
            return
        try:
            agent = decode(AgentRegistration, record.value, record.headers)
            specs = parse_specs((agent.metadata or {}).get("detectors"))
        except Rejected:
            return  # dispatch reports a registration that cannot be read
        except ValueError as error:
            log.warning("detectors of a registration ignored", agent_id=agent_id, reason=f"metadata.detectors: {error}")
            return
        if specs:
            self._specs[agent.id] = specs
