"""The changelogged table of statistics, and the form of its keys.

In: rows to write for one source partition. Out: rows on the changelog (awaited), then in memory; after a restart, the
rows that were there. Keys carry the source partition and every row is written to that changelog partition, so a
partition's state moves with it. Values are bytes of JSON. Rows enter the memory only once the broker has them: memory
is never ahead of the changelog.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import faust
import orjson
from aiokafka import AIOKafkaProducer
from faust.types import TP

from schemas.codec import pack
from schemas.messages import Interval
from streams.engine.batcher import Batcher
from streams.engine.yielder import Yielder
from streams.rules.detection.alarms import SeriesId
from streams.rules.records import Output
from streams.rules.windows.windows import WindowId

CHANGELOG = "stats-changelog"
"""Short name of the changelog topic."""

DELETED_AT = "parallax-offset"
"""Header of a deletion: the source offset of the row it deletes."""

Row = tuple[bytes, bytes | None]


class Recovery(NamedTuple):
    """The state of reading the rows back. `deleted`: key -> the source offset of its deletion; `overtaken`: keys whose
    newest row is followed by an older one.
    """

    deleted: dict[bytes, int]
    overtaken: set[bytes]


def series_key(partition: int, series: SeriesId) -> bytes:
    """The key of a series' record.

    >>> series_key(3, SeriesId("a", "p", "agent"))
    b'[3,"a","p","agent"]'
    """
    return pack([partition, series.agent_id, series.pattern_name, series.task_type])


def window_key(partition: int, series: SeriesId, window: WindowId) -> bytes:
    """The key of a closed window's record."""
    return pack([partition, series.agent_id, series.pattern_name, series.task_type, *window])


def parse_key(key: bytes) -> tuple[int, SeriesId, WindowId | None]:
    """The inverse of both: partition, series, and the window if it is a window's key.

    >>> parse_key(b'[3,"a","p","agent","minute",60000]')
    (3, SeriesId(agent_id='a', pattern_name='p', task_type='agent'), ('minute', 60000))
    """
    partition, agent_id, pattern_name, task_type, *rest = orjson.loads(key)
    window: WindowId | None = None
    if rest:
        interval: Interval = rest[0]
        window = (interval, rest[1])
    return partition, SeriesId(agent_id, pattern_name, task_type), window


def source_offset(value: bytes) -> int:
    """The source offset that a row includes: the first number of its JSON array.

    >>> source_offset(b"[12,true,[]]")
    12
    """
    return int(value[1 : value.index(b",")])


def deletion_offset(record: Any) -> int | None:
    """The source offset of the row that a deletion deletes; None: not given."""
    return next((int(value) for name, value in getattr(record, "headers", None) or () if name == DELETED_AT), None)


async def send_all(batcher: Batcher, producer: AIOKafkaProducer, outputs: Sequence[Output]) -> None:
    """Send and wait until the broker has them, yielding to the loop. Raises the first failure."""
    await asyncio.gather(*await batcher.send(producer, outputs, Yielder()))


class StatsTable(faust.Table[bytes, bytes]):
    """Faust recovers it; writes go to the changelog in batches and are awaited (Faust's own `send_soon` cannot be)."""

    app: Any  # a StatsApp; Faust declares less

    def __init__(self, *, app: Any, batcher: Batcher, topic: str, partitions: int) -> None:
        self._topic = topic
        self._batcher = batcher
        self.recovery = Recovery({}, set())
        super().__init__(app, name="stats", key_type=bytes, value_type=bytes, partitions=partitions)

    def _changelog_topic_name(self) -> str:
        return self._topic

    def partition_for_key(self, key: bytes) -> int:
        """The source partition the key names."""
        return parse_key(key)[0]

    def apply_changelog_batch(self, batch: Iterable[Any]) -> None:
        """Nothing to do: rows are taken as they are fetched, see `recover`."""

    def recover(self, records: Iterable[Any], recovery: Recovery | None = None) -> None:
        """Apply fetched rows: of two rows of a key the one with the higher source offset wins, or the later one if they
        are equal.

        Whole fetches at once, bypassing Faust's queue, which costs a task and two counters for every record. A worker
        that was stopped and lost its partitions may still write a row when it wakes; its state is right for its offset
        but older, so it must neither replace nor delete a newer one.
        """
        data = self.data
        deleted, overtaken = recovery or Recovery({}, set())
        for record in records:
            key, value = record.key, record.value
            held = data.get(key)
            offset = deletion_offset(record) if value is None else source_offset(value)
            if held is not None and offset is not None and offset < source_offset(held):
                overtaken.add(key)
            elif value is None:
                data.pop(key, None)
                overtaken.discard(key)
                if offset is not None:
                    deleted[key] = offset
            elif offset is not None and offset > deleted.get(key, -1):
                data[key] = value
                overtaken.discard(key)

    @property
    def has_overtaken(self) -> bool:
        """Whether `overtaken` has any rows."""
        return bool(self.recovery.overtaken)

    def overtaken(self) -> list[Row]:
        """Rows that are followed by older ones in the changelog, to be written again: compaction keeps only the
        last.
        """
        found: list[Row] = [(key, self.data[key]) for key in self.recovery.overtaken if key in self.data]
        self.recovery = Recovery({}, set())
        return found

    async def write(self, rows: Sequence[Row]) -> None:
        """Write rows in order, wait until the broker has them, then apply them. A None value deletes."""
        if not rows:
            return
        checkpoint, outputs = Yielder(), []
        for key, value in rows:
            await checkpoint()
            held = self.data.get(key) if value is None else None
            headers = [] if held is None else [(DELETED_AT, str(source_offset(held)).encode())]
            outputs.append(Output(CHANGELOG, key, value, headers, partition=self.partition_for_key(key)))
        await send_all(self._batcher, self.app.raw_producer, outputs)
        for key, value in rows:
            if value is None:
                self.data.pop(key, None)
            else:
                self.data[key] = value

    async def on_rebalance(self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], *rest: Any) -> None:
        """Forget partitions that were revoked or newly assigned: another owner may have deleted keys in between."""
        gone = {tp.partition for tp in revoked | newly_assigned if tp.topic == self._topic}
        self._purge(key for key in list(self.data.keys()) if self.partition_for_key(key) in gone)
        await super().on_rebalance(assigned, revoked, newly_assigned, *rest)

    def _purge(self, keys: Iterable[bytes]) -> None:
        for key in list(keys):
            self.data.pop(key, None)
