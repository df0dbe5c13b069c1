"""Which worker owns which partition, and its address, carried by the consumer group's own protocol.

In: each member's address, in the user data of its subscription. Out: the leader's table of all addresses, in the user
data of every assignment, so all members have the same table from one generation to the next. Members without an address
(of an older version, or led by one) are not in it. Partitions are assigned as by the range assignor, which older
versions use.

An address is a hint: a worker that is asked answers whether the partition is its own. `looked_up` asks the group's
coordinator instead, since a static member (`--instance-id`) that returns at another address starts no new generation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import structlog
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

from streams.engine.aligned import AlignedAssignor
from streams.rules.engine.assignment_table import Row, decode_user_data

log = structlog.get_logger(__name__)

MAX_ADDRESS_BYTES = 512


class Addresses(AlignedAssignor):
    """The assignor of one member: it sends `address` when it joins, and keeps the table of each assignment."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self._owners: dict[int, str] = {}

    def owner(self, number: int) -> str | None:
        """The address of this partition number's owner, as of the last assignment; None: unknown."""
        return self._owners.get(number)

    def _rows(
        self,
        members: Mapping[str, ConsumerProtocolMemberMetadata],
        assigned: Mapping[str, ConsumerProtocolMemberAssignment],
    ) -> list[Row]:
        return _table(members, assigned)

    def _learn(self, rows: list[Row]) -> None:
        self._owners = {number: address for address, numbers in rows if address for number in numbers}


async def looked_up(options: dict[str, Any], group: str, timeout_s: float) -> dict[int, str]:
    """Partition numbers and their owners' addresses, as the group's coordinator knows them now; empty during a
    rebalance.

    Raises `KafkaError`, `TimeoutError`. Empty with brokers that do not report it (the embedded one).
    """
    admin = AIOKafkaAdminClient(**options)
    try:
        async with asyncio.timeout(timeout_s):
            await admin.start()
            [answer] = await admin.describe_consumer_groups([group])
            return _described(answer.to_object()["groups"])
    finally:
        await admin.close()


def _described(groups: Iterable[Mapping[str, Any]]) -> dict[int, str]:
    members: dict[str, ConsumerProtocolMemberMetadata] = {}
    assigned: dict[str, ConsumerProtocolMemberAssignment] = {}
    for member in [member for group in groups if group["state"] == "Stable" for member in group["members"]]:
        if member["member_metadata"] and member["member_assignment"]:
            name = member["member_id"]
            members[name] = ConsumerProtocolMemberMetadata.decode(member["member_metadata"])
            assigned[name] = ConsumerProtocolMemberAssignment.decode(member["member_assignment"])
    return {number: address for address, numbers in _table(members, assigned) for number in numbers}


def _table(
    members: Mapping[str, ConsumerProtocolMemberMetadata], assigned: Mapping[str, ConsumerProtocolMemberAssignment]
) -> list[Row]:
    """Address and partition numbers of every member that sent an address."""
    rows = []
    for member, metadata in sorted(members.items()):
        address, _ = decode_user_data(metadata.user_data)
        numbers = sorted({number for _, numbers in assigned[member].assignment for number in numbers})
        try:
            if address and numbers and len(address) <= MAX_ADDRESS_BYTES:
                rows.append((address.decode(), numbers))
        except UnicodeDecodeError:
            log.warning("a member's address cannot be read", member=member)
    return rows
