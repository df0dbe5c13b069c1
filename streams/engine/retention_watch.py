"""Measures the age of the oldest unfinished records, and reads the retention of their topics: Kafka removes older ones.

In: an engine's open partitions, checked every few seconds; the brokers' log ends, topic settings, and at times the
record at the head of a partition. Out: `engine.ages`, for `/metrics` and `/partitions`. Retention by size is not
considered: offsets do not show how many bytes precede a record. It changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from math import inf
from typing import Any

import structlog
from aiokafka.structs import TopicPartition

from schemas.topics import full_name
from streams.engine.engine import Engine
from streams.engine.partition_processor import PartitionProcessor
from streams.engine.partition_status import known
from streams.engine.record_reader import ReadAgain

log = structlog.get_logger(__name__)

LOOK_S = 10.0
RETENTION_S = 300.0
"""How often topic settings are read."""
ASK_TIMEOUT_S = 10.0

Retentions = Callable[[], Awaitable[Mapping[str, int]]]
"""Topic (short name) -> retention, ms; topics that keep records forever are left out."""


class RetentionWatch:
    """`read_again`: reads single records."""

    def __init__(self, engine: Engine[Any], read_again: ReadAgain, retentions: Retentions) -> None:
        self._engine = engine
        self._read_again = read_again
        self._retentions = retentions
        self._next_settings = -inf

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Check all open partitions once. If brokers do not answer, the known values stay."""
        await self._look_at_settings()
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                ends = await self._ends()
        except Exception as error:  # brokers that do not answer: the watchdog and the polls report them
            log.debug("log ends could not be read", error=repr(error))
            return
        ages, wall_ms = self._engine.ages, self._engine.wall_ms
        ages.keep(ends)
        to_read: list[tuple[TopicPartition, str, int]] = []
        for processor in list(self._engine.processors.values()):
            for source, tp in processor.partitions.items():
                if tp in ends:
                    offset = self._oldest(processor, source, tp, ends[tp])
                    if ages.look(tp, offset, ends[tp], wall_ms()) and offset is not None:
                        to_read.append((tp, source, offset))
        for tp, source, offset in to_read:
            try:
                record = (await self._read_again(source, tp.partition, (offset,))).get(offset)
            except Exception as error:  # the others are read at the next look
                log.debug("an old record could not be read", topic=tp.topic, partition=tp.partition, error=repr(error))
                ages.read(tp, offset, None)
                return
            ages.read(tp, offset, None if record is None else record.timestamp)

    async def _look_at_settings(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._next_settings:
            return
        self._next_settings = now + RETENTION_S
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                found = await self._retentions()
        except Exception as error:  # unavailable or not allowed: the known values stay
            log.warning("the retention of topics could not be read", error=repr(error))
            return
        prefix = self._engine.config.prefix
        self._engine.ages.retention_ms = {full_name(source, prefix): ms for source, ms in found.items()}

    async def _ends(self) -> dict[TopicPartition, int]:
        tps = [tp for processor in self._engine.processors.values() for tp in processor.partitions.values()]
        return dict(await self._engine.consumer.end_offsets(tps)) if tps else {}

    def _oldest(self, processor: PartitionProcessor, source: str, tp: TopicPartition, end: int) -> int | None:
        """The offset of the oldest unfinished record; None if all are finished, apart from transaction markers."""
        ledger, inbox = processor.ledgers[source], processor.inboxes[source]
        if ledger.in_flight:
            return ledger.head
        if inbox:
            return int(inbox[0].offset)
        position, _ = known(self._engine.consumer, tp)
        at = ledger.next if position is None else max(position, ledger.next)
        return at if at < end else None
