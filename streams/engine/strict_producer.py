"""A transactional producer that never repeats a transactional request whose answer is unknown.

aiokafka repeats EndTxn, TxnOffsetCommit, AddOffsetsToTxn and AddPartitionsToTxn in place, in the same producer epoch, after a
lost connection or a timeout. The first copy may still be on its way: it can arrive during the next transaction and end that one
half way, or set its offsets back. Here such a request ends the producer with `OutcomeUnknown`. The next start of the
transactional id moves the epoch on, and the broker then refuses whatever is still on its way.

A request that was answered with an error code is not on its way any more: those are repeated, as aiokafka does. So are produce
requests: their sequence numbers tell the broker a repetition from a new batch.
"""

from __future__ import annotations

import asyncio
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


class OutcomeUnknown(ProducerFenced):  # type: ignore[misc]  # aiokafka ships no types
    """A transactional request was sent and its answer was lost. A new start finds out what became of the transaction.

    A `ProducerFenced`, because aiokafka's sender ends with such an error as it is, and wraps any other.
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
    """Whether the coordinator itself gave up waiting for what the request had begun (aiokafka repeats TxnOffsetCommit then)."""
    rows = [row for _, rows in getattr(answer, "errors", ()) for row in rows]
    codes = [getattr(answer, "error_code", 0), *(code for _, code in rows)]
    return RequestTimedOutError.errno in codes


class _AddPartitions(_Once, aiokafka_sender.AddPartitionsToTxnHandler):  # type: ignore[misc]
    pass


class _AddOffsets(_Once, aiokafka_sender.AddOffsetsToTxnHandler):  # type: ignore[misc]
    pass


class _CommitOffsets(_Once, aiokafka_sender.TxnOffsetCommitHandler):  # type: ignore[misc]
    pass


class _EndTxn(_Once, aiokafka_sender.EndTxnHandler):  # type: ignore[misc]
    pass


class _StrictSender(aiokafka_sender.Sender):  # type: ignore[misc]
    """aiokafka's sender with these handlers in place of its own."""

    async def _transaction_coordinator(self) -> int:
        found: int = await self._find_coordinator(CoordinationType.TRANSACTION, self._txn_manager.transactional_id)
        return found

    async def _do_add_partitions_to_txn(self, tps: Any) -> bool:
        return await _AddPartitions(self, tps).do(await self._transaction_coordinator())

    async def _do_add_offsets_to_txn(self, group_id: str) -> bool:
        return await _AddOffsets(self, group_id).do(await self._transaction_coordinator())

    async def _do_txn_offset_commit(self, offsets: Any, group_id: str) -> None:
        if not offsets:
            return
        try:
            node_id = await self._find_coordinator(CoordinationType.GROUP, group_id)
        except aiokafka_sender.GroupAuthorizationFailedError as error:
            self._txn_manager.error_transaction(error)
            return
        await _CommitOffsets(self, offsets, group_id).do(node_id)

    async def _do_txn_commit(self, commit_result: Any) -> None:
        await self._message_accumulator.flush_for_commit()
        if self._txn_manager.is_empty_transaction():
            self._txn_manager.complete_transaction()
            return
        await _EndTxn(self, commit_result).do(await self._transaction_coordinator())


class StrictProducer(AIOKafkaProducer):  # type: ignore[misc]
    """An `AIOKafkaProducer` with a transactional id; takes the same arguments. After `OutcomeUnknown` only a new one helps."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        given: Any = self._sender
        self._sender: Any = _StrictSender(
            self.client,
            acks=given._acks,
            txn_manager=given._txn_manager,
            message_accumulator=given._message_accumulator,
            retry_backoff_ms=round(given._retry_backoff * 1000),
            request_timeout_ms=given._request_timeout_ms,
        )
