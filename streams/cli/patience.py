"""How long `parallax submit --wait` waits: a fixed time if one is given, else as long as there is progress.

In: signs of progress, and the ids without a result, oldest first. Out: messages on stderr while there is no progress,
with the reason that a worker reports for the oldest id, or once why no worker reports any; `TimeoutError` at the end. A
rate limit that paces tasks is progress if a worker reports it, an absent agent is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from itertools import islice
from typing import TYPE_CHECKING, Any

from streams.cli.asking import ask_each
from streams.cli.options import CommandError
from streams.cli.output import say
from streams.cli.workers import found_workers
from streams.rules.live.explanation import reason_of

if TYPE_CHECKING:
    from streams.settings import Settings

PATIENCE_S = 120.0
"""Time without progress, if no timeout was given: longer than the default window of a rate limit and a call after it."""
TELL_S = 15.0
"""Time without a result before the reason is looked up and reported; repeated."""
LOOK_S = 0.5
ASK_S = 5.0
OLDEST = 10
"""Tasks that are looked up: later ones may be on their topic, where no worker knows them."""
MOVING = (
    "calling",
    "rate_limited",
    "retry_after",
    "concurrency",
    "turn",
    "ordering",
    "backoff",
    "equal_task_under_way",
)
"""Reasons that end by themselves: the task will get its turn."""


async def until_done(
    done: asyncio.Task[None],
    settings: Settings,
    signs: Callable[[], int],
    left: Callable[[], Collection[str]],
    timeout_s: float | None,
) -> None:
    """Wait for `done`. Raises `TimeoutError` after `timeout_s`, or if that is None after `PATIENCE_S` without progress.

    `signs`: a count that grows with each result and step; `left`: ids without a result, oldest first.
    """
    clock = asyncio.get_running_loop().time
    begun = moved = reported = clock()
    count, unheard = signs(), ""
    while not done.done():
        await asyncio.wait((done,), timeout=LOOK_S)
        now = clock()
        if signs() != count:
            count, moved, reported = signs(), now, now
        if timeout_s is not None and now - begun >= timeout_s:
            raise TimeoutError
        if now - reported >= TELL_S and not done.done():
            reported = now
            waiting, silent = await _waiting(settings, list(islice(left(), OLDEST)))
            _tell(len(left()), waiting)
            if silent and not unheard:
                say(f"no worker reports what they wait for: {silent}")
            unheard = unheard or silent
            if waiting is not None and waiting["reason"] in MOVING:
                moved = clock()
        if timeout_s is None and now - moved >= PATIENCE_S:
            raise TimeoutError
    await done


def _tell(left: int, waiting: dict[str, Any] | None) -> None:
    why = "" if waiting is None else f": {reason_of(waiting)}"
    say(f"{left} without a result yet{why}")


async def _waiting(settings: Settings, names: list[str]) -> tuple[dict[str, Any] | None, str]:
    """What the first of these ids that a worker holds waits for, as that worker reports it; and why no worker answers."""
    from urllib.parse import quote

    try:
        async with asyncio.timeout(ASK_S):
            workers = await found_workers(settings, [])
            for name in names:
                for _, body, _ in await ask_each(
                    settings, workers.urls, f"/api/v1/tasks/{quote(name, safe='')}/waiting"
                ):
                    if isinstance(body, dict) and isinstance(body.get("reason"), str):
                        return body, ""
    except CommandError as error:  # no token
        return None, str(error)
    except TimeoutError:
        return None, f"no answer within {ASK_S:g} s"
    return None, "" if workers.urls else "; ".join(f"{url}: {reason}" for url, reason in workers.silent.items())
