"""Asks the brokers for groups of workers that conflict with this one.

In: settings. Out: sentences. With authenticated users only the own group is asked about: a worker has no right to list
groups, and rights keep installations apart. It joins nothing and changes nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from aiokafka.errors import KafkaError

from schemas.access import WORKER, role_group
from streams.broker.kafka import client_options, start
from streams.rules.broker.neighbours import in_the_way, is_worker_group
from streams.settings import Settings

log = structlog.get_logger(__name__)

ASK_TIMEOUT_S = 10.0
FIRST_LOOK_S = 5.0
LOOK_S = 120.0


async def neighbours(settings: Settings) -> list[str]:
    """Conflicts with this worker; empty if there are none or they cannot be found out.

    Raises `KafkaError`, `TimeoutError`, `OSError`.
    """
    admin = AIOKafkaAdminClient(**client_options(settings))
    try:
        async with asyncio.timeout(ASK_TIMEOUT_S):
            await start(admin)
            names = {
                role_group(settings.app_id, role, settings.topic_prefix) for role in WORKER if role in settings.roles
            }
            if settings.kafka.security_protocol == "PLAINTEXT":
                names |= {row[0] for row in await admin.list_consumer_groups() if is_worker_group(row[0])}
            # One at a time: of several groups in one answer aiokafka can read the first alone.
            answers = [answer for name in sorted(names) for answer in await admin.describe_consumer_groups([name])]
    finally:
        await admin.close()
    groups = {group["group"]: _read(group["members"]) for answer in answers for group in answer.to_object()["groups"]}
    return in_the_way(settings.app_id, settings.topic_prefix, settings.roles, groups)


def _read(members: list[dict[str, Any]]) -> list[list[str]]:
    """The topics each member subscribed to; members with another group protocol are left out."""
    found = []
    for member in members:
        try:
            found.append(list(ConsumerProtocolMemberMetadata.decode(member["member_metadata"]).subscription))
        except (ValueError, TypeError, KeyError):
            continue
    return found


async def watch(settings: Settings) -> None:
    """Log each conflict once, while the worker runs: another installation may start later."""
    reported: set[str] = set()
    await asyncio.sleep(FIRST_LOOK_S)
    while True:
        try:
            found = await neighbours(settings)
        except (KafkaError, TimeoutError, OSError, NotImplementedError) as error:
            log.debug("cannot look up other workers", error=repr(error))
            found = []
        for sentence in found:
            if sentence not in reported:
                log.error("another installation conflicts with this one", reason=sentence)
        reported = set(found)
        await asyncio.sleep(LOOK_S)
