"""Ends TLS connections to brokers soon after they are closed.

After `cut_slow_ends`, aiokafka's connections are cut `GRACE_S` after they were closed. Both event loops wait up to 30 s
for the other side's close_notify, uvloop nearly always when a response was still on its way, and aiokafka waits with
them. A partition that reads its state, or a page that searches a task, would hang for as long. Everything that matters
has been answered when a connection is closed.
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
    """Apply to this process from now on. Idempotent."""
    AIOKafkaConnection.close = _close
