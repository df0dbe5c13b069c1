"""The Faust app of statistics: one agent, one table, no web server, no global state.

In: settings, the client options and the carrier. Out: an app that reads `data-points`, recovers the table and commits
by our ledger. It never creates topics, directories or servers, and never configures logging.
"""

from __future__ import annotations

from typing import Any

import faust
from aiokafka import AIOKafkaProducer

from schemas.access import role_group
from schemas.topics import full_name
from streams.engine.batcher import Batcher
from streams.settings import Settings
from streams.statistics.assignor import StatsAssignor
from streams.statistics.table import CHANGELOG, StatsTable
from streams.statistics.transport import Carrier, LedgerConsumer, StatsTransport

COMMIT_INTERVAL_S = 1.0
MAX_POLL_RECORDS = 2000


class StatsApp(faust.App):
    """A Faust app on our transport. `carrier`: counts the points; `source_topic`: the full name of `data-points`.

    `address`: this worker's address for queries; it travels with the group's assignment.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        client_options: dict[str, Any],
        idempotent: bool,
        carrier: Carrier,
        partitions: int,
        address: str = "",
    ) -> None:
        self.client_options = client_options
        self.idempotent = idempotent
        self.carrier = carrier
        self.source_topic = full_name("data-points", settings.topic_prefix)
        self.changelog_topic = full_name(CHANGELOG, settings.topic_prefix)
        self.batcher = Batcher(settings.topic_prefix)
        session_s = settings.session_timeout / 1000
        super().__init__(
            group_id(settings),
            broker=f"kafka://{settings.bootstrap_servers.split(',')[0]}",
            store="memory://",
            PartitionAssignor=StatsAssignor,
            autodiscover=False,
            web_enabled=False,
            canonical_url=address or f"http://{settings.web_host}:{settings.web_port}",
            topic_allow_declare=False,
            topic_disable_leader=True,
            topic_partitions=partitions,
            # A standby's rows would be in the same table as our own, count as ours and be closed by our clock.
            table_standby_replicas=0,
            consumer_group_instance_id=None if settings.instance_id is None else f"{settings.instance_id}-stats",
            consumer_auto_offset_reset="earliest",
            broker_session_timeout=session_s,
            broker_heartbeat_interval=session_s / 4,
            broker_request_timeout=max(settings.kafka.request_timeout / 1000, session_s + 1),
            broker_rebalance_timeout=max(session_s, 30.0),
            broker_commit_interval=COMMIT_INTERVAL_S,
            broker_max_poll_records=MAX_POLL_RECORDS,
            stream_wait_empty=False,
            stream_recovery_delay=0.0,
        )
        self.points = self.topic(
            self.source_topic, key_type=bytes, value_type=bytes, value_serializer="raw", allow_empty=True
        )
        self.table = StatsTable(app=self, batcher=self.batcher, topic=self.changelog_topic, partitions=partitions)
        self.tables.add(self.table)

    def _new_transport(self) -> StatsTransport:
        return StatsTransport(self.conf.broker_consumer, self, loop=self.loop)

    def _new_producer_transport(self) -> StatsTransport:
        return StatsTransport(self.conf.broker_producer, self, loop=self.loop)

    def _create_directories(self) -> None:
        """Nothing is kept on disk."""

    @property
    def raw_producer(self) -> AIOKafkaProducer:
        """The aiokafka producer under Faust's. Only after start."""
        producer: Any = self.producer
        return producer._ensure_producer()

    def owners(self) -> dict[int, str]:
        """Partition -> address of the worker that owns it, from the last assignment."""
        assignor: Any = self.assignor
        shared: dict[str, dict[str, list[int]]] = assignor.changelog_distribution
        return {number: url for url, topics in shared.items() for number in topics.get(self.changelog_topic, ())}

    @property
    def ledger(self) -> LedgerConsumer:
        """The consumer, with its own type."""
        consumer: Any = self.consumer
        if not isinstance(consumer, LedgerConsumer):
            raise TypeError("the app's transport was replaced")
        return consumer


def group_id(settings: Settings) -> str:
    """The consumer group of statistics."""
    return role_group(settings.app_id, "stats", settings.topic_prefix)
