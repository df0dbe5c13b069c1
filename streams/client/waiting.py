"""Calls that wait for a result, by id; one reader serves them all.

In: ids, records of the topic. Out: the result, once for each waiting call. An id is held only while its `WaitingCall` is
referenced, so dropped handles cost nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

from aiokafka.structs import ConsumerRecord

from schemas.codec import Headers, Rejected
from streams.broker.topic_feed import TopicFeed
from streams.client.connection import kafka_errors
from streams.client.errors import ClientError
from streams.settings import Settings

log = logging.getLogger(__name__)

R = TypeVar("R")


class WaitingCall(Generic[R]):
    """One id that is waited for. `since`: loop time at which the wait began."""

    __slots__ = ("__weakref__", "future", "id", "since")

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self.id = name
        self.since = loop.time()
        self.future: asyncio.Future[R] = loop.create_future()

    def finish(self, result: R) -> bool:
        """Deliver the result; the first one counts."""
        if self.future.done():
            return False
        self.future.set_result(result)
        return True

    def fail(self, error: BaseException, *, final: bool = False) -> None:
        """Raise `error` in the calls that wait now. Later calls wait anew; if it is `final`, they raise it too."""
        future = self.future
        if future.done():
            return
        if not final:
            self.future = future.get_loop().create_future()
            self.since = future.get_loop().time()
        future.set_exception(error)
        future.exception()  # retrieved, since no caller may be waiting


class ResultReader(Generic[R]):
    """Reads `topic` from the moment of `start` on. `read`: a record's value and headers as a result."""

    def __init__(self, settings: Settings, topic: str, read: Callable[[bytes | None, Headers], R]) -> None:
        self.delivered = 0
        self._settings = settings
        self._feed = TopicFeed(settings, topic)
        self._read = read
        self._waiting: WeakValueDictionary[bytes, WaitingCall[R]] = WeakValueDictionary()
        self._starting = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def started(self) -> bool:
        """Whether it has been positioned."""
        return self._task is not None

    async def start(self) -> None:
        """Position the reader; what is sent afterwards is found. Idempotent. Raises `ClientError`."""
        if self._task is not None:
            return
        async with self._starting:
            if self._task is None:
                async with kafka_errors(self._settings):
                    await self._feed.open()
                self._task = asyncio.create_task(self._follow(), name="parallax-client-results")

    async def close(self, error: ClientError) -> None:
        """Stop reading. Waiting calls raise `error`, and so do later calls on existing handles."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._feed.close()
        for waiting in self.waiting():
            waiting.fail(error, final=True)

    def wait_for(self, name: str) -> WaitingCall[R]:
        """The `WaitingCall` of this id. Calls for one id share it, unless it has failed for good."""
        key = name.encode()
        found = self._waiting.get(key)
        if found is None or (found.future.done() and found.future.exception() is not None):
            found = self._waiting[key] = WaitingCall(name, asyncio.get_running_loop())
        return found

    def find(self, name: str) -> WaitingCall[R] | None:
        """The future of this id, if a call waits for it."""
        return self._waiting.get(name.encode())

    def waiting(self) -> list[WaitingCall[R]]:
        """All ids that are waited for now."""
        return [one for one in list(self._waiting.values()) if not one.future.done()]

    def offer(self, records: Iterable[ConsumerRecord]) -> None:
        """Deliver the results among these records that calls wait for."""
        get = self._waiting.get
        for record in records:
            # The key of a result is the task's id, or its plan's.
            waiting = get(record.key) if record.key is not None else None
            if waiting is None or waiting.future.done():
                continue
            try:
                result = self._read(record.value, record.headers)
            except Rejected as error:
                log.warning("unreadable result: %s offset %d: %s", record.topic, record.offset, error.reason)
                continue
            if getattr(result, "task_id", waiting.id) == waiting.id and waiting.finish(result):
                self.delivered += 1

    async def _follow(self) -> None:
        while True:
            try:
                self.offer(await self._feed.poll())
            except Exception:  # after any error: every waiting call depends on this loop
                log.exception("reading results failed; trying again")
                await asyncio.sleep(1)


def wait_error(waiting: WaitingCall[Any], error: Callable[[], BaseException], after_s: float) -> asyncio.TimerHandle:
    """Fail the waiting with `error()` after so many seconds, unless the timer is cancelled before."""
    loop = asyncio.get_running_loop()
    return loop.call_later(after_s, lambda: waiting.fail(error()))
