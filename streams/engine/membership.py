"""The member identity with which a worker commits offsets: the group's coordinator refuses those of a former member
(KIP-447).

In: a consumer of the group. Out: its generation and member id at that moment. They are kept with the partition that was
opened then: the next assignment has others, so nothing of the last one can be committed after it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import UnknownMemberIdError

FENCED_INSTANCE_ID = 82
"""Protocol error code for a static member that another one replaced; aiokafka has no name for it."""


class Membership(NamedTuple):
    """One member in one generation of its group. `instance_id`: of a static member."""

    generation: int
    member_id: str
    instance_id: str | None = None


def membership(consumer: AIOKafkaConsumer) -> Membership:
    """This consumer's membership now. Raises `UnknownMemberIdError` if it is no member.

    A coordinator accepts offsets without a member id from anyone, so they must never be sent.
    """
    coordinator: Any = consumer._coordinator
    found = Membership(coordinator.generation, coordinator.member_id, coordinator._group_instance_id)
    if found.generation < 0 or not found.member_id:
        raise UnknownMemberIdError
    return found
