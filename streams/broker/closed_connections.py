"""Fails requests on connections that the broker has just closed.

After `fail_on_closed`, aiokafka's `send` raises `KafkaConnectionError` on a connection whose transport is closing. aiokafka
learns of a reset a turn of the loop after the transport does. What is sent in between uvloop refuses with a
`RuntimeError`, which aiokafka expects nowhere: it ended the task that updates the metadata, and the client waited for it
for ever. asyncio drops what is sent, and the request waits for its timeout.
"""

from __future__ import annotations

from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError

_send = AIOKafkaConnection.send
_send_token = AIOKafkaConnection._send_sasl_token


def _refuse_if_closed(connection: Any) -> None:
    if connection._writer is not None and connection._writer.is_closing():
        connection.close(reason=CloseReason.CONNECTION_BROKEN)
        raise KafkaConnectionError(f"Connection at {connection.host}:{connection.port} closed")


def _checked_send(self: Any, request: Any, expect_response: bool = True) -> Any:
    _refuse_if_closed(self)
    return _send(self, request, expect_response)


def _checked_send_token(self: Any, payload: bytes, expect_response: bool = True) -> Any:
    _refuse_if_closed(self)
    return _send_token(self, payload, expect_response)


def fail_on_closed() -> None:
    """Apply to this process from now on. Idempotent."""
    AIOKafkaConnection.send = _checked_send
    AIOKafkaConnection._send_sasl_token = _checked_send_token
