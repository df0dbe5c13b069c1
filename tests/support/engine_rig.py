"""An engine with a consumer in memory, and what its tests ask of it: partitions get a fake committer and a fake handler each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiokafka.structs import TopicPartition

from schemas.topics import INTAKE
from streams.engine import feed as feed_module
from streams.engine import group as group_module
from streams.engine.commit import Collect
from streams.engine.config import EngineConfig
from streams.engine.engine import Engine
from streams.engine.partition_processor import PartitionProcessor
from streams.rules.engine import starts
from streams.rules.records import Output
from tests.support.consuming import FakeConsumer
from tests.support.partition_fakes import FakeCommitter, FakeHandler
from tests.support.wait import settle, until


def tps(*numbers: int) -> list[TopicPartition]:
    """The intake of these partition numbers."""
    return [TopicPartition(f"t.{source}", number) for number in numbers for source in INTAKE]


TASKS = TopicPartition("t.tasks", 0)


class StoringCommitter(FakeCommitter):
    """What it commits the group has."""

    def __init__(self, consumer: FakeConsumer, interval_max_s: float) -> None:
        super().__init__(interval_max_s=interval_max_s)
        self._consumer = consumer

    async def commit(self, collect: Collect) -> None:
        """As scripted, then stored."""
        known = len(self.commits)
        await super().commit(collect)
        for _, offsets in self.commits[known:]:
            self._consumer.store(offsets)


class StateTopic:
    """The partitions of a state topic: keys and their newest values, by partition number."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[bytes, bytes]] = {}
        self.on_read: Callable[[], None] = lambda: None

    async def read(self, number: int) -> list[bytes]:
        """The values of a partition that opens."""
        self.on_read()
        return list((await self.read_rows(number)).values())

    async def read_rows(self, number: int) -> dict[bytes, bytes]:
        """The rows of any partition."""
        return dict(self.rows.get(number, {}))


class EngineRig:
    """An engine whose partitions get a fake committer and a fake handler each, newest last.

    `fields`: of its configuration. With `state="state"` partitions read `state_topic` before they open.
    """

    def __init__(
        self, *, commit_interval_max_s: float = 0.005, consumer: FakeConsumer | None = None, **fields: Any
    ) -> None:
        self._interval_max_s = commit_interval_max_s
        self.consumer = consumer or FakeConsumer()
        self.state_topic = StateTopic()
        self.committers: list[StoringCommitter] = []
        self.handlers: list[FakeHandler] = []
        self.prepare: Callable[[StoringCommitter], None] = lambda committer: None
        config: dict[str, Any] = {
            "options": {}, "prefix": "t.", "group": "g", "sources": INTAKE, "instance_id": None,
            "session_timeout_s": 0.04, "drain_timeout_s": 1.0,
            "stop_timeout_s": 1.0,
            "state": None, "exact_ends": True,
        }  # fmt: skip
        self.states: list[list[bytes]] = []
        """What each handler was given."""
        self.engine = Engine(
            config=EngineConfig(**(config | fields)), make_committer=self._committer, make_handler=self._handler,
            make_reader=lambda options, topic: self.state_topic,
            outlasting=lambda handler: [b"of %d" % self.handlers.index(handler)],
        )  # fmt: skip

    def _committer(self, number: int, consumer: Any) -> StoringCommitter:
        self.committers.append(StoringCommitter(self.consumer, self._interval_max_s))
        self.prepare(self.committers[-1])
        return self.committers[-1]

    def _handler(self, partition: PartitionProcessor, state: list[bytes]) -> FakeHandler:
        self.handlers.append(FakeHandler())
        self.states.append(state)
        return self.handlers[-1]

    @property
    def handler(self) -> FakeHandler:
        """The newest."""
        return self.handlers[-1]

    @property
    def taken(self) -> list[int]:
        """Offsets of `tasks` the newest handler took."""
        return [offset for source, offset in self.handler.taken if source == "tasks"]

    def finish(self, *offsets: int, number: int = 0, source: str = "tasks") -> None:
        """End these records, with one output each."""
        for offset in offsets:
            self.engine.processors[number].complete(source, offset, [Output("results", str(offset).encode(), b"")])

    def committed(self, tp: TopicPartition = TASKS) -> int:
        """The group's offset; -1 before the first commit."""
        return self.consumer.stored[tp].offset if tp in self.consumer.stored else -1

    async def ready(self, *numbers: int) -> None:
        """Assign and wait until every partition is open."""
        await self.consumer.assign(*tps(*(numbers or (0,))))
        await until(lambda: self.engine.ready)


MakeRig = Callable[..., Awaitable[EngineRig]]


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MakeRig]:
    """Makes rigs that are started, and stops them."""
    made: list[EngineRig] = []
    monkeypatch.setattr(starts, "RESTART_PAUSE_S", 0.005)
    monkeypatch.setattr(starts, "MAX_REOPEN_PAUSE_S", 0.05)
    monkeypatch.setattr(feed_module, "POLL_MS", 20)

    async def make(**fields: Any) -> EngineRig:
        one = EngineRig(**fields)
        made.append(one)
        monkeypatch.setattr(group_module, "AIOKafkaConsumer", lambda **options: one.consumer)
        await one.engine.start()
        return one

    yield make
    for one in made:
        await one.engine.stop()
        await settle()


async def settled(one: EngineRig, source: str) -> list[int]:
    """Offsets of a topic that the handler took, once no more come."""
    before = -1
    while before != len(one.handler.taken):
        before = len(one.handler.taken)
        await asyncio.sleep(0.1)
    return [offset for name, offset in one.handler.taken if name == source]


async def failed(one: EngineRig) -> bool:
    """Whether the engine has met what it cannot mend. It then says so at once."""
    task = asyncio.create_task(one.engine.failed())
    ended, _ = await asyncio.wait((task,), timeout=0.001)
    task.cancel()
    return bool(ended and task.exception())
