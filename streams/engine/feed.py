"""From the consumer into the partitions: polling, back-pressure, and the handling of failed polls.

In: an assigned consumer, the open partitions. Out: records in their inboxes and, as far as there is room, in their
handlers. A topic is polled while its inbox is empty. (aiokafka discards a paused partition's records, so nothing is
paused for lack of room.) After a failed poll each partition is polled alone: an unreadable one must not harm the
others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import GroupAuthorizationFailedError, IllegalStateError, InvalidSessionTimeoutError
from aiokafka.structs import ConsumerRecord, TopicPartition

from streams.engine.event_wait import wait_at_most
from streams.engine.faults import describe_error, is_refused, is_transient
from streams.engine.partition_processor import PartitionProcessor
from streams.lenient_decoding import decode_leniently
from streams.schema_registry import SchemaRegistry, registry

log = structlog.get_logger(__name__)

POLL_MS = 200
POLL_RECORDS = 500
FULL_CHECK = 32
TURN = 64
"""Records handed over in one turn of the loop. With more, a turn takes long when agents answer at once, and commits,
which need a dozen turns, take seconds: everything uncommitted is done again after a kill.
"""
UNREADABLE_PAUSE_S = 30.0
FAULTY_PAUSE_S = 1.0
LISTEN_PAUSE_S = 1.0
FAILED_PAUSE_S = 0.1
TELL_S = 5.0
"""How often a continuing failure is logged."""
GIVE_UP_S = 60.0
"""How long polls may be refused without one that works: waiting longer does not help."""


class Feed:
    """Feeds `processors` (a live dictionary by partition number). `names`: topic on the broker to its short name.

    `room` is set when there is room again or other work; `failed` gets errors that cannot be recovered.
    """

    def __init__(
        self,
        *,
        consumer: AIOKafkaConsumer,
        processors: Mapping[int, PartitionProcessor],
        names: Mapping[str, str],
        room: asyncio.Event,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._consumer = consumer
        self._processors = processors
        self._names = names
        self._room = room
        self._fail = failed
        self._begin_at = 0
        self._alone: list[TopicPartition] = []
        self._aside: set[TopicPartition] = set()
        self._learning: set[asyncio.Task[None]] = set()
        self._wanted: list[TopicPartition] = []
        self._failing_since: float | None = None
        self.is_refused = False
        """Whether the brokers refused the last poll that failed. They would refuse a new consumer too."""
        self._told = "", 0.0

    @property
    def polled(self) -> list[TopicPartition]:
        """The topic partitions to poll now: those with room, an empty inbox, and not set aside."""
        return [tp for tp in self._wanted if tp not in self._aside and tp.partition in self._processors]

    @property
    def open(self) -> list[TopicPartition]:
        """Every topic partition of the processors that are open, polled for or not."""
        return [tp for processor in self._processors.values() for tp in processor.partitions.values()]

    @property
    def failing_s(self) -> float:
        """For how many seconds every poll has failed."""
        return 0.0 if self._failing_since is None else asyncio.get_running_loop().time() - self._failing_since

    async def turn(self, hurry: bool = False) -> None:
        """Hand over waiting records, then poll once, or wait for room. `hurry`: other work waits for the end of this
        turn.
        """
        more = self._feed()
        if hurry:
            await asyncio.sleep(0)
        else:
            await self._fetch(more)

    def _feed(self) -> bool:
        """Hand records to handlers while there is room: a few of each topic partition in turn, the oldest first.

        True: there may be room for more of the waiting records after the next turn of the loop.
        """
        budget = TURN
        turns = [
            (processor, source)
            for processor in self._processors.values()
            for source, inbox in processor.inboxes.items()
            if inbox
        ]
        if turns and len(turns) * FULL_CHECK > TURN:  # not enough room for all: each time another one begins
            self._begin_at += 1
            start = self._begin_at % len(turns)
            turns = turns[start:] + turns[:start]
        while turns and budget > 0:
            going_on = []
            for processor, source in turns:
                taken = self._hand_over(processor, source, min(budget, FULL_CHECK))
                budget -= taken
                if taken == FULL_CHECK:
                    going_on.append((processor, source))
            turns = going_on
        return budget <= 0

    @staticmethod
    def _hand_over(processor: PartitionProcessor, source: str, most: int) -> int:
        """Hand over at most so many records of one topic partition; returns how many."""
        handler, inbox, ledger = processor.handler, processor.inboxes[source], processor.ledgers[source]
        taken = 0
        while inbox and taken < most and handler is not None and handler.room(source):
            # Checked only now and then: the limit is far enough below what a commit can hold.
            if taken % FULL_CHECK == 0 and processor.full(source):
                break
            record = inbox.popleft()
            if ledger.track(record.offset):
                taken += 1
                handler.process(source, record)
        return taken

    async def _fetch(self, more: bool) -> None:
        """Poll until records come or there is room; `more`: without waiting."""
        self._room.clear()
        if more:
            self._room.set()
            await asyncio.sleep(0)
        wanted = self._wanted = [
            processor.partitions[source]
            for processor in self._processors.values()
            for source, inbox in processor.inboxes.items()
            if not inbox and processor.handler is not None and processor.handler.room(source)
        ]
        if not wanted:
            await self._listen()
            await wait_at_most(self._room, POLL_MS / 1000)
        elif self._alone:
            await self._fetch_alone()
        else:
            await self._fetch_all(wanted)

    async def _listen(self) -> None:
        """No partition is polled now, and aiokafka's coordinator reports errors only when asked: ask it."""
        try:
            self._consumer._coordinator.check_errors()
        except Exception as error:
            self._poll_failed(error)
            await asyncio.sleep(LISTEN_PAUSE_S)

    async def _fetch_all(self, wanted: list[TopicPartition]) -> None:
        poll = asyncio.ensure_future(self._consumer.getmany(*wanted, timeout_ms=POLL_MS, max_records=POLL_RECORDS))
        room = asyncio.ensure_future(self._room.wait())
        try:
            await asyncio.wait((poll, room), return_when=asyncio.FIRST_COMPLETED)
        finally:
            room.cancel()
            if not poll.done():
                poll.cancel()
        try:
            batches = await poll
        except asyncio.CancelledError:
            return
        except IllegalStateError:  # revoked while polling
            return
        except Exception as error:
            # aiokafka gives up what it had already taken from other partitions, with their positions moved: go back, and
            # find the faulty one by polling each alone.
            self._rewind(wanted)
            self._alone = wanted
            self._poll_failed(error)
            await asyncio.sleep(FAILED_PAUSE_S)  # a group's error comes at once, again and again
            return
        self._failing_since = None
        behind = [tp for tp in wanted if tp not in batches and self._is_behind(tp)] if batches else wanted
        if behind:
            await self._skip_markers(behind)
        self._accept(batches)

    def _is_behind(self, tp: TopicPartition) -> bool:
        """Whether its handler waits until all records from before this owner have come: the last ones may be
        markers.
        """
        processor = self._processors.get(tp.partition)
        return processor is not None and self._names[tp.topic] in processor.behind

    def _accept(self, batches: dict[TopicPartition, list[ConsumerRecord]]) -> None:
        schemas = registry()
        for tp, records in batches.items():
            processor = self._processors.get(tp.partition)
            if schemas is not None and processor is not None:
                records = self._with_schemas(schemas, tp, records)
            if processor is not None and records:
                processor.arrived(self._names[tp.topic], records)

    async def _fetch_alone(self) -> None:
        """After a failed poll: one partition at a time, so that an unreadable record harms its own partition only."""
        suspects, self._alone = self._alone, []
        for tp in suspects:
            processor = self._processors.get(tp.partition)
            if processor is None or processor.inboxes[self._names[tp.topic]]:
                continue
            try:
                batches = await self._consumer.getmany(tp, timeout_ms=POLL_MS // 4, max_records=POLL_RECORDS)
            except IllegalStateError:
                return
            except UnicodeDecodeError:
                self._rewind([tp])
                batches = await decode_leniently(self._consumer, tp)
            except GroupAuthorizationFailedError as error:  # not the partition's fault
                self._rewind([tp])
                self._poll_failed(error)
                await asyncio.sleep(FAILED_PAUSE_S)
                return
            except Exception as error:
                self._rewind([tp])
                self._set_aside(tp, error)
                continue
            self._failing_since = None
            self._accept(batches)

    def _poll_failed(self, error: Exception) -> None:
        now = asyncio.get_running_loop().time()
        if (words := describe_error(error)) != self._told[0] or now - self._told[1] >= TELL_S:
            self._told = words, now
            log.warning("the group or a poll failed; trying again", error=words)
        self.is_refused = is_refused(error)
        if self._failing_since is None:
            self._failing_since = now
        if isinstance(error, InvalidSessionTimeoutError) or (
            now - self._failing_since > GIVE_UP_S and not is_transient(error)
        ):
            self._fail(error)

    def _set_aside(self, tp: TopicPartition, error: Exception) -> None:
        """An unreadable log (a damaged batch, an unknown codec) must not stop the others: try it again later. Soon, if that
        may help by itself (a connection that broke).
        """
        pause_s = FAULTY_PAUSE_S if is_transient(error) else UNREADABLE_PAUSE_S
        log.error("a partition cannot be read", topic=tp.topic, partition=tp.partition, pause_s=pause_s,
                  error=describe_error(error))  # fmt: skip
        with contextlib.suppress(IllegalStateError):
            self._consumer.pause(tp)
        self._aside.add(tp)
        asyncio.get_running_loop().call_later(pause_s, self._take_back, tp)

    def _with_schemas(
        self, schemas: SchemaRegistry, tp: TopicPartition, records: list[ConsumerRecord]
    ) -> list[ConsumerRecord]:
        """The records before the first one whose schema must be fetched. Its partition waits for the schema, the others
        do not.
        """
        at = schemas.first_unknown(records)
        if at is None:
            return records
        with contextlib.suppress(IllegalStateError):
            self._consumer.pause(tp)
            self._consumer.seek(tp, records[at].offset)
        self._aside.add(tp)
        waiting = asyncio.create_task(schemas.learn(records[at:]), name=f"schema-of-{tp.topic}-{tp.partition}")
        self._learning.add(waiting)
        waiting.add_done_callback(lambda done: self._learned(tp, done))
        return records[:at]

    def _learned(self, tp: TopicPartition, waiting: asyncio.Task[None]) -> None:
        self._learning.discard(waiting)
        if not waiting.cancelled():
            self._take_back(tp)
            self._room.set()

    def close(self) -> None:
        """Stop waiting for schemas."""
        for waiting in self._learning:
            waiting.cancel()

    def _take_back(self, tp: TopicPartition) -> None:
        self._aside.discard(tp)
        processor = self._processors.get(tp.partition)
        if processor is not None and processor.ready:
            with contextlib.suppress(IllegalStateError):
                self._consumer.resume(tp)

    def _rewind(self, tps: list[TopicPartition]) -> None:
        """Fetch everything again that reached no ledger (the inboxes of these partitions are empty)."""
        for tp in tps:
            processor = self._processors.get(tp.partition)
            if processor is not None and not processor.inboxes[self._names[tp.topic]]:
                with contextlib.suppress(IllegalStateError):
                    self._consumer.seek(tp, processor.ledgers[self._names[tp.topic]].next)

    async def _skip_markers(self, tps: list[TopicPartition]) -> None:
        """No records came: pass the transaction markers at the ends of the logs, so the commit reaches the end too."""
        for tp in tps:
            processor = self._processors.get(tp.partition)
            if processor is not None and not processor.inboxes[self._names[tp.topic]]:
                with contextlib.suppress(IllegalStateError):
                    position = await self._consumer.position(tp)
                    if self._processors.get(tp.partition) is processor:
                        processor.passed({self._names[tp.topic]: position})
