"""Tasks of one partition that wait on their topic, by what they wait for, and how they are read back when their turn
comes.

In: task runs that memory does not hold. Out: their records, passed to `process` again, in their order. A task that
waits here is in flight in the partition's ledger, so after a crash it is only read again. Bounded by `MAX_WAITING`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog
from aiokafka.structs import ConsumerRecord

from streams.dispatch.task_run import TaskRun
from streams.engine.record_reader import ReadAgain
from streams.rules.dispatch.backlog import Backlog, BacklogEntry, id_hash
from streams.schema_registry import learn_schemas

log = structlog.get_logger(__name__)

MAX_WAITING = 200_000
"""Tasks of one partition that wait on their topic; beyond that, the partition reads no more."""
RETRY_S = 1.0
BATCH = 256
TURN = 64
"""Tasks processed in one turn of the loop."""
GATHER_S = 0.05
"""Task ids to read back are gathered this long before they are searched."""


@dataclass(slots=True)
class _Queue:
    tasks: Backlog = field(default_factory=Backlog)
    bytes: int = 0
    """Approximate bytes of all waiting tasks: to estimate how many may be read back."""
    loading: int = 0


class Backlogs:
    """`process` is called with each record that was read back and what it waited for; `lost` with the position of one
    that is gone.

    `loaded` is called with a key when the last record of a load was processed.
    """

    def __init__(
        self,
        *,
        number: int,
        read_again: ReadAgain,
        process: Callable[[str, str, ConsumerRecord], None],
        lost: Callable[[str, int], None],
        loaded: Callable[[str], None],
    ) -> None:
        self._number = number
        self._read_again = read_again
        self._process = process
        self._lost = lost
        self._loaded = loaded
        self._loop = asyncio.get_running_loop()
        self._queues: dict[str, _Queue] = {}
        self._loading: set[asyncio.Task[None]] = set()
        self._on_the_way: set[tuple[str, int]] = set()
        self._wanted: set[int] = set()
        self._count = 0
        self._held = self._closed = False

    def __len__(self) -> int:
        """Tasks that wait on their topic, also those being read back."""
        return self._count

    @property
    def room(self) -> bool:
        """Whether another task may wait here."""
        return self._count < MAX_WAITING

    @property
    def keys(self) -> list[str]:
        """The keys that tasks wait for."""
        return list(self._queues)

    def waiting(self, key: str) -> int:
        """How many tasks wait for this key, also those being read back."""
        queue = self._queues.get(key)
        return 0 if queue is None else len(queue.tasks) + queue.loading

    def precedes(self, key: str, priority: int) -> bool:
        """Whether tasks that wait for this key come before a new one of this priority."""
        queue = self._queues.get(key)
        if queue is None:
            return False
        highest = queue.tasks.highest_priority()
        return bool(queue.loading) or (highest is not None and highest >= priority)

    def average_size(self, key: str) -> int:
        """Approximate bytes in memory of a task that waits for this key."""
        queue = self._queues.get(key)
        return 0 if queue is None or not len(queue.tasks) else max(1, queue.bytes // len(queue.tasks))

    def add(self, key: str, run: TaskRun, order: float | None = None) -> None:
        """Leave the record of this task on its topic for now. `order`: its order among those of its key, regardless of
        priority.
        """
        priority = run.priority if order is None else 0
        order = run.origin_ms if order is None else order
        self._put(key, BacklogEntry(run.source, run.offset, order, priority, run.deadline, id_hash(run.task_id)))
        self._queues[key].bytes += run.size

    def first(self, key: str) -> float | None:
        """The smallest order of those that wait for this key, without those being read back; None if there are none."""
        queue = self._queues.get(key)
        return None if queue is None else queue.tasks.first_order()

    def any_before(self, key: str, order: float, except_source: str) -> bool:
        """Whether tasks of a smaller order wait for this key whose records are on another topic than
        `except_source`.
        """
        queue = self._queues.get(key)
        return queue is not None and queue.tasks.any_before(order, except_source)

    def is_loading(self, key: str) -> bool:
        """Whether tasks that wait for this key are being read back."""
        queue = self._queues.get(key)
        return queue is not None and queue.loading > 0

    def load(self, key: str, most: int) -> None:
        """Read the first of them back, unless some are being read back."""
        queue = self._queues.get(key)
        if queue is not None and not queue.loading and not self._held:
            self._start(key, queue, queue.tasks.take(most))

    def load_expired(self, now: float) -> None:
        """Read back those whose deadline has passed, a batch of each queue; the rest at the next call."""
        for key, queue in list(self._queues.items()):
            self._start(key, queue, queue.tasks.take_expired(now, BATCH))

    def load_task(self, task_id: str) -> None:
        """Read back the records of this task id, a moment later: a search goes through all waiting tasks, and thousands
        may be cancelled at once.
        """
        if not self._queues:
            return
        if not self._wanted:
            self._loop.call_later(GATHER_S, self._load_wanted)
        self._wanted.add(id_hash(task_id))

    def _load_wanted(self) -> None:
        wanted, self._wanted = self._wanted, set()
        for key, queue in list(self._queues.items()):
            self._start(key, queue, queue.tasks.take_tasks(wanted))

    def load_records(self, source: str, offsets: frozenset[int]) -> list[int]:
        """Read back those of these records that wait here; returns their offsets, also of those being read back
        already.
        """
        found = [offset for offset in offsets if (source, offset) in self._on_the_way]
        for key, queue in list(self._queues.items()):
            tasks = queue.tasks.take_records(source, offsets)
            found += [task.offset for task in tasks]
            self._start(key, queue, tasks)
        return found

    def key_of(self, source: str, offset: int) -> str | None:
        """The key this record waits for; None if it does not wait here."""
        return next((key for key, queue in self._queues.items() if queue.tasks.holds(source, offset)), None)

    def hold(self) -> None:
        """Read nothing back any more."""
        self._held = True

    def close(self) -> None:
        """Stop reading; everything stays on its topic."""
        self._held = self._closed = True
        for task in self._loading:
            task.cancel()
        self._queues.clear()
        self._count = 0

    def _put(self, key: str, task: BacklogEntry) -> None:
        self._queues.setdefault(key, _Queue()).tasks.add(task)
        self._count += 1

    def _start(self, key: str, queue: _Queue, tasks: list[BacklogEntry]) -> None:
        if not tasks:
            return
        if self._held:  # the next owner reads them
            for task in tasks:
                queue.tasks.add(task)
            return
        self._on_the_way |= {(task.source, task.offset) for task in tasks}
        left = len(queue.tasks) + len(tasks)
        queue.bytes -= queue.bytes * len(tasks) // left
        queue.loading += len(tasks)
        loading = self._loop.create_task(self._load(key, queue, tasks))
        self._loading.add(loading)
        loading.add_done_callback(self._loading.discard)

    async def _load(self, key: str, queue: _Queue, tasks: list[BacklogEntry]) -> None:
        found: dict[tuple[str, int], ConsumerRecord] = {}
        while True:
            try:
                for source in sorted({task.source for task in tasks}):
                    offsets = sorted(task.offset for task in tasks if task.source == source)
                    records = await self._read(source, offsets)
                    found |= {(source, offset): record for offset, record in records.items()}
                break
            except Exception as error:  # after any error: the tasks are in flight, and nothing else reads them back
                log.warning("tasks that wait on their topic cannot be read back yet; trying again",
                            partition=self._number, error=repr(error))  # fmt: skip
                await asyncio.sleep(RETRY_S)
        for number, task in enumerate(tasks, start=1):
            if number % TURN == 0:
                await asyncio.sleep(0)
            if self._closed:
                return
            self._on_the_way.discard((task.source, task.offset))
            queue.loading -= 1
            self._count -= 1
            record = found.get((task.source, task.offset))
            if record is None:
                self._lost(task.source, task.offset)
            else:
                self._process(key, task.source, record)
        if not len(queue.tasks) and not queue.loading and self._queues.get(key) is queue:
            del self._queues[key]
        self._loaded(key)

    async def _read(self, source: str, offsets: Sequence[int]) -> dict[int, ConsumerRecord]:
        found = await self._read_again(source, self._number, offsets)
        await learn_schemas(found.values())
        return found
