"""Faust's Kafka transport with its unreliable parts replaced: offsets, commits, client options.

In: records as aiokafka fetches them. Out: messages stamped with the epoch they were fetched in, and commits of exactly
what the processor reported done. Faust's own bookkeeping (acks, gaps, committed offsets) is not used: it commits points
that were never processed (a gap's end is the delivered offset) and gives up the ledger before the last commit of a
rebalance.

Before state is written the group is asked whether the partitions are still ours, unless it was asked recently: a
process that was stopped for longer than its session has been replaced by another owner, whose state it must not
overwrite.

Every fetched source record enters the ledger before Faust may drop it. A record that Faust loses (a cleared queue, a
suspended flow) is noticed when a later one of its partition arrives: the partitions are then read again from the commit
offset.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, cast

from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from streams.engine.faults import is_refused
from streams.engine.group import dead_task
from streams.engine.partition_status import PartitionStatus, known
from streams.engine.yielder import Yielder
from streams.rules.engine.ledger import Ledger
from streams.statistics import changelog
from streams.statistics.client import StatsConsumerThread, StatsProducer
from streams.statistics.held_records import HeldRecords
from streams.statistics.lease import MembershipLease, now
from streams.statistics.source_log import SourceLog

log = logging.getLogger(__name__)

MAX_REREADS = 20
"""Repeated reads without progress: more is a fault, not a rebalance."""


class LogReplaced(Exception):
    """`data-points` was recreated while it was read; a new start continues where the new log begins."""


class Carrier(Protocol):
    """Aggregates the points; notified when partitions are revoked. `expired`: points that retention removed before they
    were read.
    """

    expired: int

    async def drain(self) -> None:
        """Finish what was accepted, bounded in time; the commit follows."""

    def release(self) -> None:
        """Forget everything: the partitions are no longer ours."""

    def failed(self, error: BaseException) -> None:
        """An error occurred that cannot be recovered from here."""


class StatsMessage(ConsumerMessage):
    """A Kafka record on its way through Faust. `epoch`: the read position's epoch when it was fetched."""

    __slots__ = ("epoch",)

    epoch: int


