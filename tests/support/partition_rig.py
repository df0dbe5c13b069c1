"""One partition whose committer and handler are fakes, for tests of what it commits and what it takes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable

import pytest
from aiokafka.structs import TopicPartition

from streams.engine.commit import CommitFailed
from streams.engine.partition_processor import Head, PartitionProcessor
from streams.rules.records import Output
from tests.support.partition_fakes import FakeCommitter, FakeHandler, partitions

TASKS = TopicPartition("t.tasks", 0)


def out(name: str, size: int = 1, fallback: Output | None = None) -> Output:
    """An output told apart by its key."""
    return Output("results", name.encode(), b"x" * size, fallback=fallback)


def keys(outputs: Iterable[Output]) -> list[str]:
    """The outputs' names."""
    return [(output.key or b"").decode() for output in outputs]


class PartitionRig:
    """A partition and everything around it."""

    def __init__(self, script: Iterable[BaseException | None] = (), interval_max_s: float = 0.01) -> None:
        self.committer = FakeCommitter(script, interval_max_s)
        self.handler = FakeHandler()
        self.lost: list[CommitFailed] = []
        self.room = 0
        self.partition = PartitionProcessor(
            0,
            self.committer,
            partitions(),
            on_room=self._on_room,
            on_lost=lambda partition, error: self.lost.append(error),
        )

    def _on_room(self, partition: PartitionProcessor) -> None:
        self.room += 1

    def open(self, head: int = 0, text: str = "", committed: bool = True) -> PartitionRig:
        """Open with `tasks` at `head`, the other topics at 0; all committed unless told otherwise."""
        heads = {"tasks": Head(head, text, committed), "dispatch": Head(0, "", True), "parked": Head(0, "", True)}
        self.partition.open(heads, self.handler)
        return self

    def track(self, *offsets: int, source: str = "tasks") -> None:
        """These records are in flight."""
        for offset in offsets:
            assert self.partition.ledgers[source].track(offset)


MakeRig = Callable[..., PartitionRig]


@pytest.fixture
async def rig() -> AsyncIterator[MakeRig]:
    """Makes rigs and closes them."""
    made: list[PartitionRig] = []

    def make(script: Iterable[BaseException | None] = (), interval_max_s: float = 0.01) -> PartitionRig:
        made.append(PartitionRig(script, interval_max_s))
        return made[-1]

    yield make
    for one in made:
        await one.partition.close()
