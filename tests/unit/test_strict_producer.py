"""What the transactional producer repeats in place, and what it must not: aiokafka's handlers over a client that is scripted."""

from __future__ import annotations

import asyncio
from collections import deque
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.errors import (
    CorrelationIdError,
    IncompatibleBrokerVersion,
    KafkaConnectionError,
    NodeNotReadyError,
    RequestTimedOutError,
)
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from streams.engine.faults import passing
from streams.engine.strict_producer import (
    OutcomeUnknown,
    StrictProducer,
    _AddOffsets,
    _AddPartitions,
    _CommitOffsets,
    _EndTxn,
)

TP = TopicPartition("t.tasks", 0)
LOST = (
    RequestTimedOutError(),
    KafkaConnectionError("reset"),
    CorrelationIdError("mixed up"),
    ConnectionResetError(),
    TimeoutError(),
)
CONCURRENT, LOADING, MOVED, TIMED_OUT, FINE = 51, 14, 16, 7, 0


class Client:
    """Answers as scripted and counts what was sent."""

    def __init__(self, *script: Any) -> None:
        self.script = deque(script)
        self.sent: list[str] = []

    async def send(self, node_id: int, request: Any, *, group: Any = None) -> Any:
        """The next of the script."""
        self.sent.append(type(request).__name__)
        said = self.script.popleft()
        if isinstance(said, BaseException):
            raise said
        return SimpleNamespace(error_code=said, errors=[(TP.topic, [(TP.partition, said)])])


class Transaction:
    """What a handler tells the transaction manager."""

    def __init__(self) -> None:
        self.transactional_id, self.producer_id, self.producer_epoch = "id", 1, 2
        self.txn_partitions: set[TopicPartition] = set()
        self.did: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *given: self.did.append(name)


HANDLERS = {
    "AddPartitionsToTxnRequest": lambda sender: _AddPartitions(sender, {TP}),
    "AddOffsetsToTxnRequest": lambda sender: _AddOffsets(sender, "g"),
    "TxnOffsetCommitRequest": lambda sender: _CommitOffsets(sender, {TP: OffsetAndMetadata(1, "")}, "g"),
    "EndTxnRequest": lambda sender: _EndTxn(sender, 1),
}


def sending(client: Client) -> Any:
    """aiokafka's sender as far as a handler looks at it."""
    return SimpleNamespace(
        client=client, _retry_backoff=0.0, _txn_manager=Transaction(), _coordinator_dead=lambda kind: None
    )


@pytest.mark.parametrize("request_name", HANDLERS)
@pytest.mark.parametrize("lost", LOST, ids=lambda error: type(error).__name__)
async def test_a_request_whose_answer_is_lost_is_sent_once(request_name: str, lost: BaseException) -> None:
    """However the answer was lost: the request may still be on its way, and would arrive in the next transaction."""
    client = Client(lost)
    with pytest.raises(OutcomeUnknown, match=request_name) as caught:
        await HANDLERS[request_name](sending(client)).do(1)
    assert client.sent == [request_name]
    assert passing(caught.value), "a new start finds out what happened: no reason to end the worker"


@pytest.mark.parametrize("request_name", HANDLERS)
@pytest.mark.parametrize("code", [CONCURRENT, LOADING, MOVED])
async def test_what_the_coordinator_answered_may_be_repeated(request_name: str, code: int) -> None:
    """It is not on its way any more. A node that could not be reached was sent nothing at all."""
    if code == CONCURRENT and request_name == "TxnOffsetCommitRequest":
        code = LOADING  # a group's coordinator knows no concurrent transactions
    client = Client(NodeNotReadyError(), code, FINE)
    sender = sending(client)
    done = [await HANDLERS[request_name](sender).do(1) for _ in range(3)]
    assert done == [False, False, True]
    assert len(sender._txn_manager.did) == 1


@pytest.mark.parametrize("request_name", ["TxnOffsetCommitRequest"])
async def test_a_coordinator_that_timed_out_itself_knows_no_more(request_name: str) -> None:
    """aiokafka takes this answer for one that says "not done"."""
    client = Client(TIMED_OUT)
    with pytest.raises(OutcomeUnknown):
        await HANDLERS[request_name](sending(client)).do(1)
    assert len(client.sent) == 1


async def test_a_broker_that_is_too_old_is_no_lost_answer() -> None:
    """Nothing was sent; no new start helps."""
    with pytest.raises(IncompatibleBrokerVersion):
        await HANDLERS["EndTxnRequest"](sending(Client(IncompatibleBrokerVersion("old")))).do(1)


async def test_the_producer_ends_at_the_first_lost_answer() -> None:
    """Nothing more is sent in this epoch; whoever waits for the commit hears why."""
    client = Client(FINE, RequestTimedOutError())
    producer = StrictProducer(bootstrap_servers="127.0.0.1:1", transactional_id="id", retry_backoff_ms=5)
    sender = producer._sender
    assert sender._retry_backoff == 0.005
    manager = sender._txn_manager
    manager.set_pid_and_epoch(1, 2)
    sender.client = cast("Any", client)
    sender._find_coordinator = lambda *_: asyncio.sleep(0, 1)
    await sender.start()
    try:
        await producer.begin_transaction()
        waiting = asyncio.ensure_future(producer.send_offsets_to_transaction({TP: OffsetAndMetadata(1, "")}, "g"))
        with pytest.raises(OutcomeUnknown):
            await waiting
        await asyncio.wait([sender.sender_task], timeout=5)
        assert client.sent == ["AddOffsetsToTxnRequest", "TxnOffsetCommitRequest"]
        assert manager.wait_for_transaction_end().exception() is not None
    finally:
        sender.client = producer.client
        await producer.stop()
