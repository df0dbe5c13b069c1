"""As much of aiokafka's consumer as readers of topics without a group use; subclasses say what a poll brings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from aiokafka.structs import TopicPartition


class FakeConsumer:
    """`ends`: where each log ends, by partition; all begin at 0. It is its own client and its own metadata."""

    def __init__(self, ends: Mapping[TopicPartition, int]) -> None:
        self.ends = ends
        self.positions: dict[TopicPartition, int] = {}
        self.stopped = False
        self._client = self

    async def start(self) -> None:
        """It is there."""

    async def stop(self) -> None:
        """It is not any more."""
        self.stopped = True

    async def fetch_all_metadata(self) -> Self:
        """The topics as the broker has them."""
        return self

    def partitions_for_topic(self, topic: str) -> set[int]:
        """Those that have an end."""
        return {tp.partition for tp in self.ends if tp.topic == topic}

    def assign(self, tps: list[TopicPartition]) -> None:
        """From the beginning."""
        self.positions = dict.fromkeys(tps, 0)

    def seek(self, tp: TopicPartition, offset: int) -> None:
        """The next record to be read."""
        self.positions[tp] = offset

    async def position(self, tp: TopicPartition) -> int:
        """The same."""
        return self.positions[tp]

    async def beginning_offsets(self, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        """All logs begin at 0."""
        return dict.fromkeys(tps, 0)

    async def end_offsets(self, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Where they end."""
        return {tp: self.ends[tp] for tp in tps}
