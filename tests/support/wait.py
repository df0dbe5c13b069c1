"""How tests wait for what tells nobody that it came."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

LOOK_S = 0.002
ASK_S = 0.05
"""Where looking means to ask somebody."""


async def until(condition: Callable[[], Any], timeout_s: float = 30.0, why: Callable[[], object] | None = None) -> Any:
    """What `condition()` gives, awaited if it is a coroutine, once that is true. Raises TimeoutError; it says `why()`."""
    try:
        async with asyncio.timeout(timeout_s) as limit:
            while True:
                found, pause_s = condition(), LOOK_S
                if inspect.iscoroutine(found):
                    found, pause_s = await found, ASK_S
                if found:
                    return found
                await asyncio.sleep(pause_s)
    except TimeoutError:
        if why is None or not limit.expired():
            raise
        raise TimeoutError(why()) from None


def wait_until(condition: Callable[[], T], timeout_s: float = 30.0, why: Callable[[], object] | None = None) -> T:
    """As `until`, for tests that are no coroutines: it blocks."""
    end = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() > end:
            raise TimeoutError(*(() if why is None else (why(),)))
        time.sleep(ASK_S)
    return found


async def settle(turns: int = 20) -> None:
    """Let whatever can happen now happen."""
    for _ in range(turns):
        await asyncio.sleep(0)
