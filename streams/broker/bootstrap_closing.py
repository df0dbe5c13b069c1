"""Closes the first connection of a client that is stopped while it bootstraps.

After `close_cut_bootstraps`, aiokafka's clients close the connections they opened if `bootstrap` ends with an error.
Without it, a cancelled `bootstrap` forgets its connection, and the broker keeps it open until the garbage collector
runs.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import aiokafka.client
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection, create_conn

_opened: ContextVar[list[AIOKafkaConnection] | None] = ContextVar("opened", default=None)
_usual = AIOKafkaClient.bootstrap


async def _create_conn(*args: Any, **options: Any) -> AIOKafkaConnection:
    connection: AIOKafkaConnection = await create_conn(*args, **options)
    opened = _opened.get()
    if opened is not None:
        opened.append(connection)
    return connection


async def _bootstrap(self: Any) -> None:
    opened: list[AIOKafkaConnection] = []
    token = _opened.set(opened)
    try:
        await _usual(self)
    except BaseException:
        for connection in opened:
            connection.close()
        raise
    finally:
        _opened.reset(token)


def close_cut_bootstraps() -> None:
    """Apply to this process from now on. Idempotent."""
    aiokafka.client.create_conn = _create_conn
    AIOKafkaClient.bootstrap = _bootstrap
