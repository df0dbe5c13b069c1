"""Rows are sent to the changelog only while the partitions are this worker's, according to the group.

A worker asks the group before it writes (`confirm_ownership`). If it is stopped after that for longer than a session,
before the rows are sent, they would overwrite its successor's once it continues. So ownership is checked again when a
request is handed to the kernel, which sends it whether the process runs or not.

In: aiokafka's sender, a topic, a function that asks the group. Out: batches of that topic are sent, or fail with
`NotOwner`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.producer import sender as aiokafka_sender
from aiokafka.structs import TopicPartition

from streams.engine.sender import replace_sender

TRIES = 5
"""Questions before one request; more than one only if the worker is stopped again while it asks."""


class NotOwner(KafkaError):  # type: ignore[misc]  # aiokafka ships no types
    """The partitions are, or may be, another worker's. Nothing was written."""


class _OwnersSender(aiokafka_sender.Sender):  # type: ignore[misc]
    topic: str
    holds: Callable[[float], bool]
    confirm: Callable[[], Awaitable[bool]]

    async def _send_produce_req(self, node_id: int, batches: dict[TopicPartition, Any]) -> None:
        # One that was sent before may be there: a gap in the sequence would end the producer.
        rows = [tp for tp, batch in batches.items() if tp.topic == self.topic and batch.retry_count <= 1]
        if rows and (error := await self._refusal(min(batches[tp]._ctime for tp in rows))) is not None:
            self._refuse({tp: batches[tp] for tp in rows}, error)
            batches = {tp: batch for tp, batch in batches.items() if tp not in rows}
        if batches:
            await super()._send_produce_req(node_id, batches)
        else:
            self._in_flight.remove(node_id)

    async def _refusal(self, since: float) -> Exception | None:
        """Why rows that wait since then (monotonic seconds) must not be sent; None: they may."""
        for _ in range(TRIES):
            if self.holds(since):
                return None
            try:
                if not await self.confirm():
                    break
            except Exception as error:  # after any error: the sender must not end
                return error
        return NotOwner("the partitions may be another worker's")

    def _refuse(self, batches: dict[TopicPartition, Any], error: Exception) -> None:
        for tp, batch in batches.items():
            if self._txn_manager is not None:  # the next batch takes its place in the sequence
                self._txn_manager.increment_sequence_number(tp, -batch.record_count)
            self._muted_partitions.remove(tp)
            batch.failure(error)


def guard(
    producer: AIOKafkaProducer, topic: str, holds: Callable[[float], bool], confirm: Callable[[], Awaitable[bool]]
) -> AIOKafkaProducer:
    """The producer, not started yet.

    `holds`: whether the last answer of the group is still valid, and the partitions were not lost since that time
    (monotonic seconds); `confirm`: asks again, and may raise.
    """
    sender = replace_sender(producer, _OwnersSender)
    sender.topic, sender.holds, sender.confirm = topic, holds, confirm
    return producer
