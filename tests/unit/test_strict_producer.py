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
    TopicAuthorizationFailedError,
)
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from streams.engine.faults import is_transient
from streams.engine.member_offsets import MemberOffsets, NotAMember
from streams.engine.membership import Membership
from streams.engine.strict_producer import (
    CONCURRENT_PAUSE_S,
    OutcomeUnknown,
    StrictProducer,
    _AddOffsets,
    _AddPartitions,
    _CommitOffsets,
    _EndTxn,
)

pytestmark = pytest.mark.virtual_time

TP = TopicPartition("t.tasks", 0)
MEMBER = Membership(3, "member")
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
        tags: tuple[dict[int, bytes], ...] = ({},) if isinstance(request, MemberOffsets) else ()
        return SimpleNamespace(error_code=said, errors=[(TP.topic, [(TP.partition, said, *tags)], *tags)])


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
    "MemberOffsets": lambda sender: _CommitOffsets(
        sender=sender, offsets={TP: OffsetAndMetadata(1, "")}, group_id="g", member=MEMBER
    ),
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
    assert is_transient(caught.value), "a new start finds out what happened: no reason to end the worker"


@pytest.mark.parametrize("request_name", HANDLERS)
@pytest.mark.parametrize("code", [CONCURRENT, LOADING, MOVED])
async def test_what_the_coordinator_answered_may_be_repeated(request_name: str, code: int) -> None:
    """It is not on its way any more. A node that could not be reached was sent nothing at all."""
    if code == CONCURRENT and request_name == "MemberOffsets":
        code = LOADING  # a group's coordinator knows no concurrent transactions
    client = Client(NodeNotReadyError(), code, FINE)
    sender = sending(client)
    done = [await HANDLERS[request_name](sender).do(1) for _ in range(3)]
    assert done == [False, False, True]
    assert len(sender._txn_manager.did) == 1


@pytest.mark.parametrize("request_name", ["MemberOffsets"])
async def test_a_coordinator_that_timed_out_itself_knows_no_more(request_name: str) -> None:
    """aiokafka takes this answer for one that says "not done"."""
    client = Client(TIMED_OUT)
    with pytest.raises(OutcomeUnknown):
        await HANDLERS[request_name](sending(client)).do(1)
    assert len(client.sent) == 1


@pytest.mark.parametrize("code", [22, 25, 27, 82])
async def test_offsets_of_a_generation_that_is_over_are_refused(code: int) -> None:
    """The partitions may have another owner: nothing of the transaction is ended, and it is not sent again."""
    async with Rig(FINE, code) as one:
        with pytest.raises(NotAMember, match=f"code {code}"):
            await one.finish()
        assert one.client.sent == ["AddOffsetsToTxnRequest", "MemberOffsets"]
        assert not one.producer.end_asked


async def test_offsets_are_sent_once_the_transaction_has_its_partitions() -> None:
    """Whoever finds them unstable finds the transaction by its partitions, and could not end it otherwise."""
    async with Rig(FINE, FINE, FINE, FINE) as one:
        loop = asyncio.get_running_loop()
        queueing = loop.create_future()

        async def queue() -> list[Any]:
            await queueing
            one.manager.maybe_add_partition_to_txn(TP)
            return []

        finishing = asyncio.ensure_future(
            one.producer.finish_transaction(queue(), {TP: OffsetAndMetadata(1, "")}, "g", MEMBER)
        )
        await asyncio.sleep(0.05)
        assert one.client.sent == ["AddOffsetsToTxnRequest"]
        queueing.set_result(None)
        await asyncio.wait([finishing], timeout=5)
        assert one.client.sent[1:] == ["AddPartitionsToTxnRequest", "MemberOffsets", "EndTxnRequest"]
        assert one.producer.end_asked


def test_the_member_is_named_with_its_offsets() -> None:
    """In the bytes of TxnOffsetCommit v3: a coordinator takes offsets without a member from anybody."""
    manager = SimpleNamespace(transactional_id="id", producer_id=7, producer_epoch=1)
    request = MemberOffsets(
        manager=manager, group="g", member=Membership(3, "member", "static"), offsets={TP: OffsetAndMetadata(5, "map")}
    )
    struct = request.prepare({28: (0, 5)})
    assert struct.API_VERSION == 3
    assert struct.encode() == (
        b"\x03id\x02g" + (7).to_bytes(8, "big") + b"\x00\x01" + (3).to_bytes(4, "big") + b"\x07member\x07static"
        + b"\x02\x08t.tasks\x02" + (0).to_bytes(4, "big") + (5).to_bytes(8, "big") + b"\xff\xff\xff\xff\x04map\x00\x00\x00"
    )  # fmt: skip


async def test_a_broker_that_is_too_old_is_no_lost_answer() -> None:
    """Nothing was sent; no new start helps."""
    with pytest.raises(IncompatibleBrokerVersion):
        await HANDLERS["EndTxnRequest"](sending(Client(IncompatibleBrokerVersion("old")))).do(1)


