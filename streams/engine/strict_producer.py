"""A transactional producer that never repeats a transactional request with an unknown outcome.

aiokafka repeats EndTxn, TxnOffsetCommit, AddOffsetsToTxn and AddPartitionsToTxn in place, in the same producer epoch,
after a lost connection or a timeout. The first copy may still be on its way: it can arrive during the next transaction
and end that one half way, or set its offsets back. Here such a request ends the producer with `OutcomeUnknown`. The
next start of the transactional id increases the epoch, and the broker then refuses requests that are still on their
way.

A request that was answered with an error code is not on its way any more: those are repeated, as aiokafka does. So are
produce requests: their sequence numbers let the broker detect a repetition.

A transaction takes half the turns of the loop (17 in place of 32) and one round trip less: `finish_transaction` sends
its own requests, those for outputs beside those for offsets. aiokafka's sender starts a task for each, one after the
other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.client import CoordinationType
from aiokafka.errors import (
    IncompatibleBrokerVersion,
    KafkaError,
    NodeNotReadyError,
    ProducerFenced,
    RequestTimedOutError,
)
from aiokafka.producer import sender as aiokafka_sender
from aiokafka.producer.transaction_manager import TransactionResult
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from streams.engine.batcher import delivered, mark_seen
from streams.engine.member_offsets import MemberOffsets, refused
from streams.engine.membership import Membership
from streams.engine.sender import replace_sender

QUEUE_PAUSE_S = 0.005
"""How often batches that are still being queued are checked for new partitions."""
CONCURRENT_PAUSE_S = 0.003
"""The coordinator still writes the end of the last transaction, which takes a few milliseconds."""


class OutcomeUnknown(ProducerFenced):  # type: ignore[misc]  # aiokafka ships no types
    """A transactional request was sent and its answer was lost. A new start finds out the transaction's outcome.

    It is a `ProducerFenced`, since aiokafka's sender raises such an error unchanged and wraps any other.
    """

    retriable = True

    def __init__(self, request: str, cause: BaseException) -> None:
        super().__init__(f"the answer to {request} was lost ({cause!r}); only a new producer epoch is safe")


class _Once:
    """Mixed into aiokafka's handlers: one attempt for each request that may have left this process."""

    async def do(self, node_id: int) -> bool:
        """True: done. False: certainly not done, may be sent again. Raises `OutcomeUnknown`."""
        handler: Any = self
        request = handler.create_request()
        try:
            answer = await handler._sender.client.send(node_id, request, group=handler.group)
        except IncompatibleBrokerVersion:
            raise
        except NodeNotReadyError:  # raised before anything is sent, only then
            await asyncio.sleep(handler.handle_error())
            return False
        except (KafkaError, OSError, TimeoutError) as error:
            raise OutcomeUnknown(type(request).__name__, error) from error
        backoff_s = handler.handle_response(answer)
        if backoff_s is None:
            return True
        if _timed_out(answer):
            raise OutcomeUnknown(type(request).__name__, RequestTimedOutError())
        await asyncio.sleep(backoff_s)
        return False


def _timed_out(answer: Any) -> bool:
    """Whether the coordinator itself timed out waiting for what the request had begun (aiokafka repeats TxnOffsetCommit
    then).
    """
    rows = [row for topic in getattr(answer, "errors", ()) for row in topic[1]]
    codes = [getattr(answer, "error_code", 0), *(row[1] for row in rows)]
    return RequestTimedOutError.errno in codes


class _AddPartitions(_Once, aiokafka_sender.AddPartitionsToTxnHandler):  # type: ignore[misc]
    def handle_response(self, resp: Any) -> float | None:
        """Seconds to wait before sending it again; None: done. aiokafka waits 20 ms for the end of the last
        transaction.
        """
        pause_s: float | None = super().handle_response(resp)
        return CONCURRENT_PAUSE_S if pause_s == aiokafka_sender.BACKOFF_OVERRIDE else pause_s


class _AddOffsets(_Once, aiokafka_sender.AddOffsetsToTxnHandler):  # type: ignore[misc]
    pass


class _CommitOffsets(_Once, aiokafka_sender.TxnOffsetCommitHandler):  # type: ignore[misc]
    def __init__(self, *, sender: Any, offsets: Any, group_id: str, member: Membership) -> None:
        super().__init__(sender, offsets, group_id)
        self._member = member

    def create_request(self) -> MemberOffsets:
        return MemberOffsets(
            manager=self._sender._txn_manager, group=self._group_id, member=self._member, offsets=self._offsets
        )

    def handle_response(self, resp: Any) -> float | None:
        pause_s: float | None = super().handle_response(SimpleNamespace(errors=refused(resp).items()))
        return pause_s


class _EndTxn(_Once, aiokafka_sender.EndTxnHandler):  # type: ignore[misc]
    pass


