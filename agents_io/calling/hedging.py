"""Hedging: if the first call takes long, a second one starts beside it; the first answer wins and the other call is
cancelled at the agent.

In: how to make the first call, how long to wait, how to start a second one. Out: the answer, and the outcome of the
first call alone. Limits and counts belong to the caller that starts the second call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from agents_io.errors import AgentError
from agents_io.transport import Answer

Calling = Coroutine[Any, Any, Answer]


class Race(NamedTuple):
    """`end`: the answer or the error. `first`: the outcome of the first call, None if it was cut off."""

    end: Answer | AgentError
    first: Answer | AgentError | None


async def race(first: Calling, patience_s: float, second: Callable[[], Calling | None]) -> Race:
    """Wait for the first answer. Fails only if both calls failed, with the error of the first.

    Other errors than `AgentError` pass through, also `asyncio.CancelledError`. No call is left running.
    """
    one = asyncio.create_task(first)
    running = [one]
    try:
        await asyncio.wait(running, timeout=patience_s)
        if not one.done() and (calling := second()) is not None:
            running.append(asyncio.create_task(calling))
        left = set(running)
        winner: asyncio.Task[Answer] | None = None
        while left and winner is None:
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            winner = next((task for task in running if task in done and _failed(task) is None), None)
        if winner is not None:
            return Race(winner.result(), (_failed(one) or one.result()) if one.done() else None)
        why = _failed(one)
        assert why is not None  # noqa: S101 - every call ended, and none with an answer
        return Race(why, why)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _failed(task: asyncio.Task[Answer]) -> AgentError | None:
    """The `AgentError` a call ended with; None for an answer. Raises any other error."""
    error = task.exception()
    if error is None or isinstance(error, AgentError):
        return error
    raise error
