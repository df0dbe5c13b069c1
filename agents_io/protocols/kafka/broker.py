"""The port to Kafka that calls to agents on topics need; the worker implements it with its connection settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.structs import ConsumerRecord


class Replies(Protocol):
    """A reader of the reply topic: committed records only, from the topic's end at its start."""

    async def start(self) -> None:
        """Start reading. Raises `KafkaError`, `TimeoutError`."""
        ...

    async def stop(self) -> None:
        """Stop reading, within bounded time."""
        ...


class Broker(Protocol):
    """The worker's brokers."""

    @property
    def reply_topic(self) -> str:
        """Full name of the topic on which agents answer all workers of this app."""
        ...

    def producer(self, max_request_bytes: int) -> AIOKafkaProducer:
        """A new producer, not started."""
        ...

    async def stop_producer(self, producer: AIOKafkaProducer) -> None:
        """Stop a producer within bounded time, also if the brokers are gone."""
        ...

    async def ensure_reply_topic(self) -> None:
        """Create the reply topic if it is missing. Raises `Unsupported`: it cannot be created; `InternalError`: no
        broker answers; `KafkaError`.
        """
        ...

    def replies(self, take: Callable[[ConsumerRecord], None]) -> Replies:
        """A reader that calls `take` with each reply."""
        ...
