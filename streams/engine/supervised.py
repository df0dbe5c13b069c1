"""Keeps a watcher of the engine running: an unexpected error must not end it silently.

In: a name and what to run. Out: each failure is logged as an error, and it runs again after a pause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from typing import Any

import structlog

log = structlog.get_logger(__name__)

PAUSE_S = 1.0


async def supervised(name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run until cancelled, or until `run` returns."""
    while True:
        try:
            return await run()
        except Exception:
            log.exception("a watcher failed; it goes on", watcher=name)
        await asyncio.sleep(PAUSE_S)


def run_beside(
    stack: AsyncExitStack, running: Mapping[str, Callable[[], Coroutine[Any, Any, None]]], end_s: float
) -> None:
    """Run these by their names until `stack` ends; each has `end_s` seconds to end."""
    for name, run in running.items():
        stack.push_async_callback(_ended, asyncio.create_task(supervised(name, run), name=name), end_s)


async def _ended(task: asyncio.Task[None], end_s: float) -> None:
    task.cancel()
    await asyncio.wait([task], timeout=end_s)
