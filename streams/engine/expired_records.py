"""Counts and reports records that were removed from their log before they were processed, by retention or by hand.

In: what the partitions of one engine found missing. Out: an event for the transaction that commits the offsets behind
the loss; once that is committed, a log line and the counts. An owner that ends before that reports nothing: the next
one finds the same loss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import structlog
from aiokafka.structs import TopicPartition

from schemas.messages import EventType
from streams.rules.records import Output

log = structlog.get_logger(__name__)

REMEDY = "give the topic a longer retention.ms (or retention.bytes), or start more workers"

Recorded = Callable[[EventType, str, dict[str, Any], int, str], Output]
"""What `Recorder.event` does."""


class ExpiredRange(NamedTuple):
    """Records of one topic partition. `records`: an upper bound, since gaps between records count too."""

    first: int
    last: int
    records: int

    def joined(self, other: ExpiredRange) -> ExpiredRange:
        """Both as one.

        >>> ExpiredRange(3, 3, 1).joined(ExpiredRange(7, 9, 3))
        ExpiredRange(first=3, last=9, records=4)
        """
        return ExpiredRange(min(self.first, other.first), max(self.last, other.last), self.records + other.records)


class ExpiredRecords:
    """Expired records of one engine. `topics`: full names of its sources; their counts begin at zero."""

    def __init__(
        self,
        topics: Iterable[str] = (),
        event: Recorded | None = None,
        wall_ms: Callable[[], int] = int,
    ) -> None:
        self.by_topic = dict.fromkeys(topics, 0)
        self._by_partition: Counter[TopicPartition] = Counter()
        self._event = event
        self._wall_ms = wall_ms

    def count(self, tp: TopicPartition) -> int:
        """Records of this partition that expired under this worker."""
        return self._by_partition[tp]

    def events(self, found: Mapping[TopicPartition, ExpiredRange]) -> list[Output]:
        """The events for the commit that makes the losses final."""
        return [] if self._event is None else [self._event_of(self._event, tp, one) for tp, one in found.items()]

    def _event_of(self, event: Recorded, tp: TopicPartition, one: ExpiredRange) -> Output:
        data = {
            "topic": tp.topic,
            "partition": tp.partition,
            "first": one.first,
            "last": one.last,
            "count": one.records,
        }
        return event("records:expired", f"{tp.topic}/{tp.partition}", data, self._wall_ms(), f"/{one.first}/{one.last}")

    def committed(self, found: Mapping[TopicPartition, ExpiredRange]) -> None:
        """The offsets behind the losses are committed: the next owner does not find them again."""
        for tp, one in found.items():
            self.by_topic[tp.topic] = self.by_topic.get(tp.topic, 0) + one.records
            self._by_partition[tp] += one.records
            log.error("records expired before they were worked on; remedy: " + REMEDY, topic=tp.topic,
                      partition=tp.partition, at_most=one.records, first=one.first, last=one.last)  # fmt: skip
