"""The client side of writing: outputs and offsets in one transaction, as `TransactionalCommitter` and aiokafka make it.

In: outputs and offsets. Out: a committed transaction, or `CommitFailed`. `repeats`: requests whose answer is not known are sent
again in the same epoch, as aiokafka does by itself; what was held up in the network may then arrive in a later transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from aiokafka.errors import KafkaConnectionError, RequestTimedOutError

from schemas.partitioning import partition_for
from schemas.topics import full_name
from streams.engine.commit import CommitFailed, Offsets
from streams.engine.faults import is_transient
from streams.rules.records import Output
from tests.simulation.broker import LogId, Row, StaleEpoch
from tests.simulation.client import Client
from tests.simulation.durability import Durability

TRIES = 6
START_TIMEOUT_S = 20.0


class Writer(Client, Protocol):
    """What a committer needs of its node."""

    prefix: str
    partition_counts: dict[str, int]
    """Partitions by topic, as the producers of this node know them."""


class SimCommitter:
    """One transactional id."""

    def __init__(self, node: Writer, group: str, number: int, repeats: bool, durability: Durability) -> None:
        self._node = node
        self._id = f"{group}-{number}"
        self._group, self._number = group, number
        self._repeats = repeats
        self._durability = durability
        self._epoch: int | None = None

    async def start(self) -> None:
        """Fence every earlier owner."""
        node = self._node

        def fence() -> int:
            self._durability.fenced(node.name, self._number, node.network.world.now)
            return node.broker.init_producer(self._id)

        self._epoch = await self._request(fence, START_TIMEOUT_S)

    async def commit(self, outputs: Sequence[Output], offsets: Offsets) -> None:
        """All or nothing. Raises `CommitFailed`."""
        try:
            await self._commit(outputs, offsets)
        except BaseException:
            self._durability.lost(self._node.name, self._number, self._node.network.world.now)
            raise

    async def _commit(self, outputs: Sequence[Output], offsets: Offsets) -> None:
        epoch, broker = self._epoch, self._node.broker
        if epoch is None:
            raise CommitFailed(f"{self._id}: not started")
        begun_at = self._node.network.world.now

        def end() -> None:
            if broker.end_transaction(self._id, epoch):
                self._durability.committed(self._node.name, self._number, begun_at)

        stored = {tuple(tp): (one.offset, one.metadata) for tp, one in offsets.items()}
        requests = [
            self._request(lambda log_id=log_id, rows=rows: broker.produce(self._id, epoch, log_id, rows))  # type: ignore[misc]
            for log_id, rows in self._by_log(outputs).items()
        ]
        if stored:
            requests.append(self._repeated(lambda: broker.send_offsets(self._id, epoch, self._group, stored)))
        try:
            for outcome in await asyncio.gather(*requests, return_exceptions=True):
                if isinstance(outcome, BaseException):
                    raise outcome
            await self._repeated(end)
        except StaleEpoch as error:
            raise CommitFailed(f"{self._id}: fenced") from error
        except Exception as error:
            raise CommitFailed(f"{self._id}: {error!r}", is_transient(error)) from error

    async def close(self) -> None:
        """Commit no more; an open transaction is left to be aborted."""
        self._epoch = None

    def _by_log(self, outputs: Sequence[Output]) -> dict[LogId, list[Row]]:
        grouped: dict[LogId, list[Row]] = {}
        for output in outputs:
            log_id = log_of(output, self._node.prefix, self._node.partition_counts)
            if log_id is not None:
                grouped.setdefault(log_id, []).append((output.key, output.value, tuple(output.headers)))
        return grouped

    async def _repeated(self, action: Callable[[], None]) -> None:
        for attempt in range(TRIES):
            try:
                await self._request(action, late=self._node.network.holds_up)
            except (KafkaConnectionError, RequestTimedOutError):
                if not self._repeats or attempt == TRIES - 1:
                    raise
            else:
                return

    async def _request(self, action: Callable[[], Any], timeout_s: float = 30.0, late: bool = False) -> Any:
        return await self._node.network.request(self._node, action, timeout_s=timeout_s, late=late)


def log_of(output: Output, prefix: str, counts: dict[str, int]) -> LogId | None:
    """Where an output goes; None for topics that this world leaves out."""
    name = full_name(output.topic, prefix)
    if name not in counts:
        return None
    if output.partition is not None:
        return name, output.partition
    return name, 0 if output.key is None else partition_for(output.key, counts[name])
