"""The client side of writing: outputs and offsets in one transaction, as `KafkaTransactor` and aiokafka make it.

In: outputs and offsets. Out: a committed transaction, or `CommitFailed`. `repeats`: requests whose answer is not known are sent
again in the same epoch, as aiokafka does by itself; what was held up in the network may then arrive in a later transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from aiokafka.errors import KafkaConnectionError, RequestTimedOutError
from aiokafka.structs import TopicPartition

from schemas.partitioning import partition_for
from schemas.topics import full_name
from streams.engine.commit import Collect, Commit, CommitFailed
from streams.engine.faults import is_transient
from streams.engine.membership import Membership
from streams.engine.open_transactions import end_left_open
from streams.engine.shared_transactions import PartitionCommitter, SharedTransactions
from streams.rules.records import Output
from tests.simulation.broker import LogId, Row, StaleEpoch, StaleMember
from tests.simulation.client import Client
from tests.simulation.consumer import id_of
from tests.simulation.durability import Durability

TRIES = 6
START_TIMEOUT_S = 20.0


class Writer(Client, Protocol):
    """What a committer needs of its node."""

    prefix: str
    instance: str | None
    partition_counts: dict[str, int]
    """Partitions by topic, as the producers of this node know them."""


class SimTransactor:
    """One transactional id. `collected`: when each partition last collected what it commits."""

    def __init__(self, node: Writer, group: str, state: str, repeats: bool, durability: Durability) -> None:
        self.node = node
        self.durability = durability
        self.collected: dict[int, float] = {}
        self._id = f"{group}-{node.instance or id_of(node)}"
        self._group, self._state = group, state
        self._repeats = repeats
        self._epoch: int | None = None
        self.end_asked = False

    async def start(self) -> None:
        """Begin a new epoch."""
        self._epoch = await self._request(lambda: self.node.broker.init_producer(self._id), START_TIMEOUT_S)

    async def end_left_open(self, numbers: Collection[int], consumer: Any) -> bool:
        """Abort what other producers of the group left open there."""
        partitions = {TopicPartition(self._state, number) for number in numbers}
        return await end_left_open(consumer, partitions, self._group, self._id)

    async def run(self, commits: Sequence[Commit], member: Membership) -> None:
        """All or nothing. Raises `CommitFailed`."""
        epoch, broker = self._epoch, self.node.broker
        if epoch is None:
            raise CommitFailed(f"{self._id}: not started", again=True)
        begun_at = {commit.number: self.collected[commit.number] for commit in commits}
        self.end_asked = False

        def end() -> None:
            if broker.end_transaction(self._id, epoch):
                for number, at in begun_at.items():
                    self.durability.committed(self.node.name, number, at)

        outputs = [output for commit in commits for output in commit.outputs]
        stored = {tuple(tp): (one.offset, one.metadata) for commit in commits for tp, one in commit.offsets.items()}
        logs = self._by_log(outputs)
        try:
            await self._repeated(lambda: broker.enroll(self._id, epoch, logs))
            requests = [
                self._request(lambda log_id=log_id, rows=rows: broker.produce(self._id, epoch, log_id, rows))  # type: ignore[misc]
                for log_id, rows in logs.items()
            ]
            requests.append(self._repeated(lambda: broker.send_offsets(self._id, epoch, self._group, stored, member)))
            for outcome in await asyncio.gather(*requests, return_exceptions=True):
                if isinstance(outcome, BaseException):
                    raise outcome
            self.end_asked = True
            await self._repeated(end)
        except StaleEpoch as error:
            raise CommitFailed(
                f"{self._id}: fenced", transient=True, again=not self.end_asked, unknown=self.end_asked
            ) from error
        except StaleMember as error:
            raise CommitFailed(f"{self._id}: no member", transient=True) from error
        except Exception as error:
            message, transient = f"{self._id}: {error!r}", is_transient(error)
            raise CommitFailed(message, transient, again=not self.end_asked, unknown=self.end_asked) from error

    async def close(self) -> None:
        """Commit no more; an open transaction is left to be aborted."""
        self._epoch = None

    def _by_log(self, outputs: Sequence[Output]) -> dict[LogId, list[Row]]:
        grouped: dict[LogId, list[Row]] = {}
        for output in outputs:
            log_id = log_of(output, self.node.prefix, self.node.partition_counts)
            if log_id is not None:
                grouped.setdefault(log_id, []).append((output.key, output.value, tuple(output.headers)))
        return grouped

    async def _repeated(self, action: Callable[[], None]) -> None:
        for attempt in range(TRIES):
            try:
                await self._request(action, late=self.node.network.holds_up)
            except (KafkaConnectionError, RequestTimedOutError):
                if not self._repeats or attempt == TRIES - 1:
                    raise
            else:
                return

    async def _request(self, action: Callable[[], Any], timeout_s: float = 30.0, late: bool = False) -> Any:
        return await self.node.network.request(self.node, action, timeout_s=timeout_s, late=late)


class SimCommitter(PartitionCommitter):
    """The product's, which also tells what the next owner of the partition can know."""

    def __init__(self, transactions: SharedTransactions, number: int, consumer: Any, transactor: SimTransactor) -> None:
        super().__init__(transactions, number, consumer)
        self._place = transactor.node.name, number
        self._transactor = transactor

    async def start(self) -> None:
        """Nothing of an earlier generation is committed from here on."""
        await super().start()
        self._transactor.durability.fenced(*self._place, self._transactor.node.network.world.now)

    async def commit(self, collect: Collect) -> None:
        """Take part in the next transaction."""
        world, durability = self._transactor.node.network.world, self._transactor.durability

        def noted() -> Commit | None:
            self._transactor.collected[self._place[1]] = world.now
            return collect()

        try:
            await super().commit(noted)
        except BaseException:
            durability.lost(*self._place, world.now)
            raise


def log_of(output: Output, prefix: str, counts: dict[str, int]) -> LogId | None:
    """Where an output goes; None for topics that this world leaves out."""
    name = full_name(output.topic, prefix)
    if name not in counts:
        return None
    if output.partition is not None:
        return name, output.partition
    return name, 0 if output.key is None else partition_for(output.key, counts[name])
