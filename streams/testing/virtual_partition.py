"""What the features of a virtual worker share: a partition in memory, with a commit after each record, and the cancel
requests.

In: records at the end of its topics. Out: the handler's records, a turn of the loop later, as after a commit. Nothing
fails and nothing is read twice: there is no broker, and the partition never moves.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from aiokafka.structs import ConsumerRecord

from schemas.topics import full_name
from streams.agents.control_table import ControlTable
from streams.engine.handler import Handler
from streams.rules.records import Output
from streams.settings import Settings

BEGIN_MS = 1_767_225_600_000
"""2026-01-01T00:00:00Z: when every virtual time begins."""
INSTANCE = "virtual-time"


class VirtualControls(ControlTable):
    """The table of cancel requests, without a topic to follow."""

    def take(self, value: bytes | None, now_ms: int) -> None:
        """Apply a control written now."""
        size = len(value or b"")
        self._apply(ConsumerRecord("controls", 0, 0, now_ms, 0, None, value, None, 0, size, ()))


@dataclass(frozen=True, slots=True)
class VirtualWorker:
    """What the partitions share. `wall_ms`: epoch ms; `write`: takes each record a worker would write."""

    settings: Settings
    wall_ms: Callable[[], int]
    write: Callable[[Output], None]
    controls: VirtualControls


class VirtualPartition:
    """The interface of a `PartitionProcessor` for handlers. Unfinished records stay in `log`, as on their topic."""

    number = 0
    handler: Handler
    """Set by the subclass."""

    def __init__(self, worker: VirtualWorker) -> None:
        self.worker = worker
        self.loop = asyncio.get_running_loop()
        self.log: dict[tuple[str, int], ConsumerRecord] = {}
        self._offset = 0
        self._intake: deque[tuple[str, ConsumerRecord]] = deque()
        self._after: list[Callable[[], object]] = []

    def changes(self) -> Iterable[Output]:
        """What the next commit writes beside the outputs of records."""
        return ()

    def take(self, source: str, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> None:
        """Add a record at the end of a topic; it is handed over as soon as there is room."""
        self._offset += 1
        topic, size = full_name(source, self.worker.settings.topic_prefix), len(value or b"")
        now_ms = self.worker.wall_ms()
        record = ConsumerRecord(
            topic, 0, self._offset, now_ms, 0, key, value, None, len(key or b""), size, tuple(headers)
        )
        self.log[source, self._offset] = record
        self._intake.append((source, record))
        self.wake()

    def wake(self) -> None:
        """There may be room."""
        self.loop.call_soon(self._hand_over)

    def caught_up(self, source: str) -> bool:
        """Always true: there was no owner before."""
        return True

    def touch(self) -> None:
        """`changes` has something new: commit soon."""
        self.loop.call_soon(self._commit, [])

    def afterwards(self, call: Callable[[], object]) -> None:
        """Called once what was completed is committed."""
        self._after.append(call)

    def skip(self, source: str, offset: int) -> None:
        """The record is not for this handler."""
        self._finish(source, offset)

    def complete(self, source: str, offset: int, outputs: Sequence[Output]) -> None:
        """Finish a record: its outputs are written a turn of the loop later."""
        self._finish(source, offset)
        self.loop.call_soon(self._commit, list(outputs))

    def _finish(self, source: str, offset: int) -> None:
        self.log.pop((source.removeprefix(self.worker.settings.topic_prefix), offset), None)

    def _commit(self, outputs: list[Output]) -> None:
        calls, self._after = self._after, []
        for call in calls:
            call()
        for output in [*outputs, *self.changes()]:
            self.worker.write(output)
        self._hand_over()

    def _hand_over(self) -> None:
        while self._intake and self.handler.room(self._intake[0][0]):
            self.handler.process(*self._intake.popleft())
