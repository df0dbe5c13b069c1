"""Deals out partitions so that equal numbers of all topics go to one member, also while one topic has more than the others.

In: the cluster's topics and what each member subscribed to. Out: an assignment as of the range assignor, over the numbers that
all topics of a subscription have. A number that only some of them have is nobody's until the others have it too: its partition
would lack a part of its input, and of equal numbers at two members each would take itself for the owner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

log = structlog.get_logger(__name__)


class PartitionCounts:
    """Whether topics (on the broker) that belong together have equally many partitions; says so once when they do not."""

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = topics
        self._told: dict[str, int] = {}

    def look(self, consumer: AIOKafkaConsumer) -> bool:
        """Whether they are equal, as far as the consumer knows."""
        ask = getattr(consumer, "partitions_for_topic", None)  # a simulated one need not know
        known = {topic: len((ask and ask(topic)) or ()) for topic in self._topics}
        counts = {topic: count for topic, count in known.items() if count}
        equal = len(set(counts.values())) < 2
        if not equal and counts != self._told:
            log.error("topics that belong together have different numbers of partitions; the partitions that not all of them "
                      "have are not read; give all as many with: parallax topics apply --partitions N",
                      partitions=counts, read=min(counts.values()))  # fmt: skip
        self._told = {} if equal else counts
        return equal


class AlignedAssignor(RangePartitionAssignor):  # type: ignore[misc]  # aiokafka ships no types
    """Under the range assignor's name, so that members of older versions take part: the leader decides for all."""

    @classmethod
    def assign(
        cls, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """As leader: everybody's partitions."""
        assigned: dict[str, ConsumerProtocolMemberAssignment] = RangePartitionAssignor.assign(
            _Common(cluster, members), members
        )
        return assigned


class _Common:
    """A cluster whose topics have only the partitions that all topics subscribed to with them have."""

    def __init__(self, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]) -> None:
        self._cluster = cluster
        self._beside: dict[str, set[str]] = {}
        for member in members.values():
            for topic in member.subscription:
                self._beside.setdefault(topic, set()).update(member.subscription)

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        """As aiokafka's; None: not known."""
        known = self._cluster.partitions_for_topic(topic)
        others = (self._cluster.partitions_for_topic(other) for other in self._beside.get(topic, ()))
        return None if known is None else set(known).intersection(*(numbers for numbers in others if numbers))
