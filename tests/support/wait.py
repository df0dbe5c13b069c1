"""How tests wait for what tells nobody that it came."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

LOOK_S = 0.002
ASK_S = 0.05
"""Where looking means to ask somebody."""


async def until(condition: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    """What `condition()` gives, awaited if it is a coroutine, once that is true. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while True:
            found, pause_s = condition(), LOOK_S
            if inspect.iscoroutine(found):
                found, pause_s = await found, ASK_S
            if found:
                return found
            await asyncio.sleep(pause_s)


async def settle(turns: int = 20) -> None:
    """Let whatever can happen now happen."""
    for _ in range(turns):
        await asyncio.sleep(0)
