"""How far a loop's clock lags behind the true time."""

from __future__ import annotations

import asyncio

LAG_S = 0.001
"""uvloop's clock has whole milliseconds, cut off."""


def clock_lag_s(loop: asyncio.AbstractEventLoop) -> float:
    """By how many seconds the loop's `time()` may lie before the true time at which a turn of it began."""
    return LAG_S if type(loop).__module__.partition(".")[0] == "uvloop" else 0.0
