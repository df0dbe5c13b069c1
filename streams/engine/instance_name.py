"""Whether another member has taken a static member's instance id (KIP-345).

A coordinator that no longer knows a member does not say why: its session ended, the broker lost its data, or another
member joined under its instance id. In the last case it must not join again: that would displace its successor, which
may call agents until it learns of it. In: the group's consumer, whose coordinator has just reported it as unknown. Out:
yes or no.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.client import ConnectionGroup
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    IncompatibleBrokerVersion,
    KafkaError,
    NotCoordinatorForGroupError,
)
from aiokafka.protocol.types import Int16, Int32

from streams.engine.faults import describe_error
from streams.engine.membership import FENCED_INSTANCE_ID
from streams.newer_requests import TEXT, NewerRequest

log = structlog.get_logger(__name__)

TIMEOUT_S = 5.0
TRIES = 10
PAUSE_S = 0.5


_ELSEWHERE = (
    GroupCoordinatorNotAvailableError.errno,
    GroupLoadInProgressError.errno,
    NotCoordinatorForGroupError.errno,
)
"""Another broker coordinates the group now, or this one not yet."""


class _NamedHeartbeat(
    NewerRequest,
    key=12,
    version=3,
    asked=[("group", TEXT), ("generation_id", Int32), ("member_id", TEXT), ("instance_id", TEXT)],
    answered=[("throttle_time_ms", Int32), ("error_code", Int16)],
):
    """As aiokafka's, with the instance id: without it every answer is "unknown member"."""

    def __init__(self, *, group: str, generation: int, member_id: str, instance_id: str) -> None:
        self.fields = group, generation, member_id, instance_id

    def build(self, struct: Any) -> Any:
        return struct(*self.fields)


async def is_taken(consumer: AIOKafkaConsumer) -> bool:
    """Whether another member has this consumer's instance id. False without one, and if no broker answers in time."""
    coordinator: Any = consumer._coordinator
    instance_id, member_id = coordinator._group_instance_id, coordinator.member_id
    if instance_id is None or not member_id:
        return False
    request = _NamedHeartbeat(
        group=coordinator.group_id, generation=coordinator.generation, member_id=member_id, instance_id=instance_id
    )
    for _ in range(TRIES):
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await coordinator.ensure_coordinator_known()
                node_id = coordinator.coordinator_id
                code = (await consumer._client.send(node_id, request, group=ConnectionGroup.COORDINATION)).error_code
        except IncompatibleBrokerVersion:
            return False
        except (KafkaError, OSError, TimeoutError) as error:
            why = describe_error(error)
        else:
            if code not in _ELSEWHERE:
                return bool(code == FENCED_INSTANCE_ID)
            why = f"code {code}"
        coordinator.coordinator_dead()
        await asyncio.sleep(PAUSE_S)
    log.info("cannot tell yet whether another worker has this instance id; joining again", error=why)
    return False
