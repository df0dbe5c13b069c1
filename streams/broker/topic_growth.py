"""Adds partitions to the topics that must have equally many, and checks whether the workers have opened them.

In: settings and a number. Out: what was done, topic by topic; for each group, how many partition numbers it has opened.
It may be interrupted at any point and run again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import GroupAuthorizationFailedError

from schemas.access import Who, role_group
from schemas.topics import ALIGNED, INTAKE, PLAN_INTAKE, SCHEDULE_INTAKE, full_name
from streams.broker.topics_admin import (
    MissingTopics,
    TopicsError,
    add_partitions,
    admin_client,
    partitions_now,
    wait_visible,
)
from streams.rules.broker.growth import GrowthRefused, planned_growth
from streams.rules.broker.topic_plan import TopicChange
from streams.rules.engine.assignment_table import count_of, decode_table
from streams.settings import Settings

LOOK_S = 1.0
GROUPS: dict[Who, tuple[str, ...]] = {"dispatch": INTAKE, "plans": PLAN_INTAKE, "schedules": SCHEDULE_INTAKE}


@dataclass(frozen=True, slots=True)
class GroupState:
    """The state of one role's group. `opened`: partition numbers that it has opened so far.

    `counts`: whether its leader sends partition counts, as older versions do not; None during a rebalance, or without
    members.
    """

    role: str
    members: int
    opened: int
    counts: bool | None = None


async def grow(settings: Settings, partitions: int) -> list[TopicChange]:
    """Add partitions to these topics up to the number, one topic after the other.

    Raises `TopicsError` (also for an unsuitable number, or while workers of an older version run), `MissingTopics`,
    `BrokerUnreachable`, `SettingsError`.
    """
    names = {full_name(name, settings.topic_prefix): name for name in ALIGNED}
    async with admin_client(settings) as admin:
        existing = {name: len(parts) for name, parts in (await partitions_now(admin)).items()}
        if missing := [name for name in names if name not in existing]:
            raise MissingTopics(f"missing topics: {', '.join(missing)}; create them with: parallax topics apply")
        counts = {short: existing[name] for name, short in names.items()}
        try:
            growing = planned_growth(counts, partitions)
        except GrowthRefused as refused:
            raise TopicsError(str(refused)) from None
        if growing:
            with suppress(GroupAuthorizationFailedError):
                _check_versions([state async for state in _groups(admin, settings)])
        for short in growing:
            change = TopicChange(full_name(short, settings.topic_prefix), "grown", partitions, counts[short])
            await add_partitions(admin, [change])
            await wait_visible(admin, [change])
    return [
        TopicChange(name, "grown" if counts[short] < partitions else "unchanged", partitions, counts[short])
        for name, short in names.items()
    ]


def _check_versions(groups: list[GroupState]) -> None:
    for group in groups:
        if group.counts is False:
            raise TopicsError(
                f"the workers with the role {group.role} are of an older version, which forgets ids, limits and circuits when "
                "partitions are added; update all workers first"
            )


async def taken_up(settings: Settings, partitions: int, timeout_s: float) -> list[GroupState]:
    """Wait until every group with members has opened so many partition numbers, or the time is over. Returns the state
    of each.

    Raises `GroupAuthorizationFailedError`, `TopicsError`, `BrokerUnreachable`.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout_s
    async with admin_client(settings) as admin:
        while True:
            groups = [state async for state in _groups(admin, settings)]
            if all(group.opened >= partitions for group in groups if group.members) or loop.time() >= until:
                return groups
            await asyncio.sleep(min(LOOK_S, max(0.0, until - loop.time())))


async def _groups(admin: AIOKafkaAdminClient, settings: Settings) -> AsyncIterator[GroupState]:
    for role, sources in GROUPS.items():
        name = role_group(settings.app_id, role, settings.topic_prefix)
        # One at a time: of several groups in one answer aiokafka can read the first alone.
        [answer] = await admin.describe_consumer_groups([name])
        [group] = answer.to_object()["groups"]
        if group["error_code"] == GroupAuthorizationFailedError.errno:
            raise GroupAuthorizationFailedError(name)
        offsets = await admin.list_consumer_group_offsets(name)
        topics = {full_name(source, settings.topic_prefix) for source in sources}
        begun = [tp.partition for tp, place in offsets.items() if tp.topic in topics and place.offset >= 0]
        opened = sum(begun.count(number) == len(topics) for number in set(begun))
        reported = list(_has_counts(group["members"])) if group["state"] == "Stable" else []
        yield GroupState(role, len(group["members"]), opened, any(reported) if reported else None)


def _has_counts(members: list[dict[str, bytes]]) -> Iterator[bool]:
    """For each member with an assignment, whether it received partition counts."""
    for member in members:
        with suppress(ValueError, TypeError, KeyError):
            dealt = ConsumerProtocolMemberAssignment.decode(member["member_assignment"])
            yield count_of(decode_table(dealt.user_data)) is not None
