"""How far a loop's clock lags behind the true time."""

from __future__ import annotations

import asyncio

LAG_S = 0.001
"""uvloop's clock counts whole milliseconds, rounded down."""


def clock_lag_s(loop: asyncio.AbstractEventLoop) -> float:
    """Upper bound, in seconds, by which the loop's `time()` may lag behind the true time at which a turn of the loop
    began.
    """
    return LAG_S if type(loop).__module__.partition(".")[0] == "uvloop" else 0.0
