"""Identifies a log: its topic's id, its leader's epoch, where it ends, and where an earlier epoch ends in it.

In: a consumer's client. Out: the brokers' answers; nothing from those that have none (before Kafka 3.0, or the embedded
one). aiokafka asks neither for topic ids nor for epochs, so the two requests are written here. It changes nothing.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection, Mapping
from copy import copy
from io import BytesIO
from typing import Any, NamedTuple

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.fetcher import READ_UNCOMMITTED
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError
from aiokafka.protocol.types import AbstractType, Boolean, CompactArray, Int16, Int32, Int64
from aiokafka.structs import TopicPartition

from streams.newer_requests import COMPACT_TEXT, TAGS, TEXT, NewerRequest, compact_rows, rows

log = structlog.get_logger(__name__)

NO_ID = uuid.UUID(int=0)


class Identity(NamedTuple):
    """`topic_id`: hexadecimal. `epoch`: of the partition's leader."""

    topic_id: str
    epoch: int


class _Uuid(AbstractType):  # type: ignore[misc]  # aiokafka ships no types
    @classmethod
    def encode(cls, value: uuid.UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> uuid.UUID:
        return uuid.UUID(bytes=data.read(16))


class _MetadataRequest(
    NewerRequest,
    key=3,
    version=12,
    asked=[
        compact_rows("topics", ("topic_id", _Uuid), ("name", COMPACT_TEXT)),
        ("create", Boolean),
        ("operations", Boolean),
        TAGS,
    ],
    answered=[
        ("throttle_time_ms", Int32),
        compact_rows("brokers", ("node_id", Int32), ("host", COMPACT_TEXT), ("port", Int32), ("rack", COMPACT_TEXT)),
        ("cluster_id", COMPACT_TEXT),
        ("controller_id", Int32),
        compact_rows(
            "topics",
            ("error_code", Int16),
            ("name", COMPACT_TEXT),
            ("topic_id", _Uuid),
            ("is_internal", Boolean),
            compact_rows(
                "partitions",
                ("error_code", Int16),
                ("partition", Int32),
                ("leader", Int32),
                ("leader_epoch", Int32),
                ("replicas", CompactArray(Int32)),
                ("isr", CompactArray(Int32)),
                ("offline", CompactArray(Int32)),
            ),
            ("operations", Int32),
        ),
        TAGS,
    ],
):
    def __init__(self, topics: Collection[str]) -> None:
        self.topics = topics

    def build(self, struct: Any) -> Any:
        return struct([(NO_ID, topic, {}) for topic in self.topics], False, False, {})


class _EpochEndRequest(
    NewerRequest,
    key=23,
    version=2,
    asked=[
        rows(
            "topics",
            ("topic", TEXT),
            rows("partitions", ("partition", Int32), ("current_leader_epoch", Int32), ("leader_epoch", Int32)),
        )
    ],
    answered=[
        ("throttle_time_ms", Int32),
        rows(
            "topics",
            ("topic", TEXT),
            rows(
                "partitions",
                ("error_code", Int16),
                ("partition", Int32),
                ("leader_epoch", Int32),
                ("end_offset", Int64),
            ),
        ),
    ],
):
    def __init__(self, epochs: Mapping[TopicPartition, int]) -> None:
        self.epochs = epochs

    def build(self, struct: Any) -> Any:
        found: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
        for tp, epoch in self.epochs.items():
            found[tp.topic].append((tp.partition, -1, epoch))
        return struct(list(found.items()))


async def identities(consumer: AIOKafkaConsumer, topics: Collection[str]) -> dict[TopicPartition, Identity]:
    """Of every known partition of these topics. Empty if brokers do not report it. Raises `KafkaError`."""
    client = getattr(consumer, "_client", None)
    if client is None or not topics:
        return {}
    try:
        answer = await client.send(client.get_random_node(), _MetadataRequest(topics))
    except (IncompatibleBrokerVersion, NotImplementedError):
        return {}
    found: dict[TopicPartition, Identity] = {}
    for topic_error, name, topic_id, _, partitions, _, _ in answer.topics:
        for error, number, _, epoch, *_ in partitions if not topic_error and topic_id != NO_ID else ():
            if not error:
                found[TopicPartition(name, number)] = Identity(topic_id.hex, epoch)
    return found


async def log_ends(consumer: AIOKafkaConsumer, tps: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
    """Where each log ends, also behind transactions that have not ended in it. Raises `KafkaError`.

    `end_offsets` of a reader of committed records stops before the first of them. A transaction ends in its topics one
    after the other: its offsets may be committed before its records in another topic can be read.
    """
    fetcher: Any = getattr(consumer, "_fetcher", None)
    if fetcher is None:  # not an aiokafka consumer
        return await consumer.end_offsets(list(tps))  # type: ignore[no-any-return]
    asking = copy(fetcher)  # only to ask with: it fetches nothing
    asking._isolation_level = READ_UNCOMMITTED
    return await asking.end_offsets(list(tps), consumer._request_timeout_ms)  # type: ignore[no-any-return]


async def epoch_ends(consumer: AIOKafkaConsumer, epochs: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
    """Where the records up to that leader epoch end in each log. Logs for which no broker answered are left out."""
    client: Any = getattr(consumer, "_client", None)
    by_leader: dict[int, dict[TopicPartition, int]] = defaultdict(dict)
    for tp, epoch in epochs.items() if client is not None else ():
        leader = client.cluster.leader_for_partition(tp)
        if leader is not None and leader >= 0 and epoch >= 0:
            by_leader[leader][tp] = epoch
    found: dict[TopicPartition, int] = {}
    for leader, asked in by_leader.items():
        try:
            answer = await client.send(leader, _EpochEndRequest(asked))
        except (IncompatibleBrokerVersion, NotImplementedError):
            continue
        except KafkaError as error:
            log.debug("the end offset of a leader epoch could not be read", error=repr(error))
            client.force_metadata_update()
            continue
        for topic, ends in answer.topics:
            found |= {TopicPartition(topic, n): end for code, n, _, end in ends if not code and end >= 0}
    return found
