"""Ends transactions that other producers of a group left open.

In: the group's consumer, partitions of a state topic. Out: transactions of other producers of the group in these
partitions are aborted. A worker that was killed leaves its transaction open until its timeout (a minute); until then
the offsets and state of its partitions are unreadable, and so is what comes after its records in other topics. The next
owner of a partition finds the transaction by the partition (KIP-664, Kafka 3.0) and restarts its transactional id,
which aborts it. Its holder is no longer a member, or has given the partition up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.errors import ConcurrentTransactions, IncompatibleBrokerVersion, KafkaError, NoError, for_code
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.protocol.types import CompactArray, Int16, Int32, Int64
from aiokafka.structs import TopicPartition

from streams.newer_requests import COMPACT_TEXT, TAGS, NewerRequest, compact_rows

log = structlog.get_logger(__name__)

ONGOING = "Ongoing"
"""The protocol's state of a transaction whose end was not requested yet."""
TRANSACTION_TIMEOUT_MS = 60_000
BROKER_TIMEOUT_S = 3.0
"""For one broker; the others are asked at the same time."""


class _ListTransactions(
    NewerRequest,
    key=66,
    version=0,
    asked=[("state_filters", CompactArray(COMPACT_TEXT)), ("producer_id_filters", CompactArray(Int64)), TAGS],
    answered=[
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("unknown_state_filters", CompactArray(COMPACT_TEXT)),
        compact_rows(
            "transactions", ("transactional_id", COMPACT_TEXT), ("producer_id", Int64), ("state", COMPACT_TEXT)
        ),
        TAGS,
    ],
):
    def build(self, struct: Any) -> Any:
        return struct([ONGOING], [], {})


class _DescribeTransactions(
    NewerRequest,
    key=65,
    version=0,
    asked=[("transactional_ids", CompactArray(COMPACT_TEXT)), TAGS],
    answered=[
        ("throttle_time_ms", Int32),
        compact_rows(
            "transactions",
            ("error_code", Int16),
            ("transactional_id", COMPACT_TEXT),
            ("state", COMPACT_TEXT),
            ("timeout_ms", Int32),
            ("start_time_ms", Int64),
            ("producer_id", Int64),
            ("producer_epoch", Int16),
            compact_rows("topics", ("topic", COMPACT_TEXT), ("partitions", CompactArray(Int32))),
        ),
        TAGS,
    ],
):
    def __init__(self, ids: Sequence[str]) -> None:
        self.ids = list(ids)

    def build(self, struct: Any) -> Any:
        return struct(self.ids, {})


async def end_left_open(
    consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition], group: str, own: str
) -> bool:
    """Abort the transactions that producers of `group`, other than `own`, hold open in these partitions.

    Their transactional ids begin with the group's name and a dash. A broker without these requests leaves them to time
    out. False: a broker did not answer, and may coordinate some.
    """
    client: AIOKafkaClient = consumer._client
    nodes = [broker.nodeId for broker in client.cluster.brokers()]
    asked = [_end_at(client, node_id, partitions, f"{group}-", own) for node_id in nodes]
    outcomes = dict(zip(nodes, await asyncio.gather(*asked, return_exceptions=True), strict=True))
    failed = {node_id: outcome for node_id, outcome in outcomes.items() if isinstance(outcome, Exception)}
    for node_id, outcome in failed.items():  # the others were asked
        log.debug("a broker does not report which transactions are open", node=node_id, error=repr(outcome))
    return bool(nodes) and all(isinstance(outcome, IncompatibleBrokerVersion) for outcome in failed.values())


async def _end_at(
    client: AIOKafkaClient, node_id: int, partitions: Collection[TopicPartition], prefix: str, own: str
) -> None:
    """End those that this broker coordinates."""
    async with asyncio.timeout(BROKER_TIMEOUT_S):
        for transactional_id in await _holders(client, node_id, partitions, prefix, own):
            log.info("ending a transaction that an earlier owner left open", transactional_id=transactional_id)
            await _abort(client, node_id, transactional_id)


async def _holders(
    client: AIOKafkaClient, node_id: int, partitions: Collection[TopicPartition], prefix: str, own: str
) -> list[str]:
    """The holders of the transactions that this broker coordinates."""
    listed = await client.send(node_id, _ListTransactions(), group=ConnectionGroup.COORDINATION)
    _check(listed.error_code)
    listed_ids = [transactional_id for transactional_id, _, _, _ in listed.transactions]
    ids = [one for one in listed_ids if one.startswith(prefix) and one != own]
    if not ids:
        return []
    described = await client.send(node_id, _DescribeTransactions(ids), group=ConnectionGroup.COORDINATION)
    return [row[1] for row in described.transactions if row[0] == NoError.errno and _holds(row[2], row[7], partitions)]


def _holds(state: str, topics: Iterable[Any], partitions: Collection[TopicPartition]) -> bool:
    return state == ONGOING and any((topic, number) in partitions for topic, numbers, _ in topics for number in numbers)


async def _abort(client: AIOKafkaClient, node_id: int, transactional_id: str) -> None:
    """Try once: the broker begins to abort it and answers CONCURRENT_TRANSACTIONS, or it ended by itself meanwhile.

    A second try would end the transactional id's next transaction, which may be a legitimate one.
    """
    request = InitProducerIdRequest(transactional_id, TRANSACTION_TIMEOUT_MS)
    code = (await client.send(node_id, request, group=ConnectionGroup.COORDINATION)).error_code
    if code != ConcurrentTransactions.errno:
        _check(code)


def _check(code: int) -> None:
    if code != NoError.errno:
        error: KafkaError = for_code(code)()
        raise error
