"""Waits for an event with a timeout, without losing a cancellation."""

from __future__ import annotations

import asyncio
import contextlib


async def wait_at_most(event: asyncio.Event, seconds: float) -> None:
    """Wait until the event is set, or so many seconds have passed.

    Not `asyncio.wait_for`: in Python 3.11 it loses a cancellation that comes in the turn in which the event is set.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
