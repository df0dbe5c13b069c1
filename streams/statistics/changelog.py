"""The changelog topic of statistics: created with as many partitions as `data-points`, checked if it exists.

In: settings. Out: the partition count of both topics, and the ends of its partitions. Raises `ChangelogError` if the
counts differ or the source is missing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient

from schemas.topics import full_name
from streams.broker.kafka import start
from streams.broker.topic_bounds import Fitting, NewShape, new_topic
from streams.broker.topics_admin import TopicsError
from streams.settings import Settings
from streams.statistics.table import CHANGELOG

log = logging.getLogger(__name__)

CONFIG = {
    "cleanup.policy": "compact",
    "min.cleanable.dirty.ratio": "0.1",
    "segment.bytes": "33554432",  # the newest segment is never compacted, and is read whole at every start
    "segment.ms": "3600000",
    "delete.retention.ms": "3600000",
    # If a frozen worker wrote over a newer row, the next recovery repairs it, unless the newer one was compacted before.
    "min.compaction.lag.ms": "3600000",
    "max.message.bytes": "4194304",
}
VISIBLE_TIMEOUT_S = 30.0


class ChangelogError(TopicsError):
    """The topics do not fit statistics; the message is one line and names the remedy."""


async def ensure(settings: Settings, options: dict[str, Any]) -> int:
    """Create the changelog if it is missing; returns the partition count. Safe when several workers start at once."""
    source, changelog = (full_name(name, settings.topic_prefix) for name in ("data-points", CHANGELOG))
    admin = AIOKafkaAdminClient(**options)
    await start(admin)
    try:
        found = await _metadata(admin)
        if source not in found:
            raise ChangelogError(f"missing topic: {source}; create it with: parallax topics apply")
        wanted = len(found[source])
        if changelog not in found:
            await _create(admin, changelog, wanted, min(len(part["replicas"]) for part in found[source]))
        deadline = time.monotonic() + VISIBLE_TIMEOUT_S
        while changelog not in found or any(part["leader"] < 0 for part in found[changelog]):
            if time.monotonic() > deadline:
                raise ChangelogError(f"{changelog} was created but has no leader after {VISIBLE_TIMEOUT_S:g} s")
            await asyncio.sleep(0.1)
            found = await _metadata(admin)
    finally:
        await admin.close()
    if len(found[changelog]) != wanted:
        raise ChangelogError(
            f"{changelog} has {len(found[changelog])} partitions but {source} has {wanted}: statistics of a partition live in "
            f"the partition of that number; delete {changelog} and the group's offsets to count again from {source}"
        )
    return wanted


async def ends(options: dict[str, Any], partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
    """The offset after each partition's last record, found by fetching.

    The embedded broker reports as end the offset after the *first* record of the last batch, so a recovery that relies
    on it stops early; the high watermark in its fetch responses is right. Raises TimeoutError.
    """
    wanted = list(partitions)
    if not wanted:
        return {}
    consumer = AIOKafkaConsumer(**options, fetch_max_wait_ms=50)
    await start(consumer)
    try:
        consumer.assign(wanted)
        await consumer.seek_to_end(*wanted)
        async with asyncio.timeout(VISIBLE_TIMEOUT_S):
            while any(consumer.highwater(tp) is None for tp in wanted):
                await consumer.getmany(timeout_ms=50)
        return {tp: consumer.highwater(tp) for tp in wanted}
    finally:
        await consumer.stop()


async def _metadata(admin: AIOKafkaAdminClient) -> dict[str, list[dict[str, Any]]]:
    # All topics: asking for one by name makes some brokers create it.
    described = await admin.describe_topics()
    return {topic["topic"]: topic["partitions"] for topic in described if topic["error_code"] == 0}


async def _create(admin: AIOKafkaAdminClient, name: str, partitions: int, replication: int) -> None:
    shape = NewShape(name, partitions, dict(CONFIG))
    factor = max(replication, 1)
    if refusals := await Fitting(admin, factor).fit([shape]):
        raise ChangelogError(f"cannot create {name}: {refusals[0].message}")
    for setting, (want, used) in shape.adapted.items():
        log.warning("%s: the cluster does not take %s=%s; adapted to %s", name, setting, want, used or "its default")
    answer = await admin.create_topics([new_topic(name, partitions, shape.config, factor)])
    for row in answer.topic_errors:
        error = kafka_errors.for_code(row[1])
        if row[1] != 0 and error is not kafka_errors.TopicAlreadyExistsError:
            raise ChangelogError(f"cannot create {name}: {row[2] or error.description}")
