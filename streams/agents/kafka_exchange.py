"""The worker's connection to Kafka for calls to agents of protocol `kafka`.

In: settings. Out: producers, and readers of the app's reply topic `<prefix>replies.<app>`. The first call creates the
topic if it is missing: one partition, kept for an hour.
"""

from __future__ import annotations

from collections.abc import Callable

from aiokafka import AIOKafkaProducer
from aiokafka.structs import ConsumerRecord

from agents_io.errors import InternalError, Unsupported
from schemas.topics import HOUR_MS, full_name
from streams.broker.kafka import BrokerUnreachable, client_options
from streams.broker.topics_admin import TopicsError, ensure
from streams.engine.commit import stop_producer
from streams.engine.follower import Follower
from streams.settings import Settings

REPLY_CONFIG = {"cleanup.policy": "delete", "retention.ms": str(HOUR_MS)}


class KafkaExchange:
    """Implements `agents_io.protocols.kafka.broker.Broker`."""

    def __init__(self, settings: Settings) -> None:
        self.reply_topic = full_name(f"replies.{settings.app_id}", settings.topic_prefix)
        self._settings = settings
        self._options = client_options(settings)

    def producer(self, max_request_bytes: int) -> AIOKafkaProducer:
        return AIOKafkaProducer(**self._options, acks="all", max_request_size=max_request_bytes)

    async def stop_producer(self, producer: AIOKafkaProducer) -> None:
        await stop_producer(producer)

    async def ensure_reply_topic(self) -> None:
        try:
            await ensure(self._settings, self.reply_topic, 1, REPLY_CONFIG)
        except TopicsError as error:
            raise Unsupported(f"topic {self.reply_topic} is missing and cannot be created: {error}") from None
        except BrokerUnreachable as error:
            raise InternalError(f"this worker cannot reach agents on Kafka: {error}") from error

    def replies(self, take: Callable[[ConsumerRecord], None]) -> Follower:
        return Follower(self._options, self.reply_topic, take, from_end=True)
