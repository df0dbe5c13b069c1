"""Runs a process's coroutine on uvloop, if it is installed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")


def in_fast_loop(work: Coroutine[None, None, T]) -> T:
    """Run the coroutine; returns its result."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
