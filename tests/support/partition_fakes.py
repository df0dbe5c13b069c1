"""Fakes around one partition: a committer that keeps what it is told, a handler that does nothing by itself, intake records."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from aiokafka.structs import ConsumerRecord, TopicPartition

from schemas.topics import INTAKE
from streams.engine.commit import Collect, CommitPace, Offsets
from streams.rules.records import Output

PREFIX = "t."


class FakeCommitter:
    """Keeps every attempt and every success. `script`: what the next attempts raise; None lets one through."""

    def __init__(self, script: Iterable[BaseException | None] = (), interval_max_s: float = 0.01) -> None:
        self.pace = CommitPace(interval_max_s)
        self.hurry = self.pace.hurry
        self.script = deque(script)
        self.start_errors: deque[BaseException] = deque()
        self.attempts: list[tuple[list[Output], Offsets]] = []
        self.commits: list[tuple[list[Output], Offsets]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.started = 0
        self.closed = 0

    async def start(self) -> None:
        """As scripted."""
        self.started += 1
        if self.start_errors:
            raise self.start_errors.popleft()

    def opening(self) -> AbstractContextManager[None]:
        """Nothing is left open."""
        return nullcontext()

    async def commit(self, collect: Collect) -> None:
        """As scripted, once the gate is open."""
        await self.pace.turn()
        commit = collect()
        if commit is None:
            return
        began = asyncio.get_running_loop().time()
        self.attempts.append((list(commit.outputs), dict(commit.offsets)))
        await self.gate.wait()
        if self.script and (error := self.script.popleft()) is not None:
            raise error
        self.commits.append((list(commit.outputs), dict(commit.offsets)))
        self.pace.ended(began, commit.records)

    async def close(self) -> None:
        """Count it."""
        self.closed += 1

    def last(self, source: str = "tasks", number: int = 0) -> tuple[int, str] | None:
        """Offset and map that were committed last for a topic partition."""
        tp = TopicPartition(PREFIX + source, number)
        found = [offsets[tp] for _, offsets in self.commits if tp in offsets]
        return (found[-1].offset, found[-1].metadata) if found else None


class FakeHandler:
    """Takes what it is given and leaves the rest to the test."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, int]] = []
        self.open = True
        self.held = False
        self.closed = 0
        self.calls = 0
        self.news: list[Output] = []
        self.unblocked: list[tuple[str, list[int]]] = []

    def room(self, source: str) -> bool:
        """As the test says."""
        return self.open

    def process(self, source: str, record: ConsumerRecord) -> None:
        """Remember it."""
        self.taken.append((source, record.offset))

    def unblock(self, source: str, offsets: Sequence[int]) -> None:
        """Remember what was asked for."""
        self.unblocked.append((source, list(offsets)))

    def explain(self, source: str, offset: int) -> dict[str, Any] | None:
        """The place it was asked about."""
        return {"reason": f"{source}/{offset}"}

    def changes(self) -> list[Output]:
        """What the test says, once."""
        news, self.news = self.news, []
        return news

    def hold(self) -> None:
        """Remember it."""
        self.held = True

    def running(self) -> int:
        """As the test says."""
        return self.calls

    def close(self) -> None:
        """Count it."""
        self.closed += 1


def partitions(number: int = 0) -> dict[str, TopicPartition]:
    """The intake of one partition number."""
    return {source: TopicPartition(PREFIX + source, number) for source in INTAKE}


def intake(
    offset: int,
    value: bytes | None = b"{}",
    *,
    source: str = "tasks",
    number: int = 0,
    key: bytes | None = None,
    headers: tuple[tuple[str, Any], ...] = (),
    timestamp_ms: int = 0,
) -> ConsumerRecord:
    """A record as aiokafka hands it over."""
    size = 0 if value is None else len(value)
    return ConsumerRecord(PREFIX + source, number, offset, timestamp_ms, 0, key, value, None, 0, size, headers)
