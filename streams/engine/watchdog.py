"""Checks, on our own clock, whether the engine's consumer still works, and has it replaced if not.

In: an engine, checked every few seconds: aiokafka's own tasks, polls that keep failing, and our positions against log
ends that we ask the brokers for ourselves. Out: `engine.renew()`, with the reason in the log. Unreachable brokers are
no reason, and an unknown position is never a stall. It never touches a record. The ends are stored in the engine, for
its lag.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from streams.engine import group
from streams.engine.engine import Engine
from streams.engine.faults import is_refused
from streams.rules.engine.stall import StallRule

log = structlog.get_logger(__name__)

LOOKS = 6
"""Checks within the time that makes a stall."""
ASK_TIMEOUT_S = 10.0


class Watchdog:
    """`after_s`: how long a partition with unread records may make no progress, or polls may fail, before the consumer
    is replaced.
    """

    def __init__(self, engine: Engine[Any], after_s: float) -> None:
        self._engine = engine
        self._after_s = after_s
        self._rule: StallRule[TopicPartition] = StallRule(after_s)

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            await asyncio.sleep(self._after_s / LOOKS)
            reason = await self.look()
            if reason is not None:
                log.error("the consumer makes no progress; replacing it", reason=reason)
                self._rule.forget()
                await self._engine.renew()

    async def look(self) -> str | None:
        """Why the consumer must be replaced; None if it need not, or if that is unknown."""
        consumer = self._engine.consumer
        dead = group.dead_task(consumer)
        # A refusal is permanent: the polls raise it, which ends the worker with the reason.
        if dead is not None and (dead[1] is None or not is_refused(dead[1])):
            return f"aiokafka's {dead[0]} task has ended: {dead[1]!r}"
        failing_s = self._engine.feed.failing_s
        if failing_s >= self._after_s and not self._engine.feed.is_refused:
            return f"every poll has failed for {failing_s:.0f} s"
        polled = await _positions(consumer, self._engine.feed.polled)
        ends = self._engine.ends = await _ends(consumer, self._engine.feed.open)
        stalled = self._rule.look(asyncio.get_running_loop().time(), polled, ends)
        for tp, stall in stalled.items():
            log.warning("a partition makes no progress", topic=tp.topic, partition=tp.partition, position=stall.position,
                        end=stall.end, for_s=round(stall.for_s, 1))  # fmt: skip
        if stalled:
            return f"{len(stalled)} partitions stood still for {self._after_s:g} s with records before them"
        return None


async def _positions(consumer: AIOKafkaConsumer, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
    """Of those that have one; a rebalance removes them."""
    found: dict[TopicPartition, int] = {}
    for tp in tps:
        try:
            async with asyncio.timeout(1):
                found[tp] = await consumer.position(tp)
        except (KafkaError, TimeoutError):
            return {}
    return found


async def _ends(consumer: AIOKafkaConsumer, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
    """Log ends, fetched in one request; if that fails, one by one: a partition without a leader must not hide the
    others.
    """
    if not tps:
        return {}
    together = await _end_offsets(consumer, tps)
    if together:
        return together
    each = await asyncio.gather(*(_end_offsets(consumer, [tp]) for tp in tps))
    return {tp: end for answer in each for tp, end in answer.items()}


async def _end_offsets(consumer: AIOKafkaConsumer, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
    try:
        async with asyncio.timeout(ASK_TIMEOUT_S):
            return dict(await consumer.end_offsets(tps))
    except Exception as error:  # the brokers do not answer, or aiokafka cannot ask: the ends stay unknown
        log.debug("log ends could not be read", error=repr(error))
        return {}
