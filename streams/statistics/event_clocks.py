"""The event clocks of a worker's partitions, moved by the logs' ends.

In: log ends, read once a second, and how far the consumer has counted. Out: one `EventClock` a partition. While a
broker does not answer, or points wait to be counted, time stands still for series without points.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from aiokafka.errors import KafkaError

from streams.rules.windows.clock import EventClock
from streams.statistics.source_log import SourceLog
from streams.statistics.transport import LedgerConsumer

log = logging.getLogger(__name__)


class EventClocks:
    """The clocks of one worker."""

    def __init__(self) -> None:
        self._clocks: dict[int, EventClock] = {}
        self._asked_ms = 0
        self._ends: dict[int, int] = {}

    def of(self, partition: int) -> EventClock:
        """A partition's clock."""
        clock = self._clocks.get(partition)
        if clock is None:
            clock = self._clocks[partition] = EventClock()
        return clock

    def clear(self) -> None:
        """The partitions are gone."""
        self._clocks.clear()
        self._asked_ms, self._ends = 0, {}

    async def ask(self, consumer: LedgerConsumer, source_log: SourceLog) -> None:
        """Ask for the logs' ends; without an answer the clocks stay unchanged."""
        asked_ms = int(time.time() * 1000)
        try:
            ends = await consumer.log_ends(source_log)
        except (KafkaError, TimeoutError) as error:
            log.debug("the logs' ends are not known: %r", error)
        else:
            self._asked_ms, self._ends = asked_ms, ends

    def advance(self, positions: Mapping[int, int]) -> None:
        """`positions`: partition -> the offset before which every point is counted."""
        for partition, end in self._ends.items():
            clock = self.of(partition)
            if self._asked_ms > clock.caught_up_ms:
                clock.observe_end(end, self._asked_ms)
            if partition in positions:
                clock.advance(positions[partition])

    def lag_s(self) -> dict[int, float]:
        """Partition -> how far counted events are behind the wall clock; 0 when all are counted."""
        now_ms = int(time.time() * 1000)
        return {number: clock.lag_s(now_ms) for number, clock in self._clocks.items()}
