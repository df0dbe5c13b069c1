"""Waiting for an event for a while, so that a cancellation is never lost."""

from __future__ import annotations

import asyncio
import contextlib


async def wait_at_most(event: asyncio.Event, seconds: float) -> None:
    """Until the event is set, or so many seconds have passed.

    Not `asyncio.wait_for`: in Python 3.11 it loses a cancellation that comes in the turn in which the event is set.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
