"""Gives a producer another sender class: aiokafka makes its own and accepts none."""

from __future__ import annotations

from typing import Any, TypeVar

from aiokafka import AIOKafkaProducer
from aiokafka.producer.sender import Sender

S = TypeVar("S", bound=Sender)


def replace_sender(producer: AIOKafkaProducer, kind: type[S]) -> S:
    """Give a producer that is not started yet a sender of that class, with the same arguments; returns the sender."""
    given: Any = producer._sender
    sender: S = kind(
        producer.client,
        acks=given._acks,
        txn_manager=given._txn_manager,
        message_accumulator=given._message_accumulator,
        retry_backoff_ms=round(given._retry_backoff * 1000),
        request_timeout_ms=given._request_timeout_ms,
    )
    producer._sender = sender
    return sender
