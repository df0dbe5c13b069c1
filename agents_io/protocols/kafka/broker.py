"""The brokers as calls to agents on topics need them: a port that the worker satisfies with its own connection settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.structs import ConsumerRecord


class Replies(Protocol):
    """A reader of the reply topic, committed records alone, from where the topic ends when it starts."""

    async def start(self) -> None:
        """Read. Raises `KafkaError`, `TimeoutError`."""
        ...

    async def stop(self) -> None:
        """Read no more, within a bound."""
        ...


class Broker(Protocol):
    """The worker's brokers."""

    @property
    def reply_topic(self) -> str:
        """Where agents answer all workers of this app; its name on the broker."""
        ...

    def producer(self, max_request_bytes: int) -> AIOKafkaProducer:
        """A producer that is not started."""
        ...

    async def stop_producer(self, producer: AIOKafkaProducer) -> None:
        """Stop one within a bound, also when the brokers are gone."""
        ...

    async def ensure_reply_topic(self) -> None:
        """Make it if it is missing. Raises `Unsupported`: it cannot be made; `InternalError`: no broker answers; `KafkaError`."""
        ...

    def replies(self, take: Callable[[ConsumerRecord], None]) -> Replies:
        """A reader that gives each reply to `take`."""
        ...
