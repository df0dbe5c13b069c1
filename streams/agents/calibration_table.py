"""Calibrations of agents' confidence: the compacted topic `calibrations`, read whole at start and followed live.

In: records of the statistics. Out: a calibrated confidence for a stated one, None while too little is known. It never
writes.
"""

from __future__ import annotations

from typing import Any

import structlog
from aiokafka.structs import ConsumerRecord

from schemas.codec import Rejected, decode
from schemas.messages import AgentCalibration
from schemas.topics import full_name
from streams.engine.follower import Follower
from streams.rules.detection.calibration import calibrated

log = structlog.get_logger(__name__)


class CalibrationTable:
    """The newest calibration of every agent: 21 numbers each."""

    def __init__(self, options: dict[str, Any], prefix: str) -> None:
        self._tables: dict[str, tuple[float, ...]] = {}
        self._follower = Follower(options, full_name("calibrations", prefix), self.apply)

    def of(self, agent_id: str, confidence: float) -> float | None:
        """The calibrated confidence for one that this agent stated; None: unknown."""
        table = self._tables.get(agent_id)
        return None if table is None else calibrated(table, confidence)

    async def start(self) -> None:
        """Read the topic to its present end, then follow it. Raises `KafkaError`, `TimeoutError`."""
        await self._follower.start()

    @property
    def problem(self) -> str | None:
        """Why the topic cannot be read now; None while it is read."""
        return self._follower.problem

    async def stop(self) -> None:
        await self._follower.stop()

    def apply(self, record: ConsumerRecord) -> None:
        """One record: a calibration, or a tombstone that removes one."""
        if record.value is None:
            self._tables.pop((record.key or b"").decode("utf-8", "replace"), None)
            return
        try:
            found = decode(AgentCalibration, record.value, record.headers)
        except Rejected as rejected:
            log.warning("calibration ignored", offset=record.offset, reason=rejected.reason)
            return
        self._tables[found.agent_id] = tuple(found.table)
