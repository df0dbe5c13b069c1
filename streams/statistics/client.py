"""The aiokafka clients under Faust's driver, built with our options.

In: the app's client options. Out: a consumer thread that reads committed records only and raises commit errors; a
producer, idempotent if the broker allows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.structs import OffsetAndMetadata
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams.engine.group import METADATA_MAX_AGE_MS
from streams.statistics.owners_sender import guard

FETCH_MIN_BYTES = 64 * 1024
FETCH_WAIT_MS = 200
"""A fetch costs as much CPU as three points, and dispatch waits meanwhile: it returns a full batch, or what came within
this time.
"""


class StatsConsumerThread(driver.AIOKafkaConsumerThread):
    """The fetching thread, with our client options, reading committed records only."""

    app: Any

    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:
        app, conf = self.app, self.app.conf
        self._assignor = app.assignor
        consumer = AIOKafkaConsumer(
            **app.client_options,
            client_id=f"{conf.id}-{conf.consumer_group_instance_id or 'member'}",
            group_id=conf.id,
            group_instance_id=conf.consumer_group_instance_id,
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            max_poll_records=conf.broker_max_poll_records,
            max_poll_interval_ms=int(conf.broker_max_poll_interval * 1000),
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
            fetch_min_bytes=FETCH_MIN_BYTES,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            # How soon a topic is found that was missing at the last assignment.
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
        )
        app.assignor.asks_again = lambda: consumer._coordinator.request_rejoin()
        return consumer

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """Raises `KafkaError`. Faust would crash the app for errors that the next commit does not have."""
        assigned = self.assignment()
        wanted = {
            TopicPartition(*tp): OffsetAndMetadata(offset, "") for tp, offset in offsets.items() if tp in assigned
        }
        await self._ensure_consumer().commit(wanted)
        return True


class StatsProducer(driver.Producer):
    """Faust's producer built with our client options; idempotent where the broker can."""

    app: Any

    def _new_producer(self, transactional_id: str | None = None) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **self.app.client_options,
            client_id=f"{self.app.conf.id}-producer",
            acks="all",
            enable_idempotence=self.app.idempotent,
            max_batch_size=512 * 1024,
            max_request_size=12 * 1024 * 1024,
        )
        return guard(
            producer,
            self.app.changelog_topic,
            lambda since: self.app.consumer.holds_partitions(since),
            lambda: self.app.consumer.confirm_ownership(),
        )

    async def create_topic(self, topic: str, *args: Any, **kwargs: Any) -> None:
        """Topics are created before the app starts, never by it."""
