"""TLS connections to brokers end soon after they are closed.

In: nothing. Out: aiokafka's connections, once `cut_slow_ends` was called, are cut `GRACE_S` after they were closed. Both event
loops wait up to 30 s for the other side's farewell, uvloop nearly always when an answer was still on its way, and aiokafka
waits with them: a partition that reads its memory, or a page that looks for a task, would stand still for as long. Whatever
matters has been answered by the time a connection is closed.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka.conn import AIOKafkaConnection

GRACE_S = 0.25
_usual = AIOKafkaConnection.close


def _close(self: Any, reason: Any = None, exc: BaseException | None = None) -> Any:
    encrypted = self._writer is not None and self._security_protocol.endswith("SSL")
    transport = self._writer.transport if encrypted else None
    ended = _usual(self, reason, exc)
    if transport is not None and not self._loop.is_closed():
        loop: asyncio.AbstractEventLoop = self._loop
        loop.call_later(GRACE_S, transport.abort)
    return ended


def cut_slow_ends() -> None:
    """From now on, in this process. Idempotent."""
    AIOKafkaConnection.close = _close
