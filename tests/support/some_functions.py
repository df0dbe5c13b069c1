"""Functions for tests, as a user would write them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from agents_io.errors import Refused
from agents_io.protocols.functions.catalogue import current_call, function


@function("double")
def double(payload: Any) -> Any:
    """In a thread."""
    return payload["n"] * 2


@function("sure")
async def sure(payload: Any) -> Any:
    """On the loop, with a confidence."""
    await asyncio.sleep(0)
    return payload["text"].upper(), 0.75


@function("picky")
def picky(payload: Any) -> Any:
    """Another try cannot help."""
    raise Refused("n must be positive")


@function("broken")
def broken(payload: Any) -> Any:
    """A bug."""
    raise KeyError("missing")


@function("who")
def who(payload: Any) -> Any:
    """Which call it is in."""
    call = current_call()
    return [call.task_id, call.idempotency_key]


@function("hung")
def hung(payload: Any) -> Any:
    """Nobody can end this."""
    time.sleep(payload.get("seconds", 3600))
    return "late"
