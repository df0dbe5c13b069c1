"""What a failed commit says of itself: whether a wait may mend it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.errors import (
    IllegalOperation,
    KafkaError,
    NodeNotReadyError,
    NotEnoughReplicasError,
    ProducerFenced,
    TopicAuthorizationFailedError,
)

from streams.engine.batcher import Batcher
from streams.engine.commit import Commit, CommitFailed, PlainCommitter
from streams.engine.faults import describe_error, is_transient
from streams.engine.member_offsets import NotAMember
from streams.engine.membership import Membership
from streams.engine.strict_producer import OutcomeUnknown
from streams.engine.transactor import KafkaTransactor
from streams.rules.records import Output

MEMBER = Membership(3, "member")


class FailingProducer:
    """Its transactions and batches end in this. `cause`: what aiokafka knows of the transaction's end and does not say."""

    def __init__(self, error: Exception, cause: Exception | None = None, end_asked: bool = False) -> None:
        self.error = error
        self.end_asked, self._end_asked = True, end_asked  # that of the last one
        waiter = asyncio.get_running_loop().create_future() if cause else None
        if waiter is not None:
            waiter.set_exception(cause)
        self._txn_manager = SimpleNamespace(_transaction_waiter=waiter)

    async def start(self) -> None:
        """Starts."""

    async def begin_transaction(self) -> None:
        """Begins."""

    async def finish_transaction(self, batches: Any, *_: Any) -> None:
        """Fails."""
        batches.close()
        self.end_asked = self._end_asked
        raise self.error


async def run(producer: FailingProducer) -> None:
    """One transaction with this producer."""
    made = KafkaTransactor(
        {}, transactional_id="id", group="group", prefix="t.", state="state", batcher=cast("Batcher", FailingBatcher())
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streams.engine.transactor.StrictProducer", lambda **_: producer)
        await made.start()
    await made.run([commit()], MEMBER)


def commit(*outputs: Output) -> Commit:
    """Of partition 0."""
    return Commit(0, outputs, {})


class FailingBatcher:
    """No batch is taken."""

    async def send(self, producer: FailingProducer, outputs: object) -> None:
        """Fails."""
        raise producer.error


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (NodeNotReadyError(), True),
        (NotEnoughReplicasError(), True),
        (KafkaError("Unexpected error during batch delivery"), True),
        (TopicAuthorizationFailedError("results"), False),
        (AssertionError("a state nobody expected"), False),
    ],
)
async def test_a_failed_commit_tells_whether_waiting_helps(error: Exception, transient: bool) -> None:
    """Brokers that are away pass; refusals, being fenced and faults of our own do not. In both kinds of commit."""
    producer = FailingProducer(error)
    plain = PlainCommitter(
        cast("Any", producer), cast("Any", None), cast("Batcher", FailingBatcher()), interval_max_s=0.01
    )
    for attempt in (run(producer), plain.commit(commit)):
        with pytest.raises(CommitFailed) as caught:
            await attempt
        assert caught.value.transient is transient


@pytest.mark.parametrize(
    ("error", "end_asked", "outcome"),
    [
        (NotEnoughReplicasError(), False, "again"),
        (TopicAuthorizationFailedError("results"), False, "again"),
        (OutcomeUnknown("AddOffsetsToTxnRequest", TimeoutError()), False, "again"),
        (OutcomeUnknown("EndTxnRequest", TimeoutError()), True, "unknown"),
        (ProducerFenced(), False, "again"),
        (ProducerFenced(), True, "unknown"),
        (AssertionError("a state nobody expected"), True, ""),
        (NotAMember("over"), False, ""),
    ],
)
async def test_a_transaction_is_run_again_only_if_it_cannot_have_come_about(
    error: Exception, end_asked: bool, outcome: str
) -> None:
    """Nor if the group says that somebody else owns its partitions."""
    with pytest.raises(CommitFailed) as caught:
        await run(FailingProducer(error, end_asked=end_asked))
    assert caught.value.again is (outcome == "again")
    assert caught.value.unknown is (outcome == "unknown")


async def test_a_refusal_is_told_where_aiokafka_only_says_that_there_is_no_transaction() -> None:
    """Nor is it taken for something that passes."""
    cause = TopicAuthorizationFailedError({"p.results"})
    producer = FailingProducer(IllegalOperation("Can't send messages while not in transaction"), cause)
    with pytest.raises(CommitFailed, match=r"^id: Kafka refuses access to topic p\.results; what is needed") as caught:
        await run(producer)
    assert not caught.value.transient


def test_a_refusal_that_aiokafka_wrapped_does_not_pass() -> None:
    """Its own errors say nothing of their cause."""
    wrapped = KafkaError("Unexpected error during batch delivery")
    assert is_transient(wrapped)
    wrapped.__cause__ = TopicAuthorizationFailedError("p.tasks")
    assert not is_transient(wrapped)
    assert describe_error(wrapped).startswith("Kafka refuses access to topic p.tasks;")


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
    committer = PlainCommitter(
        cast("Any", None), cast("Any", None), cast("Batcher", batcher), interval_max_s=0.01, state="plan-state"
    )
    await committer.commit(lambda: commit(Output("plan-state", b"k", b"v"), Output("plan-results", b"k", b"v")))
    assert batcher.sent == [["plan-results"], ["plan-state"]]
