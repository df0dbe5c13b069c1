"""One handler of the role `schedules` with everything real but the partition and the broker."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import orjson
from aiokafka.structs import ConsumerRecord
from prometheus_client import CollectorRegistry

from streams.engine.handler import source_record_of
from streams.engine.partition_processor import PartitionProcessor
from streams.metrics import ScheduleMetrics
from streams.rules.engine.ledger import Ledger
from streams.rules.records import Output
from streams.rules.schedules.records import ScheduleRecorder
from streams.rules.source_record import EXPIRES_HEADER, ORIGIN_HEADER
from streams.schedules.handler import ScheduleHandler
from streams.schedules.parts import ScheduleParts
from streams.schedules.reader import Lying, WaitingRows
from tests.support.dispatching import FakePartition
from tests.support.partition_fakes import intake

BEGIN_MS = 1_795_354_620_123
"""When the clock of a loop that stands at zero has it, epoch ms: the same for all owners in a test."""


class SchedulePartition(FakePartition):
    """Commits what the handler changed once it is touched."""

    def __init__(self, head: int = 0) -> None:
        super().__init__()
        self.ledgers = {"scheduled": Ledger(head), "schedules": Ledger(head)}
        self.skipped: list[int] = []
        self.handler: ScheduleHandler
        self.committed: list[Output] = []
        self.batches: list[int] = []
        self.reported: list[int] = []

    def skip(self, source: str, offset: int) -> None:
        """Keep it."""
        self.skipped.append(offset)

    def report_expired(self, source: str, offset: int) -> None:
        """Keep it."""
        self.reported.append(offset)

    def touch(self) -> None:
        """A commit follows."""
        asyncio.get_running_loop().call_soon(self._commit)

    def _commit(self) -> None:
        outputs = self.handler.changes()
        self.batches.append(len(outputs))
        self.committed += outputs
        self.commit()


class Scheduling:
    """A handler and everything around it. `log`, `schedules`: what lies on the topics; `head`: what earlier owners accepted."""

    def __init__(
        self, log: dict[int, ConsumerRecord] | None = None, head: int = 0, *,
        schedules: Sequence[ConsumerRecord] = (), state: Sequence[bytes] = (), partitions: int = 1, **cancelled: str,
    ) -> None:  # fmt: skip
        self.partition = SchedulePartition(head)
        self.log = log if log is not None else {}
        self.schedules = list(schedules)
        self.cancelled = dict(cancelled)
        self.read_errors: list[BaseException] = []
        self.registry = CollectorRegistry()
        parts = ScheduleParts(
            recorder=ScheduleRecorder("app", "t.", "app-schedules"),
            metrics=ScheduleMetrics(self.registry),
            wall_ms=self.wall_ms,
            cancelled=lambda task_id, submitted_ms: self.cancelled.get(task_id),
            cancel_requests=lambda: list(self.cancelled),
            partition_count=lambda: partitions,
            max_task_bytes=10_000,
            read_again=self._read_again,
        )
        rows = WaitingRows()
        for record in self.log.values():
            rows.add(record)
        lying = Lying(rows.tasks(), [source_record_of("schedules", record) for record in self.schedules])
        self.handler = ScheduleHandler(
            partition=cast("PartitionProcessor", self.partition), parts=parts, lying=lying, kept=state
        )
        self.partition.handler = self.handler

    def wall_ms(self) -> int:
        """The brokers' clock."""
        return BEGIN_MS + round(asyncio.get_running_loop().time() * 1000)

    async def _read_again(self, source: str, number: int, offsets: Sequence[int]) -> dict[int, ConsumerRecord]:
        await asyncio.sleep(0)
        if self.read_errors:
            raise self.read_errors.pop()
        assert list(offsets) == sorted(set(offsets))
        return {offset: self.log[offset] for offset in offsets if offset in self.log}

    def take(self, offset: int, task_id: str, in_s: float, value: bytes | None = None) -> list[Output]:
        """Hand over a record; what it led to at once."""
        self.log[offset] = self.record(offset, task_id, in_s, value)
        self.handler.process("scheduled", self.log[offset])
        return [output for _, o, outputs in self.partition.ended if o == offset for output in outputs]

    def record(self, offset: int, task_id: str, in_s: float, value: bytes | None = None) -> ConsumerRecord:
        """As dispatch writes it."""
        headers = (
            ("parallax-task", task_id.encode()),
            ("parallax-not-before", str(self.wall_ms() + round(in_s * 1000)).encode()),
            (ORIGIN_HEADER, b"5"),
            (EXPIRES_HEADER, b"77"),
            ("mine", b"1"),
        )
        value = value or b'{"id":"%s","type":"agent","target":"a1","payload":1}' % task_id.encode()
        return intake(offset, value, source="scheduled", key=f"tasks/0/{offset}/{task_id}".encode(), headers=headers)

    def released(self) -> list[str]:
        """The ids of the tasks that were committed to `dispatch`, in order."""
        return [self.id_of(output) for output in self.partition.committed if output.topic == "dispatch"]

    def id_of(self, output: Output) -> str:
        """Of the task that a record holds."""
        return (output.value or b"").split(b'"')[3].decode()

    def count(self, name: str) -> float:
        """A metric's value."""
        return self.registry.get_sample_value(name) or 0.0

    def record_schedule(self, schedule_id: str, *, ahead_ms: int = 0, **fields: Any) -> ConsumerRecord:
        """A schedule as it lies on its topic. `ahead_ms`: how far the clock that stamped it is ahead of this worker's."""
        task = {"type": "agent", "target": "a1", "payload": 1}
        value = orjson.dumps({"id": schedule_id, "task": task} | fields)
        return self._append(schedule_id.encode(), value, (), ahead_ms)

    def schedule(self, schedule_id: str, **fields: Any) -> list[Output]:
        """Hand over a schedule; what it led to at once."""
        return self._process(self.record_schedule(schedule_id, **fields))

    def remove(self, schedule_id: str) -> list[Output]:
        """Hand over the removal of a schedule."""
        return self.take_schedule(schedule_id.encode(), None)

    def take_schedule(
        self, key: bytes | None, value: bytes | None, headers: tuple[tuple[str, bytes], ...] = ()
    ) -> list[Output]:
        """Hand over any record of `schedules`."""
        return self._process(self._append(key, value, headers))

    def _append(
        self, key: bytes | None, value: bytes | None, headers: tuple[tuple[str, bytes], ...], ahead_ms: int = 0
    ) -> ConsumerRecord:
        offset, at_ms = len(self.schedules), self.wall_ms() + ahead_ms
        record = intake(offset, value, source="schedules", key=key, headers=headers, timestamp_ms=at_ms)
        self.schedules.append(record)
        return record

    def _process(self, record: ConsumerRecord) -> list[Output]:
        self.handler.process("schedules", record)
        _, offset, outputs = self.partition.ended[-1]
        assert offset == record.offset
        return outputs

    def state(self) -> list[bytes]:
        """What the state topic holds by now."""
        found: dict[bytes | None, bytes | None] = {}
        for output in self.partition.committed:
            if output.topic == "schedule-state":
                found[output.key] = output.value
        return [value for value in found.values() if value is not None]