class LedgerConsumer(driver.Consumer):
    """A consumer that commits the head of our ledger and nothing else."""

    app: Any  # a StatsApp; Faust declares less

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.source: str = self.app.source_topic
        self.carrier: Carrier = self.app.carrier
        self.epoch = 0
        self.rereads = 0
        self._ledgers: dict[TP, Ledger] = {}
        self._arriving: dict[TP, deque[int]] = {}
        self._committed: dict[TP, int] = {}
        self._passed: dict[TP, int] = {}
        self._seeking = asyncio.Lock()
        self._held = HeldRecords()
        self._lease = MembershipLease(self.app.conf.broker_session_timeout / 2)
        self._lost_at = float("-inf")
        self.resume_offsets: dict[int, int] = {}
        """Partition -> where to resume instead of at the commit offset, because its log has changed."""

    def _new_consumer_thread(self) -> Any:
        return StatsConsumerThread(self, loop=self.loop, beacon=self.beacon)

    # Reading

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:
        epoch = self.epoch
        records: dict[TP, Any] = {}
        wanted = self._held.without(active_partitions)
        if wanted or not active_partitions:
            records = dict(await super()._getmany(wanted, timeout))
        else:  # all wait; asked for none, aiokafka gives all
            await asyncio.sleep(timeout)
        self._recover(records)
        if epoch == self.epoch and not self._seeking.locked():
            self._held.exchange(records, self.source)
        source = [tp for tp in records if tp.topic == self.source]
        if not source:
            self._note_positions(epoch)
            return records
        if epoch != self.epoch or self._seeking.locked():
            # The position moved while this fetch was under way: what it brought may have been read before or be out of turn.
            await self.perform_seek()
            return {tp: found for tp, found in records.items() if tp.topic != self.source}
        for tp in source:
            ledger, arriving = self._ledgers.get(tp), self._arriving.get(tp)
            if ledger is None or arriving is None:
                await self.perform_seek()
                return {}
            if records[tp] and records[tp][0].offset < ledger.next:
                self.carrier.failed(
                    LogReplaced(f"{tp.topic} [{tp.partition}] begins anew at offset {records[tp][0].offset}")
                )
                return {}
            fresh = [record for record in records[tp] if ledger.track(record.offset)]
            arriving.extend(record.offset for record in fresh)
            records[tp] = [(epoch, record) for record in fresh]
        self._note_positions(epoch)
        return records

    def _note_positions(self, epoch: int) -> None:
        """Note how far the log is read once this fetch is in the ledger: markers at its end bring no record."""
        consumer = getattr(self._thread, "_consumer", None)
        if consumer is None or epoch != self.epoch or self._seeking.locked():
            return
        for tp in self._ledgers:
            position, _ = known(consumer, TopicPartition(*tp))
            if position is not None and tp not in self._held:
                self._passed[tp] = position

    def _recover(self, records: dict[TP, Any]) -> None:
        """Pass rows to the table; Faust only gets the last of them, by which it measures the recovery."""
        for tp in [tp for tp in records if tp.topic == self.app.changelog_topic]:
            found = records.pop(tp)
            if tp in self.app.tables.recovery.active_tps:
                self.app.table.recover(found, self.app.table.recovery)
                records[tp] = found[-1:]

    def _to_message(self, tp: TP, record: Any) -> StatsMessage:
        epoch, record = record if isinstance(record, tuple) else (-1, record)
        timestamp: Any = record.timestamp
        message = StatsMessage(
            record.topic,
            record.partition,
            record.offset,
            cast("float", None if timestamp is None else timestamp / 1000.0),
            record.timestamp_type,
            record.headers,
            record.key,
            record.value,
            record.checksum,
            record.serialized_key_size,
            record.serialized_value_size,
            tp,
            generation_id=self.app.consumer_generation_id,
        )
        message.epoch = epoch
        return message

    async def _drain_messages(self, fetcher: Any) -> None:
        """Hand fetched records to Faust's conductor until stopped.

        Faust starts two tasks for every record here, to be able to leave when the flow stops; checking first costs a
        third less of the whole path. Undelivered records are in the ledger, and the seek that follows a stop reads them
        again.
        """
        read, callback, active = self._read_offset, self.callback, self.app.flow_control.is_active
        try:
            while not (self.should_stop or fetcher.should_stop):
                await asyncio.sleep(0)
                checkpoint = Yielder()
                async for tp, message in self.getmany(timeout=1.0):
                    if not active():
                        break
                    known = read[tp]
                    if known is None or message.offset >= known:
                        await callback(message)
                        read[tp] = message.offset
                    await checkpoint()
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not self.app.should_stop:
                raise

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Nothing to do: the ledger handles gaps."""

    async def accept(self, message: StatsMessage) -> bool:
        """True if this is the next record of its partition; False: drop it, it is stale or will be read again."""
        if message.epoch != self.epoch:
            return False
        arriving = self._arriving[message.tp]
        if arriving and arriving[0] == message.offset:
            arriving.popleft()
            return True
        log.warning("a data point was lost on the way; reading again from %s offset %s", message.tp, message.offset)
        self.rereads += 1
        if self.rereads > MAX_REREADS:
            self.carrier.failed(RuntimeError(f"points of {message.tp} keep getting lost between broker and processor"))
        await self.perform_seek()
        return False

    async def perform_seek(self) -> None:
        """Start reading every source partition at its commit offset, with a fresh ledger."""
        async with self._seeking:
            self.epoch += 1
            source = {tp for tp in self.assignment() if tp.topic == self.source}
            if not source:
                return
            committed = await self.seek_to_committed()
            heads = {tp: committed.get(tp) for tp in source}
            heads.update(await self._rewound(heads))
            new = [tp for tp, head in heads.items() if head is None or head < 0]
            if new:
                heads.update(await self.earliest_offsets(*new))
            await self.seek_wait({tp: head or 0 for tp, head in heads.items()})
            self.epoch += 1
            self._held.clear()
            self._ledgers = {tp: Ledger(head or 0) for tp, head in heads.items()}
            self._arriving = {tp: deque() for tp in heads}
            self._committed = {tp: -1 if tp in new else (head or 0) for tp, head in heads.items()}
            self._passed = {}

    async def _rewound(self, heads: Mapping[TP, int | None]) -> dict[TP, int]:
        """Where to begin instead of at the commit offset: the log is not the one that was read, ends before it, or begins
        after it.
        """
        ends = await self.highwaters(*heads)
        wanted = {tp: self.resume_offsets[tp.partition] for tp in heads if tp.partition in self.resume_offsets}
        short = [
            tp for tp, head in heads.items() if tp not in wanted and head is not None and head > ends.get(tp, head)
        ]
        if short:
            log.error("the committed offset is beyond the log's end, reading from its beginning: %s", short)
            wanted.update(await self.earliest_offsets(*short))
        for tp, begin in (await self.earliest_offsets(*heads)).items():
            head = heads.get(tp)
            if head is not None and 0 <= head < begin and tp not in wanted:
                wanted[tp] = begin  # committed: the next start must not report them again
                self.carrier.expired += begin - head
                log.error("retention removed %d unread points of %s [%d]", begin - head, tp.topic, tp.partition)
        if wanted:
            await self._commit(wanted)
            for tp in wanted:
                self.resume_offsets.pop(tp.partition, None)
        return wanted

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        """The changelog's ends, up to which recovery reads."""
        if self.app.idempotent:
            return dict(await super().highwaters(*partitions))
        found = await changelog.ends(self.app.client_options, [TopicPartition(*tp) for tp in partitions])
        return {TP(*tp): end for tp, end in found.items()}

    async def log_ends(self, source_log: SourceLog) -> dict[int, int]:
        """Partition -> the end of its log at some time since the call. Raises `KafkaError`, `TimeoutError`."""
        numbers = {tp.partition for tp in self._ledgers}
        ends = await source_log.ends(numbers)
        consumer = getattr(self._thread, "_consumer", None)
        if consumer is not None:
            for tp in consumer.assignment():
                if tp.topic == self.source and tp.partition in ends:
                    # The embedded broker answers with the end of the last batch's first record; a fetch has the true end.
                    ends[tp.partition] = max(ends[tp.partition], consumer.highwater(tp) or 0)
        return ends

    def positions(self) -> dict[int, int]:
        """Partition -> the offset before which every point is counted."""
        return {
            tp.partition: ledger.head if ledger.in_flight else max(ledger.head, self._passed.get(tp, 0))
            for tp, ledger in self._ledgers.items()
        }

    def holds_partitions(self, since: float) -> bool:
        """Whether, by the group's last answer, no other worker can have owned the partitions since then (monotonic
        seconds).
        """
        return self._lost_at < since and self._lease.holds(now())

    async def confirm_ownership(self) -> bool:
        """Whether the partitions are still ours according to the group; asked again after half a session.

        Until then no other worker can have been assigned them: the group waits a whole session for a member. Raises
        `KafkaError`.
        """
        asked = now()
        if self._lease.holds(asked):
            return True
        if not self._ledgers:
            return False
        try:
            await self._commit({tp: ledger.head for tp, ledger in self._ledgers.items()})
        except (CommitFailedError, IllegalStateError) as error:
            log.warning("statistics wrote nothing: the partitions may belong to another worker: %s", error)
            return False
        self._lease.renew(asked)
        return True

    # Done and committed

    def done(self, message: StatsMessage) -> None:
        """This point is in the changelog and its outputs are on the broker."""
        if message.epoch == self.epoch:
            self._ledgers[message.tp].done(message.offset)
            self.rereads = 0

    def dead(self) -> str | None:
        """Which of aiokafka's own tasks has ended, if any: Faust would wait for its records forever."""
        consumer = getattr(self._thread, "_consumer", None)
        found = None if consumer is None else dead_task(consumer)
        return None if found is None else f"aiokafka's {found[0]} task has ended: {found[1]!r}"

    def refusal(self) -> Exception | None:
        """Why the brokers refuse it as a member of the group, if they do: Faust does not ask before it has partitions."""
        coordinator = getattr(getattr(self._thread, "_consumer", None), "_coordinator", None)
        error = getattr(coordinator, "_pending_exception", None)
        return error if error is not None and is_refused(error) else None

    def in_flight(self) -> int:
        """Points fetched that are not done."""
        return sum(ledger.in_flight for ledger in self._ledgers.values())

    def heads(self) -> dict[int, int]:
        """Partition -> the offset that would be committed now."""
        return {tp.partition: ledger.head for tp, ledger in self._ledgers.items()}

    def partition_statuses(self) -> Iterator[PartitionStatus]:
        """This worker's position in each source partition. Transaction markers at a log's end are no lag: they are
        passed, but no record after them can be committed.
        """
        consumer = getattr(self._thread, "_consumer", None)
        for tp, ledger in list(self._ledgers.items()):
            position, end = (None, None) if consumer is None else known(consumer, TopicPartition(*tp))
            head, in_flight = ledger.head, ledger.in_flight
            at = head if in_flight or position is None else max(head, position)
            lag = None if end is None else max(0, end - at)
            yield PartitionStatus(tp.topic, tp.partition, head, ledger.next, in_flight, lag, lambda: None)

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Commit every ledger's head that moved; remembered only if the broker took it."""
        if self._seeking.locked():
            return False
        heads = {tp: ledger.head for tp, ledger in self._ledgers.items()}
        assigned = self.assignment()
        moved = {tp: head for tp, head in heads.items() if head > max(self._committed[tp], 0) and tp in assigned}
        if not moved:
            return False
        asked = now()
        try:
            await self._commit(moved)
        except KafkaError as error:
            if not (isinstance(error, (CommitFailedError, IllegalStateError)) or error.retriable):
                self.carrier.failed(error)
            log.warning("commit failed; the next commit makes up for it: %s", error)
            return False
        self._lease.renew(asked)
        for tp, head in moved.items():
            if tp in self._committed:
                self._committed[tp] = max(head, self._committed[tp])
        return True

    def ack(self, message: Any) -> bool:
        """Faust's acks are not used; see `done`."""
        message.acked = True
        return True

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Finish and commit accepted points while the partitions are still ours; then forget them."""
        await self.carrier.drain()
        await self.commit()
        self.epoch += 1
        self._ledgers, self._arriving, self._committed, self._passed = {}, {}, {}, {}
        self._held.clear()
        self._lease.end()
        self._lost_at = time.monotonic()
        self.carrier.release()
        await super().on_partitions_revoked(revoked)

    # Disabled behaviour of Faust

    async def create_topic(self, topic: str, *args: Any, **kwargs: Any) -> None:
        """Topics are created before the app starts, never by it."""

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Disabled: Faust's stall detector compares two different clocks and raises false alarms."""


class StatsTransport(driver.Transport):
    """Makes Faust's consumer and producer."""

    Consumer = LedgerConsumer
    Producer = StatsProducer
