"""A worker's position in each topic partition it owns, for people and for `/metrics`.

In: an engine's open partitions, and the logs' ends as known without asking: from the last fetch, and from the watchdog,
which asks every few seconds anyway (a partition is not fetched while there is no room for it). Out: one
`PartitionStatus` each. It asks no broker and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from streams.engine.engine import Engine


class PartitionStatus(NamedTuple):
    """One topic partition. `topic`: its full name; `lag`: records before its log's end that are not committed, None: unknown."""

    topic: str
    partition: int
    committable: int
    next: int
    in_flight: int
    lag: int | None
    blocking: Callable[[], dict[str, Any] | None]
    """What holds back the commit; see `PartitionProcessor.blocking`."""
    oldest_ms: int | None = None
    """Age of the oldest unfinished record a few seconds ago; 0: all are finished. None: unknown."""
    expired: int | None = None
    """Records removed before they were processed, since this worker started; None: not counted here."""


def partition_statuses(engine: Engine[Any] | None) -> Iterator[PartitionStatus]:
    """The statuses of the partitions open now; the engine may continue between two of them."""
    if engine is None:
        return
    for processor in list(engine.processors.values()):
        for source, ledger in processor.ledgers.items():
            tp, head = processor.partitions[source], ledger.head
            _, fetched = known(engine.consumer, tp)
            ends = [end for end in (fetched, engine.ends.get(tp)) if end is not None]
            lag = max(0, max(ends) - head) if ends else None
            yield PartitionStatus(
                tp.topic,
                tp.partition,
                head,
                ledger.next,
                ledger.in_flight,
                lag,
                partial(processor.blocking, source),
                engine.ages.age_ms(tp, engine.wall_ms()),
                engine.expired.count(tp),
            )


def known(consumer: AIOKafkaConsumer, tp: TopicPartition) -> tuple[int | None, int | None]:
    """Our position, and the end of the readable log at the last fetch; None: unknown.

    The end is before the first open transaction, if the consumer reads only committed records.
    """
    subscription = consumer._subscription.subscription
    assignment = None if subscription is None else subscription.assignment
    if assignment is None or tp not in assignment.tps:
        return None, None
    state = assignment.state_value(tp)
    position = state.position if state.has_valid_position else None
    # Brokers of old tell no last stable offset.
    return position, state.highwater if state.lso is None or state.lso < 0 else state.lso
