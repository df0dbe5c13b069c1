"""What `streams.sync` is made of: iterating, being interrupted, payloads read by a thread of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from streams.client import blocking
from streams.client.blocking import each, read_in_thread, wait_for
from streams.client.errors import ClientError


async def counted(to: int) -> AsyncGenerator[int]:
    for number in range(to):
        yield number


def test_ctrl_c_is_what_an_interrupted_iteration_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """The generator is closed once its cancelled item is over, whatever that takes."""
    ended = threading.Event()

    async def waiting() -> AsyncGenerator[int]:
        try:
            await asyncio.sleep(3600)
            yield 1
        finally:
            await asyncio.sleep(0.05)
            ended.set()

    begin = asyncio.run_coroutine_threadsafe

    class Interrupted:
        def __init__(self, future: Future[Any]) -> None:
            self.cancel = future.cancel

        def result(self) -> Any:
            raise KeyboardInterrupt

    def first(work: Any, loop: asyncio.AbstractEventLoop) -> Any:
        monkeypatch.setattr(blocking.asyncio, "run_coroutine_threadsafe", begin)  # type: ignore[attr-defined]
        future = begin(work, loop)
        wait_for(asyncio.sleep(0.01))  # the item is waited for
        return Interrupted(future)

    monkeypatch.setattr(blocking.asyncio, "run_coroutine_threadsafe", first)  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        next(each(waiting()))
    assert ended.is_set()


def test_items_of_a_generator_may_wait_for_the_loop() -> None:
    """Such as those of a `map` over the results of another."""

    def chained() -> Iterator[int]:
        for number in each(counted(5)):
            yield number * 2

    assert list(each(read_in_thread(chained()))) == [0, 2, 4, 6, 8]
    assert list(each(read_in_thread([]))) == []


def test_what_a_generator_of_items_raises_is_raised() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("mine")

    items = each(read_in_thread(broken()))
    assert next(items) == 1
    with pytest.raises(KeyError, match="mine"):
        next(items)
    with pytest.raises(TypeError, match="not iterable"):
        next(each(read_in_thread(5)))  # type: ignore[arg-type]


def test_waiting_for_itself_is_refused() -> None:
    """A list-like object whose items use the client is read on the loop's thread."""

    async def nested() -> None:
        wait_for(asyncio.sleep(0))

    with pytest.raises(ClientError, match="on its own thread"):
        wait_for(nested())
