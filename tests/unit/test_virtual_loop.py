"""The loop in virtual time: hours pass at once, and what would take real time is refused."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from streams.testing.virtual_loop import RealTimeNeeded, VirtualTimeLoop


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """As a test runs, up to the loop's end."""
    loop = VirtualTimeLoop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


def test_waits_end_at_once_and_in_their_order() -> None:
    """An hour is over before a day."""

    async def work() -> tuple[list[str], float]:
        begun, ended = asyncio.get_running_loop().time(), []

        async def wait(hours: int, name: str) -> None:
            await asyncio.sleep(hours * 3600)
            ended.append(name)

        await asyncio.gather(wait(24, "a day"), wait(1, "an hour"))
        return ended, asyncio.get_running_loop().time() - begun

    assert run(work()) == (["an hour", "a day"], 24 * 3600)


async def connect() -> None:
    await asyncio.open_connection("127.0.0.1", 1)


async def serve() -> None:
    await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)


async def receive() -> None:
    with socket.socket() as one:
        await asyncio.get_running_loop().sock_recv(one, 1)


async def look_up() -> None:
    await asyncio.get_running_loop().getaddrinfo("localhost", 80)


async def execute() -> None:
    await asyncio.create_subprocess_exec("true")


@pytest.mark.parametrize(
    ("work", "what"),
    [
        (lambda: asyncio.to_thread(int), r"a thread \(run_in_executor\)"),
        (connect, r"a socket \(create_connection\)"),
        (serve, r"a socket \(create_server\)"),
        (receive, r"a socket \(sock_recv\)"),
        (look_up, r"a name look-up \(getaddrinfo\)"),
        (execute, r"a process \(subprocess_exec\)"),
    ],
)
def test_what_takes_real_time_is_refused(work: Callable[[], Any], what: str) -> None:
    """Where it is asked for; and again at the end, so that no `except Exception` between makes a test pass."""

    async def guarded() -> None:
        with pytest.raises(RealTimeNeeded, match=f"{what} takes real time"):
            await work()

    with pytest.raises(RealTimeNeeded, match=f"refused while the loop ran: {what}"):
        run(guarded())


def test_a_call_from_another_thread_is_refused() -> None:
    """Virtual time does not wait for it."""

    async def work() -> None:
        loop, seen = asyncio.get_running_loop(), []

        def call() -> None:
            try:
                loop.call_soon_threadsafe(seen.append, "ran")
            except RealTimeNeeded as error:
                seen.append(str(error))

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        assert seen == ["virtual time: a call from another thread takes real time; run this in an ordinary event loop"]

    with pytest.raises(RealTimeNeeded, match="refused while the loop ran"):
        run(work())


def test_a_wait_that_cannot_end_is_named() -> None:
    """A hang would say nothing for as long as the whole test may take."""

    async def work() -> None:
        await asyncio.Event().wait()

    loop = VirtualTimeLoop()
    task = loop.create_task(work(), name="stuck")
    with pytest.raises(RealTimeNeeded, match=r"these would wait forever: stuck at .*test_virtual_loop\.py:\d+$"):
        loop.run_until_complete(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()
