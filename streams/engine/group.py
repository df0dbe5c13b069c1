"""The group's consumer: made, inspected, and closed even if it is broken.

In: the engine's configuration. Out: an `AIOKafkaConsumer` that is connected and not subscribed; what the group
committed. It inspects aiokafka's own tasks, since nothing else shows that one of them has died; it never polls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeGuard

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from schemas.topics import full_name
from streams.engine.commit import CLOSE_TIMEOUT_S, drop
from streams.engine.config import EngineConfig
from streams.engine.faults import is_transient
from streams.engine.feed import POLL_MS
from streams.engine.group_offsets import committed_offsets
from streams.engine.log_identity import Identity, epoch_ends, identities, log_ends
from streams.engine.partition_processor import Head, PartitionProcessor
from streams.rules.engine.start_offsets import NOT_COMMITTED, KeptOffset, LogNow, start_offset

log = structlog.get_logger(__name__)

FETCH_BYTES = 512 * 1024
METADATA_MAX_AGE_MS = 30_000
"""How soon added partitions are seen."""
JOIN_PAUSE_S = 1.0
MAX_JOIN_PAUSE_S = 5.0
JOIN_TRIES = 30
"""Refusals in a row; unreachable brokers do not count."""
NOBODY_KNOWS = Identity("", -1)


Connect = Callable[[EngineConfig], Awaitable[AIOKafkaConsumer]]
"""Makes and starts a consumer of the group. Raises `KafkaError`, `OSError`."""


async def connected(config: EngineConfig) -> AIOKafkaConsumer:
    """A started consumer of the group. Raises `KafkaError`, `OSError`; then nothing is left open."""
    session_ms = int(config.session_timeout_s * 1000)
    consumer = AIOKafkaConsumer(
        **config.options,
        group_id=config.group,
        group_instance_id=config.instance_id,
        partition_assignment_strategy=(config.assignor,),
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=session_ms,
        heartbeat_interval_ms=max(session_ms // 5, 200),
        # A revoke may take two drains and a stop, after up to one heartbeat.
        rebalance_timeout_ms=session_ms + int((2 * config.drain_timeout_s + CLOSE_TIMEOUT_S) * 1000),
        metadata_max_age_ms=METADATA_MAX_AGE_MS,
        max_poll_interval_ms=24 * 3600 * 1000,
        max_partition_fetch_bytes=FETCH_BYTES,
        fetch_max_wait_ms=POLL_MS,
        retry_backoff_ms=100,
    )
    try:
        await consumer.start()
    except BaseException:
        await close(consumer, CLOSE_TIMEOUT_S)
        raise
    return consumer


async def connected_again(
    config: EngineConfig, given_up: Callable[[], bool], connect: Connect = connected
) -> AIOKafkaConsumer | None:
    """As `connected`, waiting for unreachable brokers; None once `given_up()`. Raises `KafkaError` if refused for
    long.
    """
    pause_s, refused = JOIN_PAUSE_S, 0
    while not given_up():
        try:
            return await connect(config)
        except (KafkaError, OSError) as error:
            log.warning("the group cannot be joined again yet", error=repr(error))
            refused += not is_transient(error)
            if refused >= JOIN_TRIES:
                raise
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, MAX_JOIN_PAUSE_S)
    return None


async def find_start_offsets(
    config: EngineConfig,
    consumer: AIOKafkaConsumer,
    processor: PartitionProcessor,
    remembered: Callable[[], Awaitable[list[bytes]]],
    known: Mapping[str, KeptOffset],
) -> tuple[dict[str, Head], list[bytes]]:
    """Where each topic of a partition begins, and the state that earlier owners left. Raises `KafkaError`,
    `TimeoutError`.

    `known`: what this worker knew of the logs when it lost its position in them.

    The ends are read before the state: the cause of a record below an end is in the state by then, since both were
    committed together. (Without transactions, an owner that could not be fenced may still be between the two; what it
    began is then begun again.) `config.from_end` decides by the state which topics need not be read from their
    beginning.
    """
    tps = processor.partitions
    committed = await committed_offsets(consumer, list(tps.values()))
    begins = await consumer.beginning_offsets(list(tps.values()))
    ends = await log_ends(consumer, list(tps.values()))
    names = [tp.topic for tp in tps.values()] if config.exact_ends else []
    logs = await identities(consumer, names)
    state = await remembered()
    kept = {} if processor.kept is None else processor.kept.read(state)
    if processor.kept is not None and not kept and any(_is_committed(committed.get(tp)) for tp in tps.values()):
        # Each commit wrote a row there in the same transaction.
        log.error("the state of a partition is gone from its topic: what earlier owners remembered is lost",
                  topic=full_name(config.state or "", config.prefix), partition=processor.number)  # fmt: skip
    last_seen = {source: _last_seen(kept.get(source), known.get(source), logs.get(tp)) for source, tp in tps.items()}
    asked = {tps[source]: seen.epoch for source, seen in last_seen.items() if seen is not None}
    cuts = await epoch_ends(consumer, asked) if names else {}
    heads: dict[str, Head] = {}
    for source, tp in tps.items():
        seen, offset = last_seen[source], committed.get(tp)
        given = (offset.offset, offset.metadata or "") if _is_committed(offset) else NOT_COMMITTED
        topic_id, epoch = logs.get(tp, NOBODY_KNOWS)
        mine = kept.get(source)
        if mine is not None and seen is not None:
            mine = mine._replace(epoch=seen.epoch, checked=seen.checked)
        now = LogNow(begins[tp], ends[tp], topic_id, epoch, cuts.get(tp))
        start = start_offset(tp.topic, tp.partition, given, mine, now, config.exact_ends)
        if start.why is not None:
            log.warning("a partition starts at another offset than the committed one", topic=tp.topic, partition=tp.partition,
                        committed=given[0], start=start.offset, end=ends[tp], reason=start.why)  # fmt: skip
        identity = KeptOffset(start.offset, "", topic_id, epoch, min(start.offset, ends[tp]))
        fresh_end = ends[tp] if start.fresh else None
        begin = begins[tp] if config.exact_ends else 0
        heads[source] = Head(start.offset, start.map, start.committed, fresh_end, identity, ends[tp], begin)
    unsettled = any(head.end is not None or head.offset < head.begin for head in heads.values())
    # What lies on an added partition may be for state that is another partition's by now: the handler forwards it.
    if config.from_end is not None and unsettled and not processor.is_added:
        for source in config.from_end(state):
            head = heads[source]
            if head.end is not None:
                heads[source] = head._replace(offset=head.end)
            elif head.offset < head.begin:  # records that are not missed did not expire
                heads[source] = head._replace(offset=head.begin, map="", committed=False)
    return heads, state


def _is_committed(offset: OffsetAndMetadata | None) -> TypeGuard[OffsetAndMetadata]:
    return offset is not None and offset.offset >= 0


def _last_seen(kept: KeptOffset | None, known: KeptOffset | None, now: Identity | None) -> KeptOffset | None:
    """The newer of the kept state and what this worker knew, for the present topic."""
    if now is None:
        return None
    found = [one for one in (kept, known) if one is not None and one.topic_id == now.topic_id and one.epoch >= 0]
    return max(found, key=lambda one: (one.epoch, one.checked), default=None)


def dead_task(consumer: AIOKafkaConsumer) -> tuple[str, BaseException | None] | None:
    """Which of aiokafka's own tasks has ended, and why; None while all run. A dead one may raise nothing."""
    for name, task in _tasks(consumer):
        if name == "pending" or not task.done():
            continue
        error = None if task.cancelled() else task.exception()
        # The others may end by themselves; if they failed, nothing restarts them.
        if error is not None or name in ("fetch", "coordination", "metadata"):
            return name, error
    return None


