"""A thread with an event loop, and ways to wait for what runs on it: the basis of `streams.sync`."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator, Iterable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

from streams.client.errors import ClientError

T = TypeVar("T")
_END: Any = object()
"""In place of an item: there are no more."""


class _Loop:
    """A thread that runs an event loop for the life of the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def get(self) -> asyncio.AbstractEventLoop:
        """The loop; started on first use."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="parallax-client", daemon=True).start()
            return self._loop

    def forget(self) -> None:
        """Start anew in a forked process: it inherits the loop but not the thread that runs it."""
        self._lock = threading.Lock()
        self._loop = None


_LOOP = _Loop()
os.register_at_fork(after_in_child=_LOOP.forget)


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run on the client's thread and block; Ctrl-C cancels the work. Raises `ClientError` on that thread itself."""
    loop = _LOOP.get()
    if _running() is loop:  # it would wait for itself, and every client of the process with it
        work.close()
        raise ClientError(
            "streams.sync cannot be called on its own thread, as code inside a list of payloads is; pass a generator instead"
        )
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def read_in_thread(items: Iterable[T]) -> AsyncGenerator[T]:
    """Yields the items. A separate thread reads each one on demand, so reading may block or use a client."""
    loop = asyncio.get_running_loop()
    wanted: SimpleQueue[asyncio.Future[Any] | None] = SimpleQueue()

    def deliver(future: asyncio.Future[Any], item: Any, error: BaseException | None) -> None:
        if future.done():
            return  # nobody reads on
        if error is None:
            future.set_result(item)
        else:
            future.set_exception(error)

    def read() -> None:
        source = None
        while (future := wanted.get()) is not None:
            item, error = _END, None
            try:
                source = iter(items) if source is None else source
                item = next(source, _END)
            except BaseException as raised:  # the user's code may raise anything
                error = raised
            with suppress(RuntimeError):  # the loop has ended with its process
                loop.call_soon_threadsafe(deliver, future, item, error)

    threading.Thread(target=read, name="parallax-payloads", daemon=True).start()
    try:
        while True:
            future: asyncio.Future[Any] = loop.create_future()
            wanted.put(future)
            item = await future
            if item is _END:
                return
            yield item
    finally:
        wanted.put(None)


def each(source: AsyncGenerator[T]) -> Generator[T]:
    """The items of an asynchronous generator, one by one."""
    reading: list[asyncio.Task[Any]] = []

    async def following() -> T:
        reading[:] = [task for task in [asyncio.current_task()] if task is not None]
        return await anext(source)

    async def closing() -> None:
        if reading:  # an item whose waiting was interrupted is being cancelled, which takes a moment
            await asyncio.wait(reading)
        await source.aclose()

    try:
        while True:
            try:
                item = wait_for(following())
            except StopAsyncIteration:
                return
            yield item
    finally:
        if not sys.is_finalizing():  # at the end of the process the loop's thread is stopped
            wait_for(closing())
