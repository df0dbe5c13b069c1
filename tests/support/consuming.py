"""A consumer in memory: logs, positions and committed offsets, with as much of aiokafka's face as the engine uses."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from aiokafka.errors import IllegalStateError
from aiokafka.structs import ConsumerRecord, OffsetAndMetadata, TopicPartition

from streams.engine.commit import Offsets
from tests.support.partition_fakes import intake


class FakeConsumer:
    """Logs are lists of offsets; `beyond` adds transaction markers at their ends."""

    def __init__(self) -> None:
        self.logs: dict[TopicPartition, list[int]] = {}
        self.beyond: dict[TopicPartition, int] = {}
        self.values: dict[tuple[TopicPartition, int], bytes] = {}
        self.begins: dict[TopicPartition, int] = {}
        self.stored: dict[TopicPartition, OffsetAndMetadata] = {}
        self.positions: dict[TopicPartition, int] = {}
        self.assigned: set[TopicPartition] = set()
        self.paused: set[TopicPartition] = set()
        self.polls = 0
        self.broken: dict[TopicPartition, Exception] = {}
        self.group_error: Exception | None = None
        self.stopped = 0
        self.listener: Any = None
        self._coordinator = self

    async def start(self) -> None:
        """Nothing to connect to."""

    async def stop(self) -> None:
        """Count it."""
        self.stopped += 1

    def subscribe(self, topics: list[str], listener: Any) -> None:
        """Keep the listener; the test assigns."""
        self.listener = listener

    def write(self, tp: TopicPartition, count: int) -> None:
        """Append records; offsets go on after the markers that are there."""
        start = self.end(tp)
        self.logs.setdefault(tp, []).extend(range(start, start + count))
        self.beyond[tp] = 0

    def delete_records(self, tp: TopicPartition, before: int) -> None:
        """The log begins there from now on; its end stays."""
        end = self.end(tp)
        self.logs[tp] = [offset for offset in self.logs.get(tp, []) if offset >= before]
        self.beyond[tp] = 0 if self.logs[tp] else end
        self.begins[tp] = before

    def end(self, tp: TopicPartition) -> int:
        """The log's end offset."""
        log = self.logs.get(tp, [])
        return (log[-1] + 1 if log else 0) + self.beyond.get(tp, 0)

    async def assign(self, *tps: TopicPartition) -> None:
        """As a rebalance would: fetching begins anywhere, here at the end, until somebody seeks."""
        self.assigned = set(tps)
        self.positions = {tp: self.end(tp) for tp in tps}
        self.paused = set()
        await self.listener.on_partitions_assigned(list(tps))

    async def revoke(self) -> None:
        """Take everything away."""
        await self.listener.on_partitions_revoked(list(self.assigned))
        self.assigned = set()

    def store(self, offsets: Offsets) -> None:
        """What a commit does to the group."""
        self.stored |= offsets

    def _check(self, tps: tuple[TopicPartition, ...]) -> None:
        if not self.assigned.issuperset(tps):
            raise IllegalStateError("not assigned")

    def pause(self, *tps: TopicPartition) -> None:
        """Stop fetching."""
        self._check(tps)
        self.paused |= set(tps)

    def resume(self, *tps: TopicPartition) -> None:
        """Go on fetching."""
        self._check(tps)
        self.paused -= set(tps)

    def seek(self, tp: TopicPartition, offset: int) -> None:
        """Fetch from here."""
        self._check((tp,))
        self.positions[tp] = offset

    def check_errors(self) -> None:
        """What the coordinator's task ran into."""
        if self.group_error is not None:
            raise self.group_error

    async def position(self, tp: TopicPartition) -> int:
        """The next offset to be fetched."""
        self._check((tp,))
        return self.positions[tp]

    async def beginning_offsets(self, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Where the logs begin."""
        return {tp: self.begins.get(tp, self.logs[tp][0] if self.logs.get(tp) else 0) for tp in tps}

    async def end_offsets(self, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Where they end."""
        return {tp: self.end(tp) for tp in tps}

    async def fetch_committed_offsets(self, tps: list[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        """What the group committed, with metadata."""
        return {tp: self.stored[tp] for tp in tps if tp in self.stored}

    async def getmany(
        self, *tps: TopicPartition, timeout_ms: int, max_records: int
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        """The next records of partitions that are not paused; waits a little when there are none."""
        self.polls += 1
        self._check(tps)
        self.check_errors()
        found: dict[TopicPartition, list[ConsumerRecord]] = {}
        for tp in tps:
            ahead = [offset for offset in self.logs.get(tp, []) if offset >= self.positions[tp]]
            if tp in self.paused:
                continue
            if tp in self.broken and ahead:
                raise self.broken[
                    tp
                ]  # as aiokafka: the positions of those before it have moved, their records are gone
            taken = ahead[:max_records]
            max_records -= len(taken)
            if taken:
                source = tp.topic.partition(".")[2]
                found[tp] = [
                    intake(offset, self.values.get((tp, offset), b"{}"), source=source, number=tp.partition)
                    for offset in taken
                ]
            self.positions[tp] = taken[-1] + 1 if len(taken) < len(ahead) else max(self.positions[tp], self.end(tp))
        if not found:
            await asyncio.sleep(0.005)
        return found


class HeartbeatRequest:
    """As aiokafka calls it."""


class HeartbeatingConsumer(FakeConsumer):
    """One whose coordinator answers heartbeats: the engine watches what it answers."""

    async def beat(self, code: int) -> None:
        """Send a heartbeat that the coordinator answers with this error code."""
        self._code = code
        await self._send_req(HeartbeatRequest())

    async def _send_req(self, request: HeartbeatRequest) -> SimpleNamespace:
        """As aiokafka's coordinators have it, for `Lease.watch`."""
        return SimpleNamespace(error_code=self._code)
