"""Assigns partitions such that equal numbers of all topics go to one member, also while one topic has more partitions
than the others.

In: the cluster's topics and each member's subscription. Out: an assignment as of the range assignor, over the numbers
that all topics of a subscription have. A number that only some topics have is not assigned: its partition would lack a
part of its input, and two members with equal numbers would each consider themselves the owner.

The number of partitions decides which partition owns an agent or an id, so all members of a generation must use the
same count: the leader decides it and sends it with every assignment. It changes in a rebalance, for all members at
once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

from streams.rules.engine.assignment_table import Row, count_of, decode_table, decode_user_data, encode_table

log = structlog.get_logger(__name__)

REPORT_S = 300.0
"""How long a member reports a count that has grown. By then every leader's metadata have it, or the topics were
recreated.
"""


class PartitionCounts:
    """Whether topics (on the broker) that belong together have equally many partitions; logs once if not."""

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = topics
        self._reported: dict[str, int] = {}

    def look(self, consumer: AIOKafkaConsumer) -> bool:
        """Whether the counts are equal, as far as the consumer knows."""
        counts = {topic: count for topic, count in self._counts(consumer).items() if count}
        equal = len(set(counts.values())) < 2
        if not equal and counts != self._reported:
            log.error("topics that belong together have different numbers of partitions; the partitions that not all of them "
                      "have are not read; give all as many with: parallax topics grow --partitions N",
                      partitions=counts, read=min(counts.values()))  # fmt: skip
        self._reported = {} if equal else counts
        return equal

    def common(self, consumer: AIOKafkaConsumer) -> int:
        """How many partition numbers all topics have; 0 while the consumer does not know one of the topics."""
        return min(self._counts(consumer).values(), default=0)

    def _counts(self, consumer: AIOKafkaConsumer) -> dict[str, int]:
        ask = getattr(consumer, "partitions_for_topic", None)  # a simulated one need not know
        return {topic: len((ask and ask(topic)) or ()) for topic in self._topics}


class AlignedAssignor(RangePartitionAssignor):  # type: ignore[misc]  # aiokafka ships no types
    """The assignor of one member, under the range assignor's name: members of older versions take part, the leader
    decides for all. aiokafka calls it like a class.
    """

    def __init__(self, address: str = "", now: Callable[[], float] | None = None) -> None:
        """`address`: this member's address for the others, if it has one. `now`: loop time, seconds."""
        self.address = address
        self.partitions: int | None = None
        """The number of partition numbers, as of the last assignment; None: the leader did not send it (an older
        version).
        """
        self._now = now or (lambda: asyncio.get_running_loop().time())
        self._reported = 0
        self._reported_at = 0.0

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """The data this member sends when it joins: its address, and the count if that has just grown.

        A leader with old metadata must not return to fewer partitions: what happened in the new ones would be
        forgotten.
        """
        user_data = self.address
        if self._reported and self._now() - self._reported_at < REPORT_S:
            user_data += f"\n{self._reported}"
        return ConsumerProtocolMemberMetadata(self.version, list(topics), user_data.encode())

    def assign(  # aiokafka calls it on whatever object it is given
        self, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """As leader: the partitions of all members, and their count."""
        common = _Common(cluster, members)
        assigned: dict[str, ConsumerProtocolMemberAssignment] = RangePartitionAssignor.assign(common, members)
        rows = self._rows(members, assigned)
        dealt = {}
        for member, one in assigned.items():
            counts = [len(common.partitions_for_topic(topic) or ()) for topic in members[member].subscription]
            table = encode_table(rows, min(counts, default=0))
            dealt[member] = ConsumerProtocolMemberAssignment(one.version, one.assignment, table)
        return dealt

    def _rows(
        self,
        members: Mapping[str, ConsumerProtocolMemberMetadata],
        assigned: Mapping[str, ConsumerProtocolMemberAssignment],
    ) -> list[Row]:
        """Further data for all members."""
        return []

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        """A new generation began: reports of the last one are void."""
        rows = _read_table(assignment.user_data)
        self._learn(rows)
        before, self.partitions = self.partitions, count_of(rows)
        if before is not None and self.partitions is not None and self.partitions > before:
            self.report(self.partitions)

    def _learn(self, rows: list[Row]) -> None:
        """Read the further data that the leader sent with this generation."""

    def report(self, count: int) -> None:
        """All topics have so many partitions now: report it when this member joins next. The coordinator lets a member
        whose data changed start a new generation.
        """
        if count > self._reported:
            self._reported, self._reported_at = count, self._now()


def _read_table(user_data: bytes | None) -> list[Row]:
    """The rows in an assignment's user data; empty if there are none or they are unreadable."""
    try:
        return decode_table(user_data)
    except (ValueError, TypeError) as error:
        log.warning("the group leader's user data cannot be read", error=repr(error))
        return []


class _Common:
    """A view of a cluster in which topics have only the partitions that all topics subscribed to with them have.

    Partitions that a member knows from earlier assignments exist in all topics, whatever this cluster's metadata show.
    """

    def __init__(self, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]) -> None:
        self._cluster = cluster
        self._beside: dict[str, set[str]] = {}
        self._reported: dict[str, int] = {}
        for member in members.values():
            _, count = decode_user_data(member.user_data)
            for topic in member.subscription:
                self._beside.setdefault(topic, set()).update(member.subscription)
                self._reported[topic] = max(self._reported.get(topic, 0), count)

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        """As in aiokafka; None: unknown."""
        known, reported = self._cluster.partitions_for_topic(topic), self._reported.get(topic, 0)
        if known is None and not reported:
            return None
        others = (self._cluster.partitions_for_topic(other) for other in self._beside.get(topic, ()))
        common = set(known or ()).intersection(*(numbers for numbers in others if numbers))
        return common.union(range(reported))
