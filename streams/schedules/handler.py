"""schedules: `scheduled` -> `dispatch`, when a task's time has come or it was cancelled; `schedules` -> `tasks`.

In: records of one partition, which dispatch wrote. Out: the same bytes to `dispatch`, and a tombstone on `scheduled`, in one
transaction. A task that waits takes an entry in memory; its record is read again from its topic. It calls no agent.

`process` takes a record in: it is released at once, or its task waits.
`_run` is the one task of a partition: it sleeps until the next time, reads the records that are due, and releases them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import structlog
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from schemas.codec import Rejected
from schemas.times import format_time
from streams.engine.event_wait import wait_at_most
from streams.engine.handler import source_record_of
from streams.engine.partition_processor import PartitionProcessor
from streams.rules.dispatch.backlog import id_hash
from streams.rules.engine.ledger import Ledger
from streams.rules.records import Output
from streams.rules.schedules.records import names_of, read_due
from streams.rules.schedules.scheduled_tasks import ScheduledTasks
from streams.rules.source_record import ORIGIN_HEADER, SourceRecord, own_header
from streams.schedules.parts import ScheduleParts
from streams.schedules.reader import Lying
from streams.schedules.recurring import RecurringTasks
from streams.schema_registry import learn_schemas

log = structlog.get_logger(__name__)

SOURCE = "scheduled"
BATCH = 64
"""Records read and released in one transaction: each may be as large as a task may be."""
MAX_SLEEP_S = 10.0
"""The clock may be set, so it is checked again after this time."""
RETRY_S = 1.0


class ScheduleHandler:
    """The waiting tasks and the schedules of one partition."""

    def __init__(
        self, *, partition: PartitionProcessor, parts: ScheduleParts, lying: Lying, kept: Iterable[bytes] = ()
    ) -> None:
        """`lying`: the records on the topics, accepted or not. `kept`: the values of the state topic."""
        self._partition = partition
        self._parts = parts
        self._waiting = lying.tasks
        self._lying = lying.schedules
        self._recurring = RecurringTasks(partition.number, parts, kept)
        self._begun = False
        self._due: list[int] = []
        """Offsets being released: no longer waiting, not committed yet."""
        self._to_check: set[int] = set()
        """Offsets of waiting tasks to cancel."""
        self._pending: list[Output] = []
        self._changed = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"schedules-{partition.number}")

    # Called by the engine

    def room(self, source: str) -> bool:
        """Always true: a record takes only an entry in memory."""
        return True

    def running(self) -> int:
        """0: nothing is called here."""
        return 0

    def explain(self, source: str, offset: int) -> dict[str, Any] | None:
        """None: records are finished as they are taken."""
        return None

    def unblock(self, source: str, offsets: Sequence[int]) -> None:
        """Nothing to do: no record is kept here, so none holds back a commit."""

    def changes(self) -> list[Output]:
        """The tasks released since the last commit."""
        pending, self._pending = self._pending, []
        return pending

    def hold(self) -> None:
        """Release nothing more."""
        self._task.cancel()

    def close(self) -> None:
        """The next owner continues from what is committed."""
        self.hold()
        self._pending.clear()
        if self._begun:
            self._parts.metrics.waiting.dec(len(self._waiting))
            self._parts.metrics.schedules.dec(len(self._recurring))
            self._begun = False
        self._waiting = ScheduledTasks()

    def process(self, source: str, record: ConsumerRecord) -> None:
        """Process one record: a waiting task, a tombstone, or a schedule."""
        self._begin()
        taken = source_record_of(source, record)
        if source == SOURCE and record.value is None:
            self._partition.skip(source, record.offset)
            return
        try:
            outputs = self._accept(taken) if source == SOURCE else self._accept_schedule(taken)
        except Rejected as rejected:
            outputs = self._refuse(taken, rejected)
        except Exception as error:
            log.exception("unexpected error while processing a record", topic=source, offset=record.offset)
            outputs = self._refuse(taken, Rejected("schedules", f"internal error: {type(error).__name__}"))
        self._partition.complete(source, record.offset, outputs)

    # Called by others

    def cancel(self, task_id: str) -> None:
        """This task was cancelled: if it waits here, it ends."""
        for name in names_of(task_id):
            offset = self._waiting.offset_of(id_hash(name))
            if offset is not None:
                self._to_check.add(offset)
                self._changed.set()

    def explain_task(self, task_id: str) -> dict[str, Any] | None:
        """What a waiting task waits for; None if it does not wait here."""
        times = (self._waiting.due_of(id_hash(name)) for name in names_of(task_id))
        due_ms = next((each for each in times if each is not None), None)
        if due_ms is None:
            return None
        return {
            "taskId": task_id,
            "agentId": None,
            "reason": "not_before",
            "waits": True,
            "until": format_time(due_ms),
        }

    def rows(self) -> list[dict[str, Any]]:
        """The schedules of this partition, for people."""
        return self._recurring.rows()

    # Intake

    def _begin(self) -> None:
        """Once the ledger is there: leave out records that no earlier owner accepted, since they will be handed
        over.
        """
        if self._begun:
            return
        self._begun = True
        self._waiting.keep(_accepted(self._partition.ledgers[SOURCE]))
        self._parts.metrics.waiting.inc(len(self._waiting))
        accepted = _accepted(self._partition.ledgers["schedules"])
        lying = [record for record in self._lying if accepted(record.offset)]
        self._pending += self._recurring.restore(lying, self._parts.wall_ms())
        self._lying = ()
        if self._pending:
            self._partition.touch()
        self._parts.metrics.schedules.inc(len(self._recurring))
        for task_id in self._parts.cancel_requests():
            self.cancel(task_id)

    def _accept(self, record: SourceRecord) -> list[Output]:
        due, now_ms = read_due(record.headers), self._parts.wall_ms()
        task_hash = id_hash(due.name)
        if self._waiting.offset_of(task_hash) is not None:
            self._parts.metrics.duplicates.inc()
            recorder = self._parts.recorder
            return [recorder.duplicate(record, due.task_id, now_ms), recorder.tombstone(record)]
        reason = self._parts.cancelled(due.task_id, _origin_ms(record))
        if reason is not None or due.not_before_ms <= now_ms:
            return self._release(record, due.not_before_ms, reason, now_ms)
        self._waiting.add(due.not_before_ms, record.offset, task_hash)
        self._parts.metrics.waiting.inc()
        self._changed.set()
        return []

    def _accept_schedule(self, record: SourceRecord) -> list[Output]:
        before = len(self._recurring)
        outputs = self._recurring.accept(record, self._parts.wall_ms())
        self._parts.metrics.schedules.inc(len(self._recurring) - before)
        self._changed.set()
        return outputs

    def _release(self, record: SourceRecord, due_ms: int, reason: str | None, now_ms: int) -> list[Output]:
        outputs = self._parts.recorder.released(record, self._parts.partition_count(), reason, now_ms)
        if reason is None:
            self._parts.metrics.released.inc()
            self._parts.metrics.lateness.observe((now_ms - due_ms) / 1000)
        return outputs

    def _refuse(self, record: SourceRecord, rejected: Rejected) -> list[Output]:
        log.warning("a record is refused", topic=record.topic, offset=record.offset, reason=rejected.reason)
        recorder, now_ms = self._parts.recorder, self._parts.wall_ms()
        if record.topic == SOURCE:
            return recorder.refused(record, rejected, now_ms)
        return recorder.dead_letter(record, rejected.stage, rejected.reason, now_ms)

    # Time

    async def _run(self) -> None:
        self._begin()
        while True:
            try:
                await self._sleep()
                await self._release_due()
                continue
            except (KafkaError, TimeoutError) as error:
                log.warning("due tasks could not be read; trying again", partition=self._partition.number,
                            error=repr(error))  # fmt: skip
            except Exception:
                log.exception("unexpected error while releasing tasks", partition=self._partition.number)
            if self._pending:  # the tasks of schedules wait for none of these
                self._partition.touch()
            await asyncio.sleep(RETRY_S)

    async def _sleep(self) -> None:
        """Sleep until a task is due, or may have been cancelled."""
        while not (self._due or self._to_check):
            times = [at for at in (self._waiting.next_due_ms, self._recurring.next_due_ms) if at is not None]
            left_s = (min(times) - self._parts.wall_ms()) / 1000 if times else MAX_SLEEP_S
            if left_s <= 0:
                return
            self._changed.clear()
            await wait_at_most(self._changed, min(left_s, MAX_SLEEP_S))

    async def _release_due(self) -> None:
        """Process one batch: make the tasks of schedules, read and release waiting ones, and wait until that is
        committed.
        """
        self._pending += self._recurring.fire(self._parts.wall_ms())
        await self._release_tasks()
        if self._pending:
            committed = asyncio.Event()
            self._partition.afterwards(committed.set)
            self._partition.touch()
            await committed.wait()

    async def _release_tasks(self) -> None:
        if not self._due:
            self._due = self._waiting.pop_due(self._parts.wall_ms(), BATCH)
            self._parts.metrics.waiting.dec(len(self._due))
        checked = sorted(self._to_check)[:BATCH]
        offsets = sorted({*self._due, *checked})
        if not offsets:
            return
        records = await self._parts.read_again(SOURCE, self._partition.number, offsets)
        await learn_schemas(records.values())  # they may have waited for months, and their schema was known elsewhere
        due, self._due = frozenset(self._due), []
        self._to_check.difference_update(checked)
        for offset in offsets:
            if offset in records:
                self._pending += self._outputs(source_record_of(SOURCE, records[offset]), offset in due)
            elif offset in due:
                log.error("the record of a scheduled task is gone", partition=self._partition.number, offset=offset)
                self._partition.report_expired(SOURCE, offset)

    def _outputs(self, record: SourceRecord, due: bool) -> list[Output]:
        """`due`: its time has come; else it is released only if it was cancelled."""
        now_ms = self._parts.wall_ms()
        try:
            found = read_due(record.headers)
            reason = self._parts.cancelled(found.task_id, _origin_ms(record))
            if not due:
                if reason is None:
                    return []  # an id that was used again after the request: it is another task
                task_hash = id_hash(found.name)
                if self._waiting.offset_of(task_hash) != record.offset:
                    return []  # it was released meanwhile
                self._waiting.remove(task_hash)
                self._parts.metrics.waiting.dec()
            return self._release(record, found.not_before_ms, reason, now_ms)
        except Rejected as rejected:
            return self._refuse(record, rejected)
        except Exception as error:
            log.exception("unexpected error while releasing a scheduled task", offset=record.offset)
            return self._refuse(record, Rejected("schedules", f"internal error: {type(error).__name__}"))


def _accepted(ledger: Ledger) -> Callable[[int], bool]:
    """Whether an earlier owner accepted the record of an offset; others will be handed over."""
    head, runs = ledger.head, ledger.runs()
    return lambda offset: offset < head or any(first <= offset <= last for first, last in runs)


def _origin_ms(record: SourceRecord) -> int:
    """The timestamp of the task's first record."""
    return own_header(record.headers, ORIGIN_HEADER) or record.timestamp_ms
