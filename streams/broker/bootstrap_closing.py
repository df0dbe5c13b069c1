"""Closes the first connection of a client that is stopped while it uses it.

In: nothing. Out: aiokafka's clients, once `close_cut_bootstraps` was called, close what they had opened when their `bootstrap`
ends with an error. As it is, a cancelled one forgets its connection, and a broker keeps that open until the garbage collector
comes by.
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
    """From now on, in this process. Idempotent."""
    aiokafka.client.create_conn = _create_conn
    AIOKafkaClient.bootstrap = _bootstrap
