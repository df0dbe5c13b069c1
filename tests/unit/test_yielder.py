"""Long work gives the loop its turns once its slice is used up, and not before."""

from __future__ import annotations

import asyncio

from streams.engine.yielder import Yielder


async def turns(checkpoint: Yielder, pieces: int) -> int:
    """How many turns another task had during so many pieces of work."""
    had = 0

    async def other() -> None:
        nonlocal had
        while True:
            had += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    for _ in range(pieces):
        await checkpoint()
    beside.cancel()
    return had


async def test_a_used_slice_is_a_turn_for_others() -> None:
    """With slices of nothing after every piece; within a slice of an hour none."""
    assert await turns(Yielder(0.0), 50) == 50
    assert await turns(Yielder(3600.0), 50) == 0
