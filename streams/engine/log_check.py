"""Checks whether the logs of open partitions are still those that are being read.

In: an engine; every few seconds the topic's id, the leader's epoch and the log's end are compared with what was known
of each. Out: a partition whose topic was recreated, or whose log was truncated, is opened again. Unnoticed, the offsets
of new records would be taken for those of finished ones. A missing answer of a broker is never taken for a change.

After a leader election, records that came since the last check may have come from either leader: the last one of each
batch is read again and compared. A different record, or none, means that the log was truncated.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from streams.engine.engine import Engine
from streams.engine.fingerprint import Fingerprint, fingerprint
from streams.engine.log_identity import Identity, epoch_ends, identities
from streams.engine.partition_processor import PartitionProcessor
from streams.engine.record_reader import ReadAgain
from streams.rules.engine.start_offsets import lost_its_end

log = structlog.get_logger(__name__)

ASK_TIMEOUT_S = 10.0
SHORT_LOOKS = 2
"""Checks in a row at which a log ends before what was read of it: a new leader may not know its end at the first."""
UNANSWERED_LOOKS = 3
"""Checks in a row without an answer that are reported: until the next answer, a truncated log goes unnoticed."""


class LogCheck:
    """`every_s`: the interval; `read_again`: reads single records. Only for brokers that report true log ends."""

    def __init__(self, engine: Engine[Any], every_s: float, read_again: ReadAgain) -> None:
        self._engine = engine
        self._every_s = every_s
        self._read_again = read_again
        self._short: Counter[TopicPartition] = Counter()
        self._unread: set[TopicPartition] = set()
        self._unanswered = 0

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            await self.look()

    async def look(self) -> None:
        """Check all open partitions once."""
        if not self._engine.config.exact_ends:
            return
        processors = {
            tp: (processor, source)
            for processor in self._engine.processors.values()
            for source, tp in processor.partitions.items()
        }
        # Before anything is asked: what was read by then the log holds, if it is still the same.
        read = {tp: processor.read_to(source) for tp, (processor, source) in processors.items()}
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                ends, logs, cuts = await self._ask(self._engine.consumer, processors)
        except (KafkaError, TimeoutError) as error:
            self._no_answer(error)
            return
        changed, unread = await self._compared_beyond(processors, ends, cuts)
        for tp, (processor, source) in processors.items():
            if processor.closed:
                continue
            known, now, short = processor.logs[source], logs.get(tp), tp in ends and ends[tp] < read[tp]
            self._short[tp] = self._short[tp] + 1 if short else 0
            if changed.get(tp) or self._short[tp] >= SHORT_LOOKS:
                known = processor.logs[source] = known._replace(
                    checked=read[tp]
                )  # it starts again where the two logs diverge
            reason = None if now is None else lost_its_end(known, now.topic_id, cuts.get(tp))
            if reason is None and self._short[tp] >= SHORT_LOOKS:
                reason = f"the log ends at {ends[tp]}, before what was read"
            if reason is not None:
                self._changed(tp, processor, reason, read[tp], ends.get(tp))
            elif now is None or short:
                continue
            elif now.epoch == known.epoch or known.epoch < 0 or tp in changed:
                processor.checked(source, known._replace(topic_id=now.topic_id, epoch=now.epoch, checked=read[tp]))
                processor.batches[source].settle(read[tp])
            elif tp in cuts and tp not in unread:
                # No record came from beyond the end of the old epoch. Records on their way may be the old leader's: the old
                # epoch is the one to ask about until a record was compared.
                processor.checked(source, known._replace(checked=min(read[tp], cuts[tp])))
        self._short = Counter({tp: count for tp, count in self._short.items() if tp in processors and count})

    def _no_answer(self, error: Exception) -> None:
        self._unanswered += 1
        if self._unanswered % UNANSWERED_LOOKS == 0:
            log.warning("brokers do not report whether the logs are still those that were read; asking again",
                        looks=self._unanswered, error=repr(error))  # fmt: skip

    async def _compared_beyond(
        self,
        processors: dict[TopicPartition, tuple[PartitionProcessor, str]],
        ends: dict[TopicPartition, int],
        cuts: dict[TopicPartition, int],
    ) -> tuple[dict[TopicPartition, bool], set[TopicPartition]]:
        """Of records read from beyond the end of the old epoch: whether the present log has others there; and the
        partitions that could not be compared.
        """
        beyond = {tp: processors[tp][0].batches[processors[tp][1]].since(cut) for tp, cut in cuts.items()}
        lasts = {tp: found for tp, found in beyond.items() if found and found[-1].offset < ends[tp]}
        changed = await self._compared({tp: (processors[tp][1], found) for tp, found in lasts.items()})
        unread = lasts.keys() - changed.keys()
        if not unread:
            self._unanswered = 0
        for tp, found in beyond.items():
            if found is None or (found and tp not in lasts):
                changed[tp] = True  # too many to compare, or it did not come from the leader whose log ends there
        return changed, unread

    async def _compared(self, lasts: dict[TopicPartition, tuple[str, list[Fingerprint]]]) -> dict[TopicPartition, bool]:
        """Whether the log has other records at these offsets now, or none; unreadable ones are left out."""
        changed: dict[TopicPartition, bool] = {}
        for tp in sorted(lasts, key=self._unread.__contains__):
            source, ones = lasts[tp]
            try:
                found = await self._read_again(source, tp.partition, [one.offset for one in ones])
            except (KafkaError, TimeoutError) as error:
                self._unread.add(tp)
                self._no_answer(error)
                break  # the others are compared at the next look, before this one
            self._unread.discard(tp)
            changed[tp] = any(one.offset not in found or fingerprint(found[one.offset]) != one for one in ones)
        return changed

    @staticmethod
    async def _ask(
        consumer: AIOKafkaConsumer, processors: dict[TopicPartition, tuple[PartitionProcessor, str]]
    ) -> tuple[dict[TopicPartition, int], dict[TopicPartition, Identity], dict[TopicPartition, int]]:
        """Log ends, identities, and where the known epoch ends in logs that have a newer leader."""
        if not processors:
            return {}, {}, {}
        ends = await consumer.end_offsets(list(processors))
        logs = await identities(consumer, sorted({tp.topic for tp in processors}))
        epochs = {
            tp: processor.logs[source].epoch
            for tp, (processor, source) in processors.items()
            if tp in logs and processor.logs[source].epoch != logs[tp].epoch and processor.logs[source].epoch >= 0
        }
        return dict(ends), logs, await epoch_ends(consumer, epochs)

    def _changed(
        self, tp: TopicPartition, processor: PartitionProcessor, reason: str, read: int, end: int | None
    ) -> None:
        log.error("a log is not the one that was read; reopening its partition", topic=tp.topic,
                  partition=tp.partition, read=read, end=end, reason=reason)  # fmt: skip
        self._engine.log_changes += 1
        self._short.pop(tp, None)
        processor.lose(reason)
