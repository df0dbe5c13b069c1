"""A group's committed offsets, after its transactions under way have ended.

In: a consumer of the group. Out: offset and metadata of each topic partition. After a transaction ended, its offsets
reach the group a moment later; aiokafka's own request returns the old ones until then, so ours is written here
(KIP-447, Kafka 2.5).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.client import ConnectionGroup
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    IncompatibleBrokerVersion,
    KafkaError,
    NoError,
    NotCoordinatorForGroupError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.types import Boolean, CompactArray, Int16, Int32, Int64
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from streams.newer_requests import COMPACT_TEXT, TAGS, NewerRequest, compact_rows

UNSTABLE = 88
"""Protocol error code for an offset of a transaction that has not ended; aiokafka has no name for it."""
WAIT_S = 10.0
PAUSE_S = 0.1


class OffsetsPending(KafkaError):  # type: ignore[misc]  # aiokafka ships no types
    """A transaction that commits offsets of the group has not ended."""

    retriable = True


class _StableOffsetsRequest(
    NewerRequest,
    key=9,
    version=7,
    asked=[
        ("group", COMPACT_TEXT),
        compact_rows("topics", ("name", COMPACT_TEXT), ("partitions", CompactArray(Int32))),
        ("require_stable", Boolean),
        TAGS,
    ],
    answered=[
        ("throttle_time_ms", Int32),
        compact_rows(
            "topics",
            ("name", COMPACT_TEXT),
            compact_rows(
                "partitions",
                ("partition", Int32),
                ("offset", Int64),
                ("leader_epoch", Int32),
                ("metadata", COMPACT_TEXT),
                ("error_code", Int16),
            ),
        ),
        ("error_code", Int16),
        TAGS,
    ],
):
    def __init__(self, group: str, tps: Sequence[TopicPartition]) -> None:
        self.group = group
        self.partitions: dict[str, list[int]] = defaultdict(list)
        for tp in tps:
            self.partitions[tp.topic].append(tp.partition)

    def build(self, struct: Any) -> Any:
        return struct(self.group, [(topic, numbers, {}) for topic, numbers in self.partitions.items()], True, {})


async def committed_offsets(
    consumer: AIOKafkaConsumer, tps: Sequence[TopicPartition]
) -> dict[TopicPartition, OffsetAndMetadata]:
    """The committed offsets of the partitions that have any. Raises `KafkaError`."""
    coordinator: Any = consumer._coordinator
    client: Any = getattr(consumer, "_client", None)
    time = asyncio.get_running_loop().time
    until = time() + WAIT_S
    while client is not None:
        try:
            await coordinator.ensure_coordinator_known()
            request = _StableOffsetsRequest(coordinator.group_id, tps)
            answer = await client.send(coordinator.coordinator_id, request, group=ConnectionGroup.COORDINATION)
            return _offsets(answer, coordinator.group_id)
        except (IncompatibleBrokerVersion, NotImplementedError):
            break
        except KafkaError as error:
            if isinstance(error, NotCoordinatorForGroupError):
                coordinator.coordinator_dead()
            if not error.retriable or time() > until:
                raise
            await asyncio.sleep(PAUSE_S)
    found: dict[TopicPartition, OffsetAndMetadata] = await coordinator.fetch_committed_offsets(list(tps))
    return found


def _offsets(answer: Any, group: str) -> dict[TopicPartition, OffsetAndMetadata]:
    _check(answer.error_code, group)
    found: dict[TopicPartition, OffsetAndMetadata] = {}
    for topic, rows, _ in answer.topics:
        for number, offset, _, metadata, code, _ in rows:
            if code == UnknownTopicOrPartitionError.errno:
                continue
            _check(code, group)
            if offset >= 0:
                found[TopicPartition(topic, number)] = OffsetAndMetadata(offset, metadata or "")
    return found


def _check(code: int, group: str) -> None:
    if code == NoError.errno:
        return
    if code == UNSTABLE:
        raise OffsetsPending(f"a transaction that commits offsets of group {group} is not over")
    error = for_code(code)
    raise error(group) if error is GroupAuthorizationFailedError else error()
