"""What a failed commit says of itself: whether a wait may mend it."""

from __future__ import annotations

from typing import Any, cast

import pytest
from aiokafka.errors import (
    KafkaError,
    NodeNotReadyError,
    NotEnoughReplicasError,
    ProducerFenced,
    TopicAuthorizationFailedError,
)

from streams.engine.batcher import Batcher
from streams.engine.commit import Fenced, PlainCommitter, TransactionalCommitter


class FailingProducer:
    """Its transactions and batches end in this."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def begin_transaction(self) -> None:
        """Fails."""
        raise self.error


class FailingBatcher:
    """No batch is taken."""

    async def send(self, producer: FailingProducer, outputs: object) -> None:
        """Fails."""
        raise producer.error


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (NodeNotReadyError(), True),
        (NotEnoughReplicasError(), True),
        (KafkaError("Unexpected error during batch delivery"), True),
        (TopicAuthorizationFailedError("results"), False),
        (ProducerFenced(), False),
        (AssertionError("a state nobody expected"), False),
    ],
)
async def test_a_failed_commit_tells_whether_waiting_helps(error: Exception, passing: bool) -> None:
    """Brokers that are away pass; refusals, being fenced and faults of our own do not. In both kinds of commit."""
    producer, batcher = cast("Any", FailingProducer(error)), cast("Batcher", FailingBatcher())
    transactional = TransactionalCommitter({}, "id", "group", batcher)
    transactional._producer = producer
    for committer in (transactional, PlainCommitter(producer, cast("Any", None), batcher)):
        with pytest.raises(Fenced) as caught:
            await committer.commit([], {})
        assert caught.value.passing is passing
