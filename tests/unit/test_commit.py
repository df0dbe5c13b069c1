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
from streams.rules.records import Output


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


class WritingDown:
    """A batcher that keeps what it is given, and what was acknowledged by then."""

    def __init__(self) -> None:
        self.sent: list[list[str]] = []

    async def send(self, producer: object, outputs: list[Output]) -> list[Any]:
        """Keep the topics."""
        self.sent.append([output.topic for output in outputs])
        return []


async def test_without_transactions_what_is_remembered_is_written_after_what_was_done() -> None:
    """A worker that dies in between does it again; the other way round nobody would."""
    batcher = WritingDown()
    committer = PlainCommitter(cast("Any", None), cast("Any", None), cast("Batcher", batcher), "plan-state")
    await committer.commit([Output("plan-state", b"k", b"v"), Output("plan-results", b"k", b"v")], {})
    assert batcher.sent == [["plan-results"], ["plan-state"]]
