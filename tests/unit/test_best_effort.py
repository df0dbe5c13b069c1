"""Last words: bounded in number and time, and never anybody's failure."""

from __future__ import annotations

import asyncio

import pytest

from agents_io import best_effort
from agents_io.best_effort import BestEffortRequests

pytestmark = pytest.mark.virtual_time


async def test_what_they_raise_is_nobodys_failure() -> None:
    """The call they belong to is over."""
    said = asyncio.Event()

    async def fail() -> None:
        said.set()
        raise ValueError("no")

    requests = BestEffortRequests()
    requests.start("x", fail)
    await said.wait()
    await requests.close()


async def test_no_more_than_so_many_are_under_way() -> None:
    """The others are dropped, not queued."""
    begun = 0

    async def wait() -> None:
        nonlocal begun
        begun += 1
        await asyncio.Event().wait()

    requests = BestEffortRequests(max_under_way=3)
    for _ in range(10):
        requests.start("x", wait)
    await asyncio.sleep(0)
    assert begun == 3


async def test_close_waits_a_moment_and_then_stops_them() -> None:
    """A quick one arrives, a slow one is cut off, and closing ends."""
    ends = []

    async def speak(name: str, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
            ends.append(name)
        except asyncio.CancelledError:
            ends.append(f"{name} cut")
            raise

    requests = BestEffortRequests()
    requests.start("x", lambda: speak("quick", 0.01))
    requests.start("x", lambda: speak("slow", 60))
    async with asyncio.timeout(10):
        await requests.close()
    assert ends == ["quick", "slow cut"]


async def test_each_has_its_time() -> None:
    """An agent that hangs holds nothing for ever: the next one has its place."""
    said = asyncio.Event()

    async def speak() -> None:
        said.set()

    requests = BestEffortRequests(max_under_way=1)
    requests.start("x", asyncio.Event().wait)
    await asyncio.sleep(best_effort.TIMEOUT_S - 0.1)
    requests.start("x", speak)
    await asyncio.sleep(0.2)
    assert not said.is_set()
    requests.start("x", speak)
    await requests.close()
    assert said.is_set()