class _StrictSender(aiokafka_sender.Sender):  # type: ignore[misc]
    """aiokafka's sender, for produce requests only. `StrictProducer` sends those of a transaction."""

    given_up: BaseException | None = None
    """The first error of a transaction. Nothing is sent after it."""

    def give_up(self, error: BaseException) -> None:
        """End the sender: its batches fail, and no caller waits for them any longer."""
        if self.given_up is None:
            self.given_up = error
            self._txn_manager.notify_task_waiter()

    def _maybe_do_transactional_request(self) -> None:
        """Called by aiokafka in each round of its task, which ends quietly with a `ProducerFenced` and with no other
        error.
        """
        error = self.given_up
        if error is not None:
            raise error if isinstance(error, ProducerFenced) else ProducerFenced(repr(error)) from error

    def _fail_all(self, task: asyncio.Task[None]) -> None:
        super()._fail_all(task)
        ending = self._txn_manager.wait_for_transaction_end()
        if ending is not None and ending.done() and not ending.cancelled():
            ending.exception()  # retrieved: the failed commit raises its own error

    async def add_partitions(self, queueing: asyncio.Future[Any]) -> None:
        """Make the partitions of all batches that `queueing` queues part of the transaction; produce requests wait for
        that.

        A partition has room for one batch; the next is queued once the one before is on its way. So both happen side by
        side.
        """
        manager = self._txn_manager
        await asyncio.sleep(0)  # most have few batches, which are queued by now
        while True:
            while pending := manager.partitions_to_add():
                await _AddPartitions(self, pending).do(await self._transaction_coordinator())
                _raise_ended(manager)
            manager.notify_task_waiter()
            if self.given_up is not None:
                raise self.given_up
            if not queueing.done():
                await asyncio.wait([queueing], timeout=QUEUE_PAUSE_S)
            elif not manager.partitions_to_add():
                return

    async def add_offsets(
        self,
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
        group_id: str,
        member: Membership,
        enrolled: asyncio.Event,
    ) -> None:
        """Make these offsets of the group part of the transaction.

        They are sent once it has its partitions (`enrolled`): a reader that finds them unstable finds the transaction
        by a partition.
        """
        manager = self._txn_manager
        added = manager.add_offsets_to_txn(dict(offsets), group_id)
        added.add_done_callback(mark_seen)
        while manager.consumer_group_to_add() is not None:
            await _AddOffsets(self, group_id).do(await self._transaction_coordinator())
            _raise_ended(manager)
        await enrolled.wait()
        while (waiting := manager.offsets_to_commit()) is not None:
            try:
                node_id = await self._find_coordinator(CoordinationType.GROUP, group_id)
            except aiokafka_sender.GroupAuthorizationFailedError as error:
                manager.error_transaction(error)
            else:
                await _CommitOffsets(sender=self, offsets=waiting[0], group_id=group_id, member=member).do(node_id)
            _raise_ended(manager)
        added.result()

    async def end_transaction(self) -> None:
        """Commit it."""
        self._txn_manager.committing_transaction()
        if self._txn_manager.is_empty_transaction():
            self._txn_manager.complete_transaction()
            return
        while not await _EndTxn(self, TransactionResult.COMMIT).do(await self._transaction_coordinator()):
            pass

    async def _transaction_coordinator(self) -> int:
        found: int = await self._find_coordinator(CoordinationType.TRANSACTION, self._txn_manager.transactional_id)
        return found


def _raise_ended(manager: Any) -> None:
    """Raise the error that ended the transaction, if any."""
    ending = manager.wait_for_transaction_end()
    if ending.done():
        ending.result()


class StrictProducer(AIOKafkaProducer):  # type: ignore[misc]
    """An `AIOKafkaProducer` with a transactional id; takes the same arguments. After an error only a new one helps."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.end_asked = False
        """Whether the commit of the running transaction was requested. If not, nothing of it takes effect after an
        error.
        """
        self._sender: Any = replace_sender(self, _StrictSender)

    async def begin_transaction(self) -> None:
        self.end_asked = False
        await super().begin_transaction()

    async def finish_transaction(
        self,
        batches: Coroutine[Any, Any, Sequence[asyncio.Future[Any]]],
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
        group_id: str,
        member: Membership,
    ) -> None:
        """Write the batches and the offsets of the running transaction, and commit it.

        `batches` queues them, and returns what `send_batch` returned for each. Outputs and offsets are sent side by
        side. Raises `KafkaError` and other errors of aiokafka; then only a new start helps, and nothing more of this
        transaction is sent.
        """
        sender = self._sender
        enrolled = asyncio.Event()
        adding = None
        queueing = asyncio.ensure_future(batches)
        queueing.add_done_callback(mark_seen)
        try:
            if offsets:
                adding = asyncio.ensure_future(sender.add_offsets(offsets, group_id, member, enrolled))
                adding.add_done_callback(self._added)
            await sender.add_partitions(queueing)
            enrolled.set()
            await delivered(queueing.result())
            if adding is not None:
                await adding
            self.end_asked = True
            await sender.end_transaction()
        except asyncio.CancelledError as cancelled:
            sender.give_up(cancelled)
            raise
        except Exception as error:
            sender.give_up(error)
            if sender.given_up is error:
                raise
        else:
            return
        finally:
            queueing.cancel()
            if adding is not None:
                adding.cancel()
        raise sender.given_up  # later errors are less useful

    def _added(self, adding: asyncio.Future[None]) -> None:
        """Refused offsets must not wait for the outputs, which may wait for an unreachable broker."""
        if not adding.cancelled() and (error := adding.exception()) is not None:
            self._sender.give_up(error)
