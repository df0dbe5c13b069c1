"""The client side of reading: what the engine and the followers use of `AIOKafkaConsumer`, over the simulated broker.

In: a group or an assignment. Out: batches, positions, offsets, and rebalances as aiokafka runs them: revoke, join, assign, then
heartbeats. As with aiokafka a position out of range is reset to the log's beginning, silently.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka.consumer.fetcher import READ_COMMITTED, READ_UNCOMMITTED
from aiokafka.errors import (
    IllegalStateError,
    KafkaConnectionError,
    NoError,
    RebalanceInProgressError,
    RequestTimedOutError,
    UnknownMemberIdError,
)
from aiokafka.structs import ConsumerRecord, TopicPartition

from streams.schedules.reader import ScheduleReader
from tests.simulation.broker import Fetched, Stored
from tests.simulation.client import LEADER, Client, SimClient

JOIN_TIMEOUT_S = 60.0
HEARTBEAT_TIMEOUT_S = 3.0
PAUSE_S = 0.1
READ_TIMEOUT_S = 60.0


class HeartbeatRequest(NamedTuple):
    """As aiokafka's, by its name: what the product's lease listens for."""

    generation: int


class SyncGroupRequest(NamedTuple):
    """The same."""

    generation: int


class GroupAnswer(NamedTuple):
    """An answer of the coordinator. `error_code`: the protocol's."""

    error_code: int


CODES = {
    "ok": NoError.errno,
    "rebalance": RebalanceInProgressError.errno,
    "unknown": UnknownMemberIdError.errno,
}


