"""Keeps a watcher of the engine running: an error that nobody foresaw must not end it without a word.

In: a name and what to run for ever. Out: nothing; each failure is an error in the log, and it runs again after a pause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

log = structlog.get_logger(__name__)

PAUSE_S = 1.0


async def supervised(name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Until cancelled, or until `run` returns."""
    while True:
        try:
            return await run()
        except Exception:
            log.exception("a watcher failed; it goes on", watcher=name)
        await asyncio.sleep(PAUSE_S)
