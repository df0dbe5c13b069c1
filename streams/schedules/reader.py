"""What an owner of a partition of the role `schedules` needs before it opens: its state, and the waiting tasks.

In: a partition number whose earlier owner was fenced. Out: the newest values of the state topic, and one
`ScheduledTasks`. Of each record only its time, offset and hash are kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka.structs import ConsumerRecord, TopicPartition

from schemas.codec import Rejected
from schemas.topics import full_name
from streams.broker.kafka import committed_reader
from streams.engine.group import close
from streams.engine.handler import source_record_of
from streams.engine.state_reader import PartitionReader
from streams.lenient_decoding import poll_from
from streams.rules.dispatch.backlog import id_hash
from streams.rules.schedules.records import read_due
from streams.rules.schedules.scheduled_tasks import ScheduledTasks
from streams.rules.source_record import SourceRecord
from streams.schema_registry import learn_schemas

STILL_TIMEOUT_S = 60.0
"""Time without progress. Behind an open transaction of another worker nothing can be read until it ends."""
FETCH_BYTES = 4 * 1024 * 1024
POLL_MS = 100
CLOSE_TIMEOUT_S = 5.0


class WaitingRows:
    """Gathers the records of one partition of `scheduled`, in the order of the log."""

    def __init__(self) -> None:
        self._rows: dict[bytes, tuple[int, int, int]] = {}

    def add(self, record: ConsumerRecord) -> None:
        """Add the next record; a tombstone removes the earlier one of its key."""
        if record.key is None:
            return
        self._rows.pop(record.key, None)
        if record.value is None:
            return
        try:
            due = read_due(record.headers)
        except Rejected:
            return  # it is put among the dead letters when it is processed
        self._rows[record.key] = (due.not_before_ms, record.offset, id_hash(due.name))

    def tasks(self) -> ScheduledTasks:
        """The waiting tasks. Of two records with one task id the first counts; the other one is not processed yet."""
        found = ScheduledTasks()
        for due_ms, offset, task_hash in self._rows.values():
            found.add(due_ms, offset, task_hash)
        return found


@dataclass(slots=True)
class Lying:
    """The records on the topics of one partition: waiting tasks, and every record of `schedules`."""

    tasks: ScheduledTasks = field(default_factory=ScheduledTasks)
    schedules: Sequence[SourceRecord] = ()


class ScheduleReader:
    """Reads the topics of a partition number. `state` reads the state topic."""

    def __init__(
        self, options: dict[str, Any], prefix: str, state: PartitionReader, *, exact_ends: bool = True
    ) -> None:
        """`exact_ends`: whether the broker reports true ends of logs."""
        self._exact_ends = exact_ends
        self._options = options
        self._prefix = prefix
        self._state = state
        self._lying: dict[int, Lying] = {}

    async def read(self, number: int) -> list[bytes]:
        """The values of the state topic; the records of the other topics are kept for `take`. Raises `KafkaError`,
        `TimeoutError`.
        """
        values = await self._state.read(number)
        rows, schedules = WaitingRows(), list[SourceRecord]()
        await self._read_all(TopicPartition(full_name("scheduled", self._prefix), number), rows.add)
        await self._read_all(
            TopicPartition(full_name("schedules", self._prefix), number),
            lambda record: schedules.append(source_record_of("schedules", record)),
            decoded=True,
        )
        self._lying[number] = Lying(rows.tasks(), schedules)
        return values

    async def read_rows(self, number: int) -> dict[bytes, bytes]:
        """Keys and values of the state topic alone. Raises `KafkaError`, `TimeoutError`."""
        return await self._state.read_rows(number)

    def take(self, number: int) -> Lying:
        """The records found when the partition was last read."""
        return self._lying.pop(number, None) or Lying()

    async def _read_all(
        self, tp: TopicPartition, add: Callable[[ConsumerRecord], None], *, decoded: bool = False
    ) -> None:
        """All records of a partition, in the order of its log. `decoded`: their schemas are needed."""
        consumer = committed_reader(self._options, max_partition_fetch_bytes=FETCH_BYTES, fetch_max_wait_ms=POLL_MS)
        try:
            await consumer.start()
            consumer.assign([tp])
            begin, end = (await consumer.beginning_offsets([tp]))[tp], (await consumer.end_offsets([tp]))[tp]
            if begin >= end and not self._exact_ends:
                return
            consumer.seek(tp, begin)
            at, true_end = begin, None
            async with asyncio.timeout(STILL_TIMEOUT_S) as bound:
                # `end` is that of what readers of committed records may see. Behind another worker's open transaction may lie
                # tombstones of the owner before this one: what they take back must not be released again.
                while true_end is None or at < true_end:
                    records = (await poll_from(consumer, {tp: at}, POLL_MS)).get(tp, [])
                    if decoded:
                        await learn_schemas(records)
                    for record in records:
                        add(record)
                    if true_end is None and (high := consumer.highwater(tp)) is not None:
                        true_end = max(end, high)
                    position = await consumer.position(tp)
                    if position > at:
                        at = position
                        bound.reschedule(asyncio.get_running_loop().time() + STILL_TIMEOUT_S)
        finally:
            await close(consumer, CLOSE_TIMEOUT_S)
