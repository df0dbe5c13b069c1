"""Makes the committers of a role's partitions: shares in its transactions, or plain ones for a broker without
transactions.

In: the engine's configuration. Out: a committer for each partition that opens. Closed after the engine.
"""

from __future__ import annotations

from collections.abc import Callable

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from streams.engine.batcher import Batcher
from streams.engine.commit import Committer, PlainCommitter
from streams.engine.config import EngineConfig
from streams.engine.transactor import kafka_transactions


class Committers:
    """The committers of one role. `state`: the topic (short name) that every commit writes to."""

    def __init__(
        self,
        config: EngineConfig,
        state: str,
        batcher: Batcher,
        *,
        transactional: bool,
        interval_max_s: float,
        producer: Callable[[], AIOKafkaProducer],
        is_current: Callable[[], bool],
    ) -> None:
        """`producer`: that of plain committers when a partition opens. `is_current`: see `Engine.is_current`."""
        self._state = state
        self._batcher = batcher
        self._interval_max_s = interval_max_s
        self._producer = producer
        self._transactions = (
            kafka_transactions(config, state, batcher, interval_max_s, is_current) if transactional else None
        )

    def make(self, number: int, consumer: AIOKafkaConsumer) -> Committer:
        """The committer of one partition, while it is open."""
        if self._transactions is not None:
            return self._transactions.partition(number, consumer)
        return PlainCommitter(
            self._producer(), consumer, self._batcher, interval_max_s=self._interval_max_s, state=self._state
        )

    async def close(self) -> None:
        if self._transactions is not None:
            await self._transactions.close()
