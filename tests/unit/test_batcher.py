"""Outputs in batches: none larger than its topic takes, none lost on the way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka.producer.message_accumulator import BatchBuilder

from schemas.partitioning import partition_for
from streams.engine.batcher import BATCH_BYTES, DEFAULT_LIMIT, LEAST_LIMIT, Batcher, OutputTooLarge
from streams.rules.records import Output


class Producer:
    """Keeps what it is given. Batches are aiokafka's own."""

    def __init__(self, partitions: int = 4) -> None:
        self.partitions = partitions
        self.sent: list[tuple[str, int, int, int]] = []

    async def partitions_for(self, topic: str) -> set[int]:
        """As the broker would say."""
        return set(range(self.partitions))

    def create_batch(self) -> Any:
        """A transactional batch."""
        return BatchBuilder(BATCH_BYTES, 0, is_transactional=True)

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> asyncio.Future[Any]:
        """Keep topic, partition, records and bytes."""
        self.sent.append((topic, partition, batch.record_count(), batch.size()))
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future


def out(topic: str, key: str, size: int, fallback: Output | None = None) -> Output:
    """An output of that many bytes."""
    return Output(topic, key.encode(), b"x" * size, fallback=fallback)


async def test_one_batch_a_topic_partition() -> None:
    """Keys decide as Kafka's default partitioner would; all records arrive."""
    producer = Producer()
    outputs = [out("results", f"t{n}", 100) for n in range(50)] + [out("events", f"t{n}", 50) for n in range(50)]
    await Batcher("p.").send(producer, outputs)  # type: ignore[arg-type]
    expected: dict[tuple[str, int], int] = {}
    for output in outputs:
        place = (f"p.{output.topic}", partition_for(output.key or b"", 4))
        expected[place] = expected.get(place, 0) + 1
    assert {(topic, number): count for topic, number, count, _ in producer.sent} == expected


async def test_what_is_too_large_goes_in_its_smaller_form() -> None:
    """The first form that the topic takes; the others stay as they are."""
    producer = Producer(1)
    batcher = Batcher("p.", {"results": 100_000})
    chain = out("results", "a", 500_000, out("results", "a", 200_000, out("results", "a", 10)))
    await batcher.send(producer, [chain, out("results", "b", 60_000)])  # type: ignore[arg-type]
    assert sum(count for _, _, count, _ in producer.sent) == 2
    assert max(size for _, _, _, size in producer.sent) < 100_000


async def test_batches_stay_below_a_topic_with_a_low_limit() -> None:
    """Small records too: the limit holds for the batch, not for the record."""
    producer = Producer(1)
    await Batcher("p.", {"results": 80_000}).send(producer, [out("results", "k", 30_000) for _ in range(20)])  # type: ignore[arg-type]
    assert sum(count for _, _, count, _ in producer.sent) == 20
    assert max(size for _, _, _, size in producer.sent) <= 80_000


async def test_no_form_small_enough_is_an_error() -> None:
    """It cannot be written and must not be dropped without a word."""
    huge = out("results", "a", 3_000_000, out("results", "a", 2_000_000))
    with pytest.raises(OutputTooLarge):
        await Batcher("p.").send(Producer(), [huge])  # type: ignore[arg-type]


def test_a_refusal_lowers_what_is_thought_to_be_allowed() -> None:
    """Again and again, but not below what every output must fit."""
    batcher = Batcher("p.", {"results": 200_000})
    batcher.lower_limits()
    assert batcher.fitting(out("results", "a", 99_000)).size > 99_000
    with pytest.raises(OutputTooLarge):
        batcher.fitting(out("results", "a", 101_000))
    for _ in range(10):
        batcher.lower_limits()
    assert batcher.fitting(out("results", "a", LEAST_LIMIT - 1000))
    assert DEFAULT_LIMIT > LEAST_LIMIT