class SimConsumer:
    """One consumer. `group_id` None: it reads what it is assigned, uncommitted records too."""

    def __init__(self, *, node: Any, group_id: str | None = None, **options: Any) -> None:
        self._node: Client = node
        self._group_id = group_id
        self._session_s = options.get("session_s", 6.0)
        self._rebalance_s = options.get("rebalance_s", 15.0)
        self._assignor = options.get("assignor")
        self._said: Any = None
        self._positions: dict[TopicPartition, int | None] = {}
        self._paused: set[TopicPartition] = set()
        self._closed = self._rejoin = False
        # What the product reads of aiokafka's own tasks.
        self._client = SimClient(node)
        self._coordinator = self._fetcher = self
        self._isolation_level, self._request_timeout_ms = READ_COMMITTED, 40_000
        self.group_id, self.coordinator_id = str(group_id), LEADER
        self._coordination_task: asyncio.Task[None] | None = None
        self.generation, self.member_id, self._group_instance_id = -1, "", options.get("instance_id")

    # Membership

    async def start(self) -> None:
        """Nothing to connect."""

    def subscribe(self, topics: Sequence[str], listener: Any) -> None:
        """Join the group."""
        self._topics, self._listener = topics, listener
        self._group = self._node.broker.group(str(self._group_id), self._session_s, self._rebalance_s)
        self.member_id = f"{self._node.name}/{id_of(self._node)}"
        self._coordination_task = asyncio.create_task(self._coordinate())

    async def _coordinate(self) -> None:
        holds, assignor = False, self._assignor

        def deal(members: Any) -> Any:
            return assignor.assign(self._client.cluster, members)

        while not self._closed:
            try:
                if holds:
                    await self._listener.on_partitions_revoked([])
                    holds = False
                    self._positions, self._paused = {}, set()
                self._said = assignor.metadata(self._topics)
                generation, share = await self._node.network.request_held(
                    self._node,
                    lambda reply: self._group.join(self.member_id, self._said, deal, reply, self._group_instance_id),
                    timeout_s=JOIN_TIMEOUT_S,
                )
                if (await self._send_req(SyncGroupRequest(generation))).error_code != CODES["ok"]:
                    continue
                self.generation = generation
                self._positions, holds = dict.fromkeys(share.partitions()), True
                assignor.on_assignment(share)
                await self._listener.on_partitions_assigned(list(self._positions))
                await self._heartbeats(generation)
            except (KafkaConnectionError, RequestTimedOutError):
                await asyncio.sleep(PAUSE_S)

    def request_rejoin(self) -> None:
        """Join again soon."""
        self._rejoin = True

    async def _heartbeats(self, generation: int) -> None:
        """Until the group asks for another round, or this member wants one."""
        self._rejoin = False
        while not self._closed:
            await asyncio.sleep(max(self._session_s / 5, 0.2))
            if self._rejoin:
                return
            try:
                code = (await self._send_req(HeartbeatRequest(generation))).error_code
            except (KafkaConnectionError, RequestTimedOutError):
                continue
            if code == CODES["unknown"]:
                self.member_id = f"{self._node.name}/{id_of(self._node)}"
            if code != CODES["ok"]:
                return

    async def _send_req(self, request: HeartbeatRequest | SyncGroupRequest) -> GroupAnswer:
        """A request to the group's coordinator."""
        answer = await self._request(
            lambda: self._group.heartbeat(self.member_id, request.generation), HEARTBEAT_TIMEOUT_S
        )
        return GroupAnswer(CODES[answer])

    def check_errors(self) -> None:
        """Raise what the coordinator could not mend: nothing here."""

    async def stop(self) -> None:
        """Leave."""
        self._closed = True
        if self._coordination_task is not None:
            self._coordination_task.cancel()
            if self._group_instance_id is not None:
                return  # a static member keeps its place until its session is over
            try:
                await self._request(lambda: self._group.leave(self.member_id), 1.0)
            except (KafkaConnectionError, RequestTimedOutError):
                return

    # Positions

    def partitions_for_topic(self, topic: str) -> set[int]:
        """As the node's metadata have it."""
        return set(range(self._node.metadata.get(topic, 0)))

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read these, without a group."""
        self._positions = {tp: None for tp in partitions}

    def assignment(self) -> set[TopicPartition]:
        """What it reads."""
        return set(self._positions)

    def pause(self, *partitions: TopicPartition) -> None:
        """Fetch nothing of these."""
        self._check(partitions)
        self._paused.update(partitions)

    def resume(self, *partitions: TopicPartition) -> None:
        """Fetch these again."""
        self._check(partitions)
        self._paused.difference_update(partitions)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Read on from there."""
        self._check((partition,))
        self._positions[partition] = offset

    async def position(self, partition: TopicPartition) -> int:
        """The next offset to be read."""
        self._check((partition,))
        return self._positions[partition] or 0

    def _check(self, partitions: Iterable[TopicPartition]) -> None:
        for tp in partitions:
            if tp not in self._positions:
                raise IllegalStateError(f"{tp} is not assigned")

    async def beginning_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Where the logs begin."""
        logs = self._node.broker.logs
        return dict(await self._request(lambda: {tp: logs[tuple(tp)].start for tp in partitions}))

    async def end_offsets(self, partitions: Sequence[TopicPartition], timeout_ms: int = 0) -> dict[TopicPartition, int]:
        """Where readers of committed records find the ends, or others. With `timeout_ms`: as aiokafka's fetcher."""
        logs, whole = self._node.broker.logs, self._isolation_level == READ_UNCOMMITTED
        return dict(
            await self._request(
                lambda: {tp: logs[tuple(tp)].end if whole else logs[tuple(tp)].last_stable for tp in partitions}
            )
        )

    async def ensure_coordinator_known(self) -> None:
        """There is one broker."""

    def coordinator_dead(self) -> None:
        """It is always the same one."""

    async def _request(self, action: Any, timeout_s: float = 30.0) -> Any:
        return await self._node.network.request(self._node, action, timeout_s=timeout_s)

    # Fetching

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int = 0, max_records: int = 500
    ) -> Mapping[TopicPartition, list[ConsumerRecord]]:
        """Records of these partitions, or of all."""
        wanted: dict[TopicPartition, int] = {}
        for tp in partitions or tuple(self._positions):
            position = self._positions.get(tp)
            if position is not None and tp not in self._paused:
                wanted[tp] = position
        if not wanted:
            await asyncio.sleep(timeout_ms / 1000)
            return {}
        broker = self._node.broker
        at = {tuple(tp): position for tp, position in wanted.items()}
        fetched: Fetched = await self._node.network.request_held(
            self._node,
            lambda reply: broker.long_poll(at, max_records, timeout_ms / 1000, reply, self._group_id is None),
        )
        return self._accept(wanted, fetched)

    def _accept(
        self, wanted: Mapping[TopicPartition, int], fetched: Fetched
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        """Move the positions. As aiokafka does, drop what was fetched before a seek or a pause."""
        batches: dict[TopicPartition, list[ConsumerRecord]] = {}
        for tp, asked in wanted.items():
            if tuple(tp) not in fetched or tp in self._paused or self._positions.get(tp, -1) != asked:
                continue
            got = fetched[tuple(tp)]
            if got is None:
                self._positions[tp] = self._node.broker.logs[tuple(tp)].start
                continue
            records, self._positions[tp] = got
            if records:
                batches[tp] = [as_consumed(tp, record) for record in records]
        return batches


def as_consumed(tp: TopicPartition, record: Stored) -> ConsumerRecord:
    """The record as aiokafka gives it out."""
    return ConsumerRecord(
        tp.topic, tp.partition, record.offset, record.timestamp, 0, record.key, record.value, None, 0, 0, record.headers
    )


def id_of(node: Any) -> str:
    """Another member id each time, the same in each run of a seed."""
    return f"{node.rng.random():.6f}"


class SimStateReader:
    """Reads a partition of a compacted topic whole, as `StateReader` does."""

    def __init__(self, options: dict[str, Any], topic: str) -> None:
        self._node: Client = options["node"]
        self._topic = topic

    async def read(self, number: int) -> list[bytes]:
        """The newest value of each key, by age."""
        return list((await self.read_rows(number)).values())

    async def read_rows(self, number: int) -> dict[bytes, bytes]:
        """Each key with its newest value, by age."""
        log = self._node.broker.logs[self._topic, number]
        end = await self._node.network.request(self._node, lambda: log.end)

        def newest() -> dict[bytes, bytes] | None:
            if log.last_stable < end:
                return None
            found: dict[bytes, bytes] = {}
            for record in (log.read(log.start, 1 << 60) or ([], 0))[0]:
                if record.key is not None:
                    found.pop(record.key, None)
                    if record.value is not None:
                        found[record.key] = record.value
            return found

        async with asyncio.timeout(READ_TIMEOUT_S):
            while True:
                found = await self._node.network.request(self._node, newest)
                if found is not None:
                    return dict(found)
                await asyncio.sleep(PAUSE_S)


class SimScheduleReader(ScheduleReader):
    """Reads the partitions as the product does: to their true ends, behind every open transaction."""

    async def _read_all(
        self, tp: TopicPartition, add: Callable[[ConsumerRecord], None], *, decoded: bool = False
    ) -> None:
        node: Client = self._options["node"]
        log = node.broker.logs[tp.topic, tp.partition]
        true_end = await node.network.request(node, lambda: log.end)
        while await node.network.request(node, lambda: log.last_stable) < true_end:  # noqa: ASYNC110 - as a poll does
            await asyncio.sleep(PAUSE_S)
        for stored in await node.network.request(node, lambda: (log.read(log.start, 1 << 60) or ([], 0))[0]):
            add(as_consumed(tp, stored))


async def read_again(node: Any, topic: str, number: int, offsets: Sequence[int]) -> dict[int, ConsumerRecord]:
    """The committed records of these offsets that are still there, as `RecordReader` finds them."""
    client: Client = node
    wanted = frozenset(offsets)

    def read() -> list[Stored]:
        log = client.broker.logs[topic, number]
        found = (log.read(max(offsets[0], log.start), 1 << 60) or ([], 0))[0]
        return [stored for stored in found if stored.offset in wanted]

    tp = TopicPartition(topic, number)
    return {stored.offset: as_consumed(tp, stored) for stored in await client.network.request(client, read)}