async def partition_numbers(consumer: AIOKafkaConsumer, topic: str) -> set[int]:
    """The partitions of a topic, fetched if the consumer does not know it yet; empty if there is no such topic."""
    numbers = consumer.partitions_for_topic(topic)
    if not numbers:
        await consumer._client.add_topic(topic)
        numbers = consumer.partitions_for_topic(topic)
    return set(numbers or ())


async def close(consumer: AIOKafkaConsumer, timeout_s: float) -> None:
    """Leave the group and release everything within bounded time, in any state."""
    try:
        async with asyncio.timeout(timeout_s):
            await consumer.stop()
    except (
        Exception,
        asyncio.CancelledError,
    ) as error:  # it is broken: its tasks' errors and cancellations are raised here
        current = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and current is not None and current.cancelling():
            raise
        log.debug("the consumer did not stop cleanly", error=repr(error))
        left = [task for _, task in _tasks(consumer) if not task.done()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=CLOSE_TIMEOUT_S)
        await drop(consumer._client)


def _tasks(consumer: AIOKafkaConsumer) -> list[tuple[str, asyncio.Task[object]]]:
    coordinator, fetcher = consumer._coordinator, consumer._fetcher
    found = [
        (name, getattr(coordinator, f"_{name}_task", None)) for name in ("coordination", "heartbeat", "commit_refresh")
    ]
    found.append(("fetch", getattr(fetcher, "_fetch_task", None)))
    # Without it, a partition whose leader moved is requested from the old leader forever.
    found.append(("metadata", getattr(getattr(consumer, "_client", None), "_sync_task", None)))
    found += [("pending", task) for task in getattr(fetcher, "_pending_tasks", ())]
    return [(name, task) for name, task in found if task is not None]
