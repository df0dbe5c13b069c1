"""The true ends of the partitions of `data-points`, and whether they are still the logs that were counted.

In: partition numbers; the last counted record of each series. Out: log ends, open transactions included; per partition
the offset at which to resume if its log has changed. It has its own consumer, without a group, that reads uncommitted
records: what an open transaction hides may be older than what a group's consumer has seen. Raises `KafkaError`,
`TimeoutError`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from streams.broker.kafka import start
from streams.rules.windows.log_identity import Mark, checked_marks, resume_at
from streams.statistics import changelog

log = logging.getLogger(__name__)

ASK_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0


class SourceLog:
    """The partitions of one topic. Connects on first use; call `close` when done."""

    def __init__(self, options: dict[str, Any], topic: str, exact_ends: bool = True) -> None:
        """`exact_ends`: False for the embedded broker, see `changelog.ends`."""
        self._options = options
        self._exact_ends = exact_ends
        self._topic = topic
        self._consumer: AIOKafkaConsumer | None = None
        self._connecting = asyncio.Lock()

    async def ends(self, partitions: Iterable[int]) -> dict[int, int]:
        """Partition -> the offset after its last record."""
        wanted = self._tps(partitions)
        if not wanted:
            return {}
        async with asyncio.timeout(ASK_TIMEOUT_S):
            found = await (await self._connected()).end_offsets(wanted)
        return {tp.partition: end for tp, end in found.items()}

    async def resume_offsets(self, marks: Mapping[int, Sequence[Mark]]) -> dict[int, int]:
        """Partition -> where to resume, for partitions whose log is not the one that was counted.

        `marks`: per partition the last records that series counted there.
        """
        tps = self._tps(number for number, found in marks.items() if found)
        if not tps:
            return {}
        async with asyncio.timeout(READ_TIMEOUT_S):
            consumer = await self._connected()
            begins = await consumer.beginning_offsets(tps)
            ends = await (consumer.end_offsets(tps) if self._exact_ends else changelog.ends(self._options, tps))
            resumed = {}
            for tp in tps:
                known, begin, end = marks[tp.partition], begins[tp], ends[tp]
                stamps: dict[int, int | None] = {}
                for mark in checked_marks(known, begin, end):
                    stamps[mark.offset] = await self._stamp(consumer, tp, mark.offset)
                    if stamps[mark.offset] == mark.stamp_ms:
                        break
                newest_ms = max(mark.stamp_ms for mark in known)
                found = await consumer.offsets_for_times({tp: newest_ms + 1}) if newest_ms >= 0 else {}
                later = found.get(tp)
                offset = resume_at(known, stamps, begin, end, None if later is None else later.offset)
                if offset is not None:
                    resumed[tp.partition] = offset
                    log.error(
                        "%s [%d] is not the log that was counted (counted to offset %d, it ends at %d): "
                        "reading on at offset %d; was the topic recreated or restored?",
                        tp.topic, tp.partition, max(mark.offset for mark in known), end, offset,
                    )  # fmt: skip
            consumer.unsubscribe()
        return resumed

    async def _stamp(self, consumer: AIOKafkaConsumer, tp: TopicPartition, offset: int) -> int | None:
        """The timestamp of the record at that offset; None without one."""
        consumer.assign([tp])
        consumer.seek(tp, offset)
        while await consumer.position(tp) <= offset:
            for record in (await consumer.getmany(tp, timeout_ms=200, max_records=1)).get(tp, ()):
                return record.timestamp if record.offset == offset else None
        return None

    def _tps(self, partitions: Iterable[int]) -> list[TopicPartition]:
        return [TopicPartition(self._topic, number) for number in sorted(partitions)]

    async def _connected(self) -> AIOKafkaConsumer:
        async with self._connecting:
            if self._consumer is None:
                consumer = AIOKafkaConsumer(
                    **self._options, enable_auto_commit=False, auto_offset_reset="none", fetch_max_wait_ms=100
                )
                await start(consumer)
                self._consumer = consumer
        return self._consumer

    async def close(self) -> None:
        """Release the connections. Safe to call twice."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            try:
                await consumer.stop()
            except KafkaError as error:
                log.debug("a consumer did not stop cleanly: %r", error)
