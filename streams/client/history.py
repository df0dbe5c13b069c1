"""Searches what was written before: results of ids sent earlier, tasks to send again, data points that feedback
corrects.

In: an id and how far back to search. Out: the record, or `NotFound`. Each search reads a topic once, from that time to
its end.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from aiokafka.structs import ConsumerRecord

from schemas.codec import Rejected, decode, decode_json, pack
from schemas.messages import ConfidenceDataPoint, Task
from schemas.partitioning import partition_for
from schemas.times import parse_time
from streams.client.connection import partitions_of, records_since
from streams.client.errors import ClientError, InvalidTask, NotFound
from streams.client.requests import Request, check, encode
from streams.client.times import Since, since_ms
from streams.client.waiting import ResultReader, WaitingCall
from streams.settings import Settings

log = logging.getLogger(__name__)

FIRST_LOOK_S = 1.0
"""An id given by the user may have been answered before: earlier results are searched if none comes within this
time.
"""
REST_FACTOR = 5
"""The pause between two searches is this many times the duration of the last one: searches never dominate."""
RETRY_S = 5.0
PLAIN = re.compile(r"[A-Za-z0-9._:-]+")


class EarlierResults:
    """Searches a topic for earlier results of ids that are waited for; ids that come together are searched together."""

    def __init__(self, settings: Settings, topic: str, reader: ResultReader[Any], partitions: int) -> None:
        self._settings = settings
        self._topic = topic
        self._reader = reader
        self._partitions = partitions
        self._wanted: dict[str, tuple[WaitingCall[Any], int]] = {}
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def search(self, waiting: WaitingCall[Any], since: Since, *, at_once: bool) -> None:
        """Find the result if it was written since then; else keep waiting."""
        begin_ms = since_ms(since, round(time.time() * 1000))
        if at_once:
            self._add(waiting, begin_ms)
        else:
            asyncio.get_running_loop().call_later(FIRST_LOOK_S, self._add, waiting, begin_ms)

    async def close(self) -> None:
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _add(self, waiting: WaitingCall[Any], begin_ms: int) -> None:
        if waiting.future.done() or self._closed:
            return
        self._wanted[waiting.id] = waiting, begin_ms
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="parallax-client-history")

    async def _run(self) -> None:
        while self._wanted:
            wanted, self._wanted = self._wanted, {}
            begun = time.monotonic()
            try:
                await self._read(wanted)
            except ClientError as error:
                log.debug("searching earlier results failed; searching again: %r", error)
                self._wanted = wanted | self._wanted
                await asyncio.sleep(RETRY_S)
            await asyncio.sleep(REST_FACTOR * (time.monotonic() - begun))

    async def _read(self, wanted: dict[str, tuple[WaitingCall[Any], int]]) -> None:
        wanted = {name: (one, begin) for name, (one, begin) in wanted.items() if not one.future.done()}
        if not wanted:
            return
        # Partitions that were added since have moved keys: look where an id lay before, too.
        count = (await partitions_of(self._settings, [self._topic]))[self._topic]
        numbers = {partition_for(name.encode(), n) for name in wanted for n in {count, self._partitions}}
        begin_ms = min(begin for _, begin in wanted.values())
        async with aclosing(records_since(self._settings, self._topic, begin_ms, numbers)) as records:
            async for record in records:
                self._reader.offer((record,))


async def find_task(settings: Settings, task_id: str, since: Since) -> dict[str, Any]:
    """The newest task of this id on `tasks`, as it was sent. Raises `NotFound`, `ClientError`."""
    found: Any = None
    part = needle(task_id)
    async for record in _records(settings, "tasks", since):
        if record.value is None or part not in record.value:
            continue
        try:
            data = decode_json(record.value, record.headers).data
        except Rejected:
            continue  # on the dead letters' topic by now
        if isinstance(data, dict) and data.get("id") == task_id:
            found = data
    if found is None:
        raise NotFound(f"task {task_id}: not found on the topic tasks since {since}; give an earlier since=")
    return dict(found)


async def feedback_request(settings: Settings, task_id: str, success: bool, since: Since) -> Request:
    """The task's data point once more, with its true outcome, for the partition where it lies: its series is counted
    there, whatever partitioner its producer has. Raises `NotFound`, `ClientError`.
    """
    found: tuple[ConsumerRecord, ConfidenceDataPoint] | None = None
    part = needle(task_id)
    async for record in _records(settings, "data-points", since):
        if record.value is None or part not in record.value:
            continue
        try:
            point = decode(ConfidenceDataPoint, record.value, record.headers)
        except Rejected:
            continue  # on the dead letters' topic by now
        if point.task_id == task_id and point.confidence > 0 and not point.feedback:
            found = record, point
    if found is None:
        raise NotFound(f"task {task_id}: no data point of an answer found since {since}; give an earlier since=")
    record, point = found
    labelled = point.model_copy(update={"success": success, "feedback": True})
    return Request(task_id, record.key or point.agent_id.encode(), pack(labelled.wire()), partition=record.partition)


def sent_again(task: dict[str, Any], new_id: str, now_ms: int) -> Request:
    """The task under a new id, with the first id in `metadata.retryOf`.

    Raises `InvalidTask` if its deadline has passed, and if it is invalid: it would become a dead letter again.
    """
    try:
        check(Task, task)
    except InvalidTask as error:
        raise InvalidTask(f"task {task['id']} is no valid task: {error}; correct it and submit it again") from None
    metadata = task.get("metadata") or {}
    if (deadline := metadata.get("deadline")) is not None and parse_time(deadline) <= now_ms:
        raise InvalidTask(
            f"task {task['id']}: metadata.deadline: {deadline} has passed, so it would end without a call; "
            "submit it as a new task with a later deadline"
        )
    first = metadata.get("retryOf", task["id"])
    again = task | {"id": new_id, "metadata": metadata | {"retryOf": first}}
    again.pop("planId", None)  # the plan has ended without it
    target = task.get("target") if task.get("type") == "agent" else None
    return Request(new_id, (target or new_id).encode(), encode(again), target is not None)


def needle(task_id: str) -> bytes:
    """Bytes that every record of this id contains: ids of plain characters are spelt in JSON as they are."""
    return task_id.encode() if PLAIN.fullmatch(task_id) else b""


def _records(settings: Settings, topic: str, since: Since) -> AsyncGenerator[ConsumerRecord]:
    return records_since(settings, topic, since_ms(since, round(time.time() * 1000)))
