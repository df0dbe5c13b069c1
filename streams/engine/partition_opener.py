"""Opens a partition: reads what is committed and its earlier owners' state, and makes its handler.

In: a partition number that was assigned. Out: its `PartitionProcessor`, ready to be fed, and where each of its topics
begins. It tries until that works, waits for unreachable brokers, and gives up when waiting cannot help. It never
fetches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from streams.engine import group
from streams.engine.commit import CommitFailed, Committer
from streams.engine.config import EngineConfig
from streams.engine.expired_records import ExpiredRecords
from streams.engine.faults import describe_error, is_transient, unauthorized
from streams.engine.handler import Handler
from streams.engine.inherited_state import InheritedState
from streams.engine.kept_offsets import KeptOffsets
from streams.engine.partition_processor import PartitionProcessor
from streams.rules.engine.start_offsets import KeptOffset
from streams.rules.engine.starts import OpeningTries

log = structlog.get_logger(__name__)

CURRENT_RECHECK_S = 0.05

Heads = dict[str, int]
"""Intake topic -> the offset to read from."""


class PartitionOpener:
    """The opener of one engine."""

    def __init__(
        self,
        *,
        config: EngineConfig,
        names: Mapping[str, str],
        consumer: Callable[[], AIOKafkaConsumer],
        partition_count: Callable[[], int],
        is_current: Callable[[], bool],
        make_committer: Callable[[int, AIOKafkaConsumer], Committer],
        make_handler: Callable[[PartitionProcessor, list[bytes]], Handler],
        before_open: Callable[[], Awaitable[None]] | None,
        on_room: Callable[[PartitionProcessor], None],
        on_lost: Callable[[PartitionProcessor, CommitFailed], None],
        kept: KeptOffsets | None,
        inherited: InheritedState | None,
        expired: ExpiredRecords,
    ) -> None:
        """`names`: full names of the intake topics to their short names. `kept` and `inherited`: None without state."""
        self._config = config
        self._names = names
        self._consumer = consumer
        self._partition_count = partition_count
        self._is_current = is_current
        self._make_committer = make_committer
        self._make_handler = make_handler
        self._before_open = before_open
        self._on_room = on_room
        self._on_lost = on_lost
        self._kept = kept
        self._inherited = inherited
        self._expired = expired

    async def open(
        self, number: int, known: Callable[[], Mapping[str, KeptOffset]], uncommitted: Callable[[], list[bytes]]
    ) -> tuple[PartitionProcessor, Heads]:
        """Open the partition. `known`: what this worker knew of the logs when it lost the partition.

        Raises errors that another try cannot fix: `RuntimeError` in one line, or a fault of our own.
        """
        tries = OpeningTries()
        last: BaseException = KafkaError()
        while not tries.is_hopeless():
            await asyncio.sleep(tries.pause_s)
            await self._current()
            processor = self._new_processor(number)
            try:
                return processor, await self._opened(processor, known(), uncommitted)
            except (KafkaError, TimeoutError) as error:
                tries.failed(transient=is_transient(error), unauthorized=bool(unauthorized(error)))
                tell = log.warning if tries.is_news else log.debug
                tell(
                    "partition could not be opened; trying again",
                    partition=number,
                    tries=tries.tries,
                    error=describe_error(error),
                )
                await processor.close()
                last = error
            except asyncio.CancelledError:
                await processor.close()
                raise
            except Exception:  # our own fault, or aiokafka's: without this the partition would never be opened again
                log.exception("unexpected error while opening a partition", partition=number)
                await processor.close()
                tries.broke()
                if tries.is_hopeless():
                    raise
        raise RuntimeError(f"partition {number} could not be opened in {tries.tries} tries: {describe_error(last)}")

    async def _opened(
        self,
        processor: PartitionProcessor,
        known: Mapping[str, KeptOffset],
        uncommitted: Callable[[], list[bytes]],
    ) -> Heads:
        await processor.committer.start()
        with processor.committer.opening():
            heads, state = await group.find_start_offsets(
                self._config, self._consumer(), processor, partial(self._remembered, processor), known
            )
        if self._before_open is not None:
            await self._before_open()
        processor.open(heads, self._make_handler(processor, [*state, *uncommitted()]))
        return {source: processor.ledgers[source].head for source in heads}

    async def _current(self) -> None:
        """Wait until the coordinator has confirmed this worker as a member. A worker that wakes from a freeze while it
        opens a partition must not fence the partition's present owner. If it is no member, its partitions are revoked
        meanwhile.
        """
        while not self._is_current():  # noqa: ASYNC110 - heartbeats renew the lease, at long intervals
            await asyncio.sleep(CURRENT_RECHECK_S)

    async def _remembered(self, processor: PartitionProcessor) -> list[bytes]:
        """The newest value of each key that earlier owners wrote, or of the partition from which this one took over."""
        if self._inherited is None:
            return []
        found = await self._inherited.read(processor.number, self._partition_count(), self._consumer())
        processor.remember(found.counts, found.is_new, found.inherited, found.is_added)
        return found.values

    def _new_processor(self, number: int) -> PartitionProcessor:
        return PartitionProcessor(
            number,
            self._make_committer(number, self._consumer()),
            {source: TopicPartition(name, number) for name, source in self._names.items()},
            on_room=self._on_room,
            on_lost=self._on_lost,
            kept=self._kept,
            expired=self._expired,
        )
