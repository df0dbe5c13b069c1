"""The request that makes a member's offsets part of a transaction (TxnOffsetCommit v3, KIP-447, Kafka 2.5).

aiokafka's own version of it names no member, so a coordinator accepts it from anyone. In: offsets, a member. Out: a
request for aiokafka's client; an error if the member is no longer one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from aiokafka.errors import IllegalGenerationError, KafkaError, RebalanceInProgressError, UnknownMemberIdError
from aiokafka.protocol.types import Int16, Int32, Int64
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from streams.engine.membership import FENCED_INSTANCE_ID, Membership
from streams.newer_requests import COMPACT_TEXT, TAGS, NewerRequest, compact_rows

NO_LEADER_EPOCH = -1
_STRANGER_CODES = (
    IllegalGenerationError.errno,
    UnknownMemberIdError.errno,
    RebalanceInProgressError.errno,
    FENCED_INSTANCE_ID,
)


class NotAMember(KafkaError):  # type: ignore[misc]  # aiokafka ships no types
    """The group's coordinator refused offsets: their generation is over. None of them takes effect."""


class MemberOffsets(
    NewerRequest,
    key=28,
    version=3,
    asked=[
        ("transactional_id", COMPACT_TEXT),
        ("group_id", COMPACT_TEXT),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("generation", Int32),
        ("member_id", COMPACT_TEXT),
        ("instance_id", COMPACT_TEXT),
        compact_rows(
            "topics",
            ("topic", COMPACT_TEXT),
            compact_rows(
                "partitions",
                ("partition", Int32),
                ("offset", Int64),
                ("leader_epoch", Int32),
                ("metadata", COMPACT_TEXT),
            ),
        ),
        TAGS,
    ],
    answered=[
        ("throttle_time_ms", Int32),
        compact_rows(
            "errors", ("topic", COMPACT_TEXT), compact_rows("partitions", ("partition", Int32), ("error_code", Int16))
        ),
        TAGS,
    ],
):
    """`manager`: aiokafka's transaction manager."""

    def __init__(
        self, *, manager: Any, group: str, member: Membership, offsets: Mapping[TopicPartition, OffsetAndMetadata]
    ) -> None:
        self._producer = (manager.transactional_id, group, manager.producer_id, manager.producer_epoch)
        self._member = member
        self._offsets = offsets

    def build(self, struct: Any) -> Any:
        rows: dict[str, list[tuple[int, int, int, str, dict[int, bytes]]]] = defaultdict(list)
        for tp, place in sorted(self._offsets.items()):
            rows[tp.topic].append((tp.partition, place.offset, NO_LEADER_EPOCH, place.metadata, {}))
        return struct(*self._producer, *self._member, [(topic, of, {}) for topic, of in rows.items()], {})


def refused(answer: Any) -> dict[str, list[tuple[int, int]]]:
    """Topic to partitions and their error codes. Raises `NotAMember`."""
    found = {topic: [(partition, code) for partition, code, _ in rows] for topic, rows, _ in answer.errors}
    codes = {code for rows in found.values() for _, code in rows}
    if strange := codes.intersection(_STRANGER_CODES):
        raise NotAMember(f"the group's coordinator refuses offsets of a generation that is over (code {min(strange)})")
    return found
