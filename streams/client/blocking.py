"""A thread with an event loop, and ways to wait for what runs on it: the basis of `streams.sync`."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


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
    """Run on the client's thread and block; Ctrl-C cancels the work."""
    future = asyncio.run_coroutine_threadsafe(work, _LOOP.get())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def each(source: AsyncGenerator[T]) -> Generator[T]:
    """The items of an asynchronous generator, one by one."""

    async def following() -> T:
        return await anext(source)

    async def closing() -> None:
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
