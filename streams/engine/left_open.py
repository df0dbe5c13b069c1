"""What holds up a partition that opens: a transaction that an earlier owner did not end.

In: the partition's committer. While the offsets and the state are read, such a transaction is looked for and ended, after a
moment in which it may end by itself: a partition that was given up cleanly has none.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from streams.engine.commit import Committer
from streams.engine.faults import describe_error

log = structlog.get_logger(__name__)

FIRST_S = 0.3
AGAIN_S = 1.0


@contextlib.asynccontextmanager
async def ending_left_open(committer: Committer) -> AsyncIterator[None]:
    """While this is entered."""
    task = asyncio.create_task(_end(committer))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _end(committer: Committer) -> None:
    await asyncio.sleep(FIRST_S)
    while True:
        try:
            await committer.end_left_open()
        except Exception as error:  # the partition may well open without
            log.debug("transactions left open could not be ended yet", error=describe_error(error))
        await asyncio.sleep(AGAIN_S)