class Rig:
    """A producer whose client is scripted, in a transaction."""

    def __init__(self, *script: Any) -> None:
        self.client = Client(*script)
        self.producer = StrictProducer(bootstrap_servers="127.0.0.1:1", transactional_id="id", retry_backoff_ms=5)
        self.sender = self.producer._sender
        self.manager = self.sender._txn_manager
        self.manager.set_pid_and_epoch(1, 2)
        self.sender.client = cast("Any", self.client)
        self.sender._find_coordinator = lambda *_: asyncio.sleep(0, 1)

    async def __aenter__(self) -> Rig:
        await self.sender.start()
        await self.producer.begin_transaction()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.sender.client = self.producer.client
        async with asyncio.timeout(2):
            await self.producer.stop()

    async def finish(self, batches: Any = ()) -> None:
        """End the transaction, with an offset."""
        await self.producer.finish_transaction(queued(batches), {TP: OffsetAndMetadata(1, "")}, "g", MEMBER)


async def queued(batches: Any = ()) -> list[Any]:
    """As a batcher: they are queued at once."""
    return list(batches)


async def test_a_transaction_ends_once_outputs_and_offsets_are_through() -> None:
    """Its end never overtakes them, however the requests before it interleave."""
    async with Rig(FINE, FINE, FINE, FINE) as one:
        one.manager.maybe_add_partition_to_txn(TP)
        batch = asyncio.get_running_loop().create_future()
        finishing = asyncio.ensure_future(one.finish([batch]))
        await asyncio.sleep(0.01)
        assert sorted(one.client.sent) == [
            "AddOffsetsToTxnRequest",
            "AddPartitionsToTxnRequest",
            "MemberOffsets",
        ]
        batch.set_result(None)
        await finishing
        assert one.client.sent[-1] == "EndTxnRequest"
        assert not one.manager.is_in_transaction()


async def test_batches_may_wait_for_those_before_them() -> None:
    """A partition has room for one. The next is queued once that is on its way, for which its partition must be added."""
    async with Rig(FINE, FINE) as one:
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()

        async def queue() -> list[Any]:
            one.manager.maybe_add_partition_to_txn(TP)
            await first
            return [first, second]

        finishing = asyncio.ensure_future(one.producer.finish_transaction(queue(), {}, "g", MEMBER))
        await asyncio.sleep(0.05)
        assert one.client.sent == ["AddPartitionsToTxnRequest"]
        first.set_result(None)
        await asyncio.sleep(0.05)
        assert one.client.sent == ["AddPartitionsToTxnRequest"]
        second.set_result(None)
        await asyncio.wait([finishing], timeout=5)
        assert one.client.sent == ["AddPartitionsToTxnRequest", "EndTxnRequest"]


async def test_an_end_that_was_answered_with_not_yet_is_sent_again() -> None:
    """Nobody may take it for committed before."""
    async with Rig(FINE, FINE, CONCURRENT, LOADING, FINE) as one:
        await one.finish()
        assert one.client.sent[2:] == ["EndTxnRequest"] * 3


async def test_the_producer_ends_at_the_first_lost_answer() -> None:
    """Nothing more is sent in this epoch; whoever waits for the commit hears why, and nobody waits for its batches."""
    async with Rig(FINE, RequestTimedOutError()) as one:
        batch = await one.producer._message_accumulator.add_batch(one.producer.create_batch(), TP, 1)
        one.manager.partition_added(TP)
        one.sender._muted_partitions.add(TP)  # its leader does not answer
        with pytest.raises(OutcomeUnknown):
            await one.finish([batch])
        await asyncio.wait([one.sender.sender_task], timeout=5)
        assert one.client.sent == ["AddOffsetsToTxnRequest", "MemberOffsets"]
        assert isinstance(batch.exception(), OutcomeUnknown)


async def test_a_batch_that_is_refused_ends_the_transaction() -> None:
    """It is not committed without it."""
    async with Rig(FINE, FINE) as one:
        batch = asyncio.get_running_loop().create_future()
        batch.set_exception(KafkaConnectionError("refused"))
        with pytest.raises(KafkaConnectionError):
            await one.finish([batch])
        await asyncio.sleep(0.01)
        assert "EndTxnRequest" not in one.client.sent


async def test_a_commit_that_is_cut_off_sends_nothing_more() -> None:
    """The partition it is for is closed, or it takes too long."""
    async with Rig(FINE, FINE, FINE) as one:
        finishing = asyncio.ensure_future(one.finish([asyncio.get_running_loop().create_future()]))
        await asyncio.sleep(0)
        finishing.cancel()
        await asyncio.wait([finishing, one.sender.sender_task], timeout=5)
        assert finishing.cancelled()
        assert one.sender.sender_task.done()
        sent = len(one.client.sent)
        await asyncio.sleep(0.01)
        assert len(one.client.sent) == sent < 2


async def test_a_right_that_is_missing_is_told() -> None:
    """aiokafka answers a refusal by an error of the transaction, not of the request."""
    async with Rig(29) as one:
        one.manager.maybe_add_partition_to_txn(TP)
        with pytest.raises(TopicAuthorizationFailedError):
            await one.producer.finish_transaction(queued(), {}, "g", MEMBER)
        assert one.client.sent == ["AddPartitionsToTxnRequest"]


async def test_the_end_of_the_last_transaction_is_not_waited_for_longer_than_it_takes() -> None:
    """aiokafka waits 20 ms for what takes two or three."""
    sender = sending(Client(CONCURRENT))
    handler = _AddPartitions(sender, {TP})
    answer = SimpleNamespace(errors=[(TP.topic, [(TP.partition, CONCURRENT)])])
    assert handler.handle_response(answer) == CONCURRENT_PAUSE_S
