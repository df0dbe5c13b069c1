"""A topic that every worker reads whole and then follows: no group, no commits, all partitions.

In: a topic and a function. Out: a call for every committed record from the log's beginning, forever. `catch_up` waits
until everything acknowledged before the call was applied. It never writes. Four problems can occur, and none ends it:

1. A record cannot be applied: an error is logged, the next one follows.
2. Reading fails: it is retried, with a new consumer if necessary.
3. The topic is missing: the consumer is closed, since its search for a leader takes half a core, and the brokers are
asked at intervals. A topic that was recreated is read from its beginning; what was known stays known.
4. The log was replaced without the topic being seen missing: its identity is checked every `LOOK_S`.

While 2 or 3 lasts, `problem` is a sentence for people.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord, TopicPartition

from streams.engine.commit import CLOSE_TIMEOUT_S
from streams.engine.faults import describe_error
from streams.engine.group import METADATA_MAX_AGE_MS, NOBODY_KNOWS, close, dead_task
from streams.engine.log_identity import Identity, epoch_ends, identities
from streams.rules.engine.start_offsets import KeptOffset, LogNow, lost_its_end, read_on_from
from streams.schema_registry import SchemaRegistry, SchemaUnavailable, registry

log = structlog.get_logger(__name__)

STALL_TIMEOUT_S = 60.0
"""The first reading gives up after this time without progress, however much there is to read."""
CATCH_UP_TIMEOUT_S = 5.0
FETCH_WAIT_MS = 500
POLL_MS = 1000
POSITION_TIMEOUT_S = 10.0
LOOK_S = 15.0
LOOK_TIMEOUT_S = 10.0
RETRY_S = 1.0
MAX_RETRY_S = 10.0
"""For a missing topic; with a longer pause a worker would use outdated information longer than necessary."""


class FollowedTopicMissing(Exception):
    """The brokers do not have the topic, or do not show it. The message is one line and names the remedy."""


class Follower:
    """Applies every record of `topic` (its name on the broker), in order per partition."""

    def __init__(
        self,
        options: dict[str, Any],
        topic: str,
        apply: Callable[[ConsumerRecord], None],
        *,
        from_end: bool = False,
        make_consumer: Callable[..., AIOKafkaConsumer] = AIOKafkaConsumer,
    ) -> None:
        """`from_end`: begin with records written after the start. `make_consumer` is replaced where the broker is
        simulated.
        """
        self._make_consumer = make_consumer
        self._from_end = from_end
        self._options = options
        self._topic = topic
        self._apply = apply
        self.problem: str | None = None
        """Why the topic cannot be read now, in one line; None while it is read."""
        self._positions: dict[TopicPartition, int] = {}
        self._seen: dict[TopicPartition, KeptOffset] = {}
        self._looked_at = 0.0
        self._moved = asyncio.Event()
        self._consumer: AIOKafkaConsumer | None = None
        self._task: asyncio.Task[None] | None = None
        self._catching_up: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the topic to its present end, then follow it. Raises `FollowedTopicMissing`, `KafkaError`, `TimeoutError`."""
        self._consumer = await self._connected()
        self._task = asyncio.create_task(self._follow(), name=f"follow-{self._topic}")
        ends = await self._consumer.end_offsets(list(self._positions))
        while self._behind(ends):
            before = dict(self._positions)
            try:
                async with asyncio.timeout(STALL_TIMEOUT_S):
                    while self._behind(ends) and self._positions == before:
                        self._moved.clear()
                        await self._moved.wait()
            except TimeoutError:
                why = f": {self.problem}" if self.problem else ""
                raise TimeoutError(f"reading {self._topic} made no progress for {STALL_TIMEOUT_S:g} s{why}") from None

    async def _connected(self) -> AIOKafkaConsumer:
        """A consumer that continues where the last one was, or begins where the first begins."""
        options = {"isolation_level": "read_committed"} | self._options
        consumer = self._make_consumer(
            **options,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=FETCH_WAIT_MS,
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
        )
        try:
            await consumer.start()
            # Asked by name, some brokers would create it, with their own settings.
            cluster = await consumer._client.fetch_all_metadata()
            numbers = cluster.partitions_for_topic(self._topic)
            if not numbers:
                raise FollowedTopicMissing(_missing(self._topic))
            tps = [TopicPartition(self._topic, number) for number in sorted(numbers)]
            consumer.assign(tps)
            begins, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
            logs, cuts = await self._identities(consumer)
        except BaseException:
            await close(consumer, CLOSE_TIMEOUT_S)
            raise
        first = dict(ends if self._from_end else begins)
        self._from_end = False
        before, self._positions = self._positions, first
        for tp in tps:
            topic_id, epoch = logs.get(tp, NOBODY_KNOWS)
            if tp in before:
                now = LogNow(begins[tp], ends[tp], topic_id, epoch, cuts.get(tp))
                self._positions[tp] = read_on_from(self._seen.get(tp, KeptOffset(before[tp])), before[tp], now)
            self._seen[tp] = KeptOffset(self._positions[tp], "", topic_id, epoch, self._positions[tp])
            consumer.seek(tp, self._positions[tp])
        self._looked_at = asyncio.get_running_loop().time()
        return consumer

    async def _identities(
        self, consumer: AIOKafkaConsumer
    ) -> tuple[dict[TopicPartition, Identity], dict[TopicPartition, int]]:
        """The identities of the logs now; and where the last seen leader epoch ends in logs that have a newer one."""
        logs = await identities(consumer, [self._topic])
        epochs = {tp: seen.epoch for tp, seen in self._seen.items() if tp in logs and seen.epoch != logs[tp].epoch}
        return logs, await epoch_ends(consumer, epochs)

    async def _is_another(self, consumer: AIOKafkaConsumer) -> bool:
        """Whether a log is not the one that was read; the brokers are asked every `LOOK_S`. A missing answer is no
        change.
        """
        now = asyncio.get_running_loop().time()
        if now - self._looked_at < LOOK_S:
            return False
        self._looked_at = now
        read = dict(self._positions)  # before anything is asked: the log holds that much, if it is still the same
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                logs, cuts = await self._identities(consumer)
        except (KafkaError, TimeoutError) as error:
            log.debug(
                "brokers do not report whether a log is the one that was read", topic=self._topic, error=repr(error)
            )
            return False
        for tp in read.keys() & logs.keys():
            (topic_id, epoch), seen = logs[tp], self._seen[tp]
            if lost_its_end(seen._replace(checked=read[tp]), topic_id, cuts.get(tp)) is not None:
                return True
            if epoch == seen.epoch or tp in cuts or seen.epoch < 0:
                self._seen[tp] = KeptOffset(read[tp], "", topic_id, epoch, read[tp])
        return False

    async def stop(self) -> None:
        for task in (self._task, self._catching_up):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if self._consumer is not None:
            await close(self._consumer, CLOSE_TIMEOUT_S)

    async def catch_up(self) -> None:
        """Wait (a few seconds at most) until everything acknowledged before this call was applied."""
        running = self._catching_up
        if running is not None and not running.done():
            await asyncio.shield(running)  # it may have begun before the record was written: once more then
        if self._catching_up is None or self._catching_up.done():
            self._catching_up = asyncio.create_task(self._bounded_reach_end())
        await asyncio.shield(self._catching_up)

    async def _bounded_reach_end(self) -> None:
        try:
            async with asyncio.timeout(CATCH_UP_TIMEOUT_S):
                if self._consumer is not None:
                    await self._reach_end(self._consumer)
        except Exception as error:  # after any error, the caller continues with what is known
            log.warning("could not read a topic to its end", topic=self._topic, error=repr(error))

    async def _reach_end(self, consumer: AIOKafkaConsumer) -> None:
        ends = await consumer.end_offsets(list(self._positions))
        while self._behind(ends):
            self._moved.clear()
            await self._moved.wait()

    def _behind(self, ends: dict[TopicPartition, int]) -> bool:
        return any(self._positions.get(tp, 0) < end for tp, end in ends.items())

    async def _follow(self) -> None:
        retry_s = RETRY_S
        while True:
            try:
                await self._poll(await self._living())
            except FollowedTopicMissing as error:
                await self._drop()
                self._positions, self._seen = {}, {}
                self._fail(str(error))
                retry_s = min(retry_s * 2, MAX_RETRY_S)
            except Exception as error:  # after any error, the topic must still be read
                self._fail(f"topic {self._topic} cannot be read: {describe_error(error)}")
                retry_s = RETRY_S
            else:
                if self.problem is not None:
                    log.info("a topic is read again", topic=self._topic)
                self.problem, retry_s = None, RETRY_S
                self._moved.set()
                continue
            self._moved.set()
            await asyncio.sleep(retry_s)

    async def _poll(self, consumer: AIOKafkaConsumer) -> None:
        batches = await consumer.getmany(timeout_ms=POLL_MS)
        schemas = registry()
        unavailable = None if schemas is None else await self._hold_back(schemas, consumer, batches)
        for records in batches.values():
            for record in records:
                self._apply_safely(record)
        if self._topic not in consumer._client.cluster.topics():
            raise FollowedTopicMissing(_missing(self._topic))
        # Read after the records are applied: a compacted tail, or a log that begins anew, moves the position without one.
        async with asyncio.timeout(POSITION_TIMEOUT_S):
            self._positions = {tp: await consumer.position(tp) for tp in self._positions}
        if unavailable is not None:
            raise unavailable

    async def _hold_back(
        self,
        schemas: SchemaRegistry,
        consumer: AIOKafkaConsumer,
        batches: dict[TopicPartition, list[ConsumerRecord]],
    ) -> SchemaUnavailable | None:
        """Fetch the schemas of these records. For one that cannot be fetched now, the records of its partition from
        there on are removed from `batches`, and read again later.
        """
        unavailable = None
        for tp, records in batches.items():
            try:
                await schemas.learn_now(records)
            except SchemaUnavailable as error:
                at = schemas.first_unknown(records)
                if at is not None:
                    unavailable = error
                    consumer.seek(tp, records[at].offset)
                    del records[at:]
        return unavailable

    def _apply_safely(self, record: ConsumerRecord) -> None:
        try:
            self._apply(record)
        except Exception as error:
            log.error("a record could not be applied; going on with the next one", topic=self._topic,
                      partition=record.partition, offset=record.offset, error=repr(error))  # fmt: skip

    def _fail(self, problem: str) -> None:
        if problem != self.problem:
            log.error(problem)
        self.problem = problem

    async def _drop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await close(consumer, CLOSE_TIMEOUT_S)

    async def _living(self) -> AIOKafkaConsumer:
        """The consumer, or a new one in four cases: 1. The topic was missing. 2. aiokafka's fetching has ended, and
        polls would return nothing forever. 3. The topic has more partitions: they are read from their beginning. 4. A
        log was replaced.
        """
        consumer = self._consumer
        if consumer is not None:
            grown = (consumer.partitions_for_topic(self._topic) or set()) - {tp.partition for tp in self._positions}
            if (dead := dead_task(consumer)) is not None:
                log.error(
                    "a topic is no longer fetched; reading it with another consumer", topic=self._topic, task=dead[0]
                )
            elif grown:
                log.info("a topic has more partitions; reading them too", topic=self._topic, partitions=sorted(grown))
            elif await self._is_another(consumer):
                log.warning("a topic was recreated or truncated; reading on from there", topic=self._topic)
            else:
                return consumer
        fresh = await self._connected()
        self._consumer = fresh
        if consumer is not None:
            await close(consumer, CLOSE_TIMEOUT_S)
        return fresh


def _missing(topic: str) -> str:
    return f"topic {topic} is missing, or hidden from this user; create it with: parallax topics apply"
