"""Runs an agent until SIGTERM or Ctrl-C, then lets the calls under way finish."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol


class Running(AbstractAsyncContextManager[Any], Protocol):
    """An agent that runs within its block."""

    @property
    def ready_line(self) -> str:
        """The line to print once it is up."""

    async def failed(self) -> None:
        """Raises when it cannot go on; else never returns."""


def run_until_stopped(agent: Running) -> None:
    """Run until stopped. Prints one line on stderr when the agent is up. Raises what prevents it from running."""
    asyncio.run(_run(agent))


async def _run(agent: Running) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with agent:
        sys.stderr.write(agent.ready_line + "\n")
        sys.stderr.flush()
        stopped, failed = asyncio.ensure_future(stop.wait()), asyncio.ensure_future(agent.failed())
        try:
            await asyncio.wait((stopped, failed), return_when=asyncio.FIRST_COMPLETED)
            if failed.done():
                await failed
        finally:
            for task in (stopped, failed):
                task.cancel()
            await asyncio.gather(stopped, failed, return_exceptions=True)
