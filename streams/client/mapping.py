"""`Client.map`: many tasks through a window, their results as they end or in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Sized
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from streams.client.errors import InvalidTask, failure_of
from streams.client.handle import Handle
from streams.client.parsing import parse_value
from streams.client.result import TaskResult

T = TypeVar("T")
Payloads = Iterable[Any] | AsyncIterable[Any]
Window = dict[str, Handle]
"""Tasks under way, by id."""
OpenWindows = dict[int, Window]
"""Of a client's unfinished calls of `map`, by their identity: equal ones may be open at once."""
Ready = asyncio.Queue[tuple[Handle, asyncio.Future[TaskResult[Any]]] | None]
"""Each task with the future of its submission: a later future would miss an error that ended the wait."""

CANCEL_TIMEOUT_S = 5.0
"""How long the tasks of a map that ended early are cancelled: without Kafka it would take for ever."""
JUDGED_FROM = 100
"""If the number of payloads is unknown, the share of failures is checked from this many results on, and at the end."""


class Tolerance:
    """How many failures are accepted. `share`: in [0, 1]; `total`: the number of payloads, if known.

    >>> judge = Tolerance(0.5, 4)
    >>> [judge.too_many(failed) for failed in (True, True, False, True)]
    [False, False, False, True]
    """

    def __init__(self, share: float, total: int | None) -> None:
        if not 0 <= share <= 1:
            raise InvalidTask(f"tolerate: must be a share between 0 and 1, not {share!r}")
        self._share = share
        self._total = total
        self.ended = 0
        self.failed = 0

    def too_many(self, failed: bool) -> bool:
        """Count one end; returns whether the share is certainly exceeded."""
        self.ended += 1
        self.failed += failed
        if not failed:
            return False
        if self._total is not None:
            return self.failed > self._share * self._total
        return self._share == 0 or (self.ended >= JUDGED_FROM and self.exceeded)

    @property
    def exceeded(self) -> bool:
        """Whether more failed than allowed, of those that ended."""
        return self.failed > self._share * max(1, self.ended)


async def run_all(
    submit: Callable[[Any], Awaitable[Handle]],
    payloads: Payloads,
    *,
    concurrency: int,
    ordered: bool,
    tolerate: float,
    into: type[T] | None,
    open_windows: OpenWindows,
) -> AsyncGenerator[TaskResult[Any]]:
    """Yields one result per payload. Closing the generator early, or an exception in it, cancels the tasks under
    way.
    """
    if concurrency < 1:
        raise InvalidTask(f"concurrency: must be 1 or more, not {concurrency}")
    judge = Tolerance(tolerate, len(payloads) if isinstance(payloads, Sized) else None)
    window: Window = {}
    open_windows[id(window)] = window
    ready: Ready = asyncio.Queue()
    slots = asyncio.Semaphore(concurrency)
    feeder = asyncio.ensure_future(_feed(submit, payloads, slots, window, ready, ordered))
    fed = False
    last: TaskResult[Any] | None = None
    """The failure seen last."""
    try:
        while window or not fed:
            item = await ready.get()
            if item is None:
                fed = True
                await feeder  # raises what stopped it
                continue
            handle, future = item
            await asyncio.wait((future,))
            result = future.result()
            del window[handle.id]
            failed = result.status != "success"
            last = result if failed else last
            if judge.too_many(failed):
                raise _failure(result, judge)
            yield result if into is None or failed else parse_value(result, into)
            slots.release()
        if last is not None and judge.exceeded:
            raise _failure(last, judge)
    finally:
        feeder.cancel()
        await asyncio.wait([feeder])
        del open_windows[id(window)]
        await cancel_all(window)


async def _feed(
    submit: Callable[[Any], Awaitable[Handle]],
    payloads: Payloads,
    slots: asyncio.Semaphore,
    window: Window,
    ready: Ready,
    ordered: bool,
) -> None:
    """Submit while there are slots. Puts handles into `ready`, in order or as they end; None after the last."""
    try:
        async for payload in _each(payloads):
            await slots.acquire()
            handle = await submit(payload)
            window[handle.id] = handle
            future = handle.future()
            if ordered:
                ready.put_nowait((handle, future))
            else:
                future.add_done_callback(partial(_put, ready, handle))
    finally:
        ready.put_nowait(None)


def _put(ready: Ready, handle: Handle, future: asyncio.Future[TaskResult[Any]]) -> None:
    ready.put_nowait((handle, future))


async def cancel_open(open_windows: OpenWindows) -> None:
    """As `cancel_all`, for every `map` that has not ended."""
    await asyncio.gather(*(cancel_all(window) for window in list(open_windows.values())))


async def cancel_all(window: Window) -> None:
    """Cancel tasks whose results are no longer needed. Those that Kafka cannot be asked to cancel run to their end."""
    left = [handle for handle in window.values() if not handle.done]
    window.clear()
    requests = asyncio.gather(*(handle.cancel("client.map ended early") for handle in left), return_exceptions=True)
    with suppress(TimeoutError):
        async with asyncio.timeout(CANCEL_TIMEOUT_S):
            await requests


def _failure(result: TaskResult[Any], judge: Tolerance) -> Exception:
    error = failure_of(result)
    error.add_note(f"client.map: {judge.failed} of {judge.ended} tasks failed, more than `tolerate` allows")
    return error


async def _each(payloads: Payloads) -> AsyncGenerator[Any]:
    if isinstance(payloads, AsyncIterable):
        async for payload in payloads:
            yield payload
    else:
        for payload in payloads:
            yield payload
