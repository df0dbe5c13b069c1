"""The state that a partition number needs before it opens: what its earlier owners wrote to the state topic; or, for an
added partition without an earlier owner, the rows of the partition that its keys came from
(`streams.rules.engine.growth`).

In: a number that is ours, and how many numbers there are. Out: the rows, and copies of those taken over. The copies are
written with the first commit, which also records under which count the number was open; until then the next owner takes
over again. The ancestor keeps its rows, since it cannot know that they were taken over. They do no harm there: their
agents and ids belong elsewhere now.
"""

from __future__ import annotations

from typing import NamedTuple

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from schemas.topics import full_name
from streams.engine.config import EngineConfig
from streams.engine.group_offsets import committed_offsets
from streams.engine.kept_offsets import KeptOffsets
from streams.engine.state_reader import PartitionReader
from streams.rules.engine.growth import is_ancestor, lineage, strays, with_count
from streams.rules.records import Output

log = structlog.get_logger(__name__)


class PartitionsMissing(KafkaError):  # type: ignore[misc]  # aiokafka ships no types
    """The group was assigned fewer partitions than it had: its leader did not know of the added ones."""

    retriable = True


class Remembered(NamedTuple):
    """`values`: the newest of each key. `counts`: partition counts under which the number was open, the present one
    last. `is_new`: it was never open under the present one. `is_added`: it was added to partitions of this group and
    was never open. `inherited`: rows taken over, to be written with the first commit.
    """

    values: list[bytes]
    counts: list[int]
    is_new: bool
    is_added: bool
    inherited: list[Output]


class InheritedState:
    """The state of one role. `state`: short name of its topic."""

    def __init__(self, *, config: EngineConfig, state: str, reader: PartitionReader, kept: KeptOffsets) -> None:
        self._config = config
        self._state = state
        self._reader = reader
        self._kept = kept

    async def read(self, number: int, count: int, consumer: AIOKafkaConsumer) -> Remembered:
        """The state of a number. `count`: how many numbers there are. Raises `KafkaError`, `TimeoutError`."""
        values = await self._reader.read(number)
        counts = self._kept.counts(values)
        before = strays(counts, count)
        if before is not None and before > count:
            await self._check(before, count, consumer)
        if before is not None and number == 0:
            log.warning("the number of partitions is no multiple of what it was: ids, limits, circuits and plans under way "
                        "stay behind where their partition changed", partitions=count, before=before)  # fmt: skip
        found = None if counts else await self._from_ancestor(number, count, consumer)
        inherited = found or {}
        copies = [Output(self._state, key, value, partition=number) for key, value in inherited.items()]
        is_new = not counts or counts[-1] != count
        known = [*inherited.values(), *values]
        return Remembered(known, with_count(counts, count), is_new, found is not None, copies)

    async def _check(self, before: int, count: int, consumer: AIOKafkaConsumer) -> None:
        """Check for earlier higher counts: the group's leader does not know all partitions, or the topics were
        recreated with fewer.
        """
        cluster = await consumer._client.fetch_all_metadata()
        names = (full_name(source, self._config.prefix) for source in self._config.sources)
        if min(len(cluster.partitions_for_topic(name) or ()) for name in names) > count:
            raise PartitionsMissing(
                f"there are more than the {count} partitions that were dealt out; waiting for the group"
            )

    async def _from_ancestor(self, number: int, count: int, consumer: AIOKafkaConsumer) -> dict[bytes, bytes] | None:
        """The rows that belong to this number now, from the partition that its keys came from; None: there is none."""
        belongs, candidates = self._config.belongs, lineage(number, count)
        if belongs is None or not candidates:
            return None
        numbers = sorted({ancestor for _, ancestor in candidates})
        config, state = self._config, full_name(self._state, self._config.prefix)
        # What an earlier owner is still about to commit must be there before its state is read: it holds offsets too.
        await committed_offsets(
            consumer,
            [TopicPartition(full_name(source, config.prefix), n) for source in config.sources for n in numbers],
        )
        ends = await consumer.end_offsets([TopicPartition(state, ancestor) for ancestor in numbers])
        read: dict[int, dict[bytes, bytes]] = {}
        for earlier, ancestor in candidates:
            if not ends[TopicPartition(state, ancestor)]:
                continue
            rows = read[ancestor] = read.get(ancestor) or await self._reader.read_rows(ancestor)
            if is_ancestor(earlier, self._kept.counts(rows.values())):
                found = {key: value for key, value in rows.items() if belongs(key, value, number, count)}
                log.info("a partition that was added takes over what belongs to it", partition=number, partitions=count,
                         ancestor=ancestor, rows=len(found))  # fmt: skip
                return found
        return None
