"""Searches the topics for the history of one task: its events and its result.

In: a task id and how far back to search. Out: status, result and events; None if nothing is found. Only the partitions
of its possible keys are read, from the offset of that time on; one search at a time, each bounded in time; a bounded
number waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import ConsumerRecord, TopicPartition

from schemas.exact_json import loads
from schemas.partitioning import partition_for
from schemas.topics import full_name
from streams.broker.kafka import client_options, committed_reader
from streams.engine.commit import CLOSE_TIMEOUT_S
from streams.engine.group import close, partition_numbers
from streams.rules.live.task_status import has_ended, in_order, result_keys, status_of
from streams.settings import Settings

SEARCH_TIMEOUT_S = 10.0
MAX_WAITING = 8
POLL_MS = 300
PORTION = 500
FETCH_BYTES = 512 * 1024
LAST_LOOKS = 5
MAX_EVENTS = 1000


class Busy(Exception):
    """Too many searches wait already."""


class TaskSearch:
    """The searches of one worker."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._events = full_name("events", settings.topic_prefix)
        self._results = full_name("results", settings.topic_prefix)
        self._one = asyncio.Lock()
        self._waiting = 0

    async def find(self, task_id: str, since_ms: int) -> dict[str, Any] | None:
        """The task's history since that time. Raises `Busy`, `TimeoutError`, `KafkaError`."""
        if self._waiting >= MAX_WAITING:
            raise Busy(f"{self._waiting} searches wait already; one runs at a time")
        self._waiting += 1
        try:
            async with self._one, asyncio.timeout(SEARCH_TIMEOUT_S):
                return await self._search(task_id, since_ms)
        finally:
            self._waiting -= 1

    async def _search(self, task_id: str, since_ms: int) -> dict[str, Any] | None:
        consumer = committed_reader(
            client_options(self._settings),
            max_partition_fetch_bytes=FETCH_BYTES,
            fetch_max_wait_ms=POLL_MS,
        )
        try:
            await consumer.start()
            search = _Search(
                consumer=consumer, task_id=task_id, since_ms=since_ms, events=self._events, results=self._results
            )
            await search.run()
        finally:
            await close(consumer, CLOSE_TIMEOUT_S)
        if not search.events and search.result is None:
            return None
        events = in_order(search.events)
        return {
            "taskId": task_id,
            "status": status_of(search.result, events),
            "result": search.result,
            "events": events,
        }


class _Search:
    def __init__(self, *, consumer: AIOKafkaConsumer, task_id: str, since_ms: int, events: str, results: str) -> None:
        self.events: list[dict[str, Any]] = []
        self.result: dict[str, Any] | None = None
        self._consumer = consumer
        self._task_id = task_id
        self._since_ms = since_ms
        self._topics = events, results
        self._keys = {key.encode() for key in result_keys(task_id)}
        self._any_key = False

    async def run(self) -> None:
        events, results = self._topics
        event_count, result_count = await self._partitions(events), await self._partitions(results)
        likely = {TopicPartition(results, partition_for(key, result_count)) for key in self._keys}
        await self._read([TopicPartition(events, partition_for(self._task_id.encode(), event_count)), *likely])
        if self.result is None and has_ended(self.events):
            # Its plan's id, which is the result's key, cannot be distinguished from its own.
            self._any_key = True
            rest = {TopicPartition(results, number) for number in range(result_count)} - likely
            await self._read(sorted(rest))

    async def _partitions(self, topic: str) -> int:
        return max(await partition_numbers(self._consumer, topic) or {0}) + 1

    async def _read(self, tps: Sequence[TopicPartition]) -> None:
        """Read these partitions from the time on to their present ends."""
        if not tps:
            return
        consumer = self._consumer
        consumer.assign(list(tps))
        ends = await consumer.end_offsets(list(tps))
        begins = await consumer.offsets_for_times(dict.fromkeys(tps, self._since_ms))
        left = dict(ends)
        for tp in tps:
            found = begins.get(tp)
            consumer.seek(tp, ends[tp] if found is None else found.offset)
        while left:
            await self._portion(POLL_MS)
            left = {tp: end for tp, end in left.items() if await consumer.position(tp) < end}
        # The embedded broker reports an end within the last batch.
        for _ in range(LAST_LOOKS):
            if not await self._portion(0):
                break

    async def _portion(self, timeout_ms: int) -> int:
        count = 0
        for tp, records in (await self._consumer.getmany(timeout_ms=timeout_ms, max_records=PORTION)).items():
            count += len(records)
            for record in records:
                self._take(tp, record)
        await asyncio.sleep(0)  # buffered records are returned without a turn of the loop
        return count

    def _take(self, tp: TopicPartition, record: ConsumerRecord) -> None:
        if record.value is None:
            return
        if tp.topic == self._topics[1]:
            if self.result is None and (self._any_key or record.key in self._keys):
                value = _object(record.value)
                self.result = value if value.get("taskId") == self._task_id else None
        elif record.key == self._task_id.encode() and len(self.events) < MAX_EVENTS:
            value = _object(record.value)
            data = value.get("data")
            if isinstance(data, dict) and data.get("taskId") == self._task_id:
                self.events.append(value)


def _object(value: bytes) -> dict[str, Any]:
    try:
        found = loads(value)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
