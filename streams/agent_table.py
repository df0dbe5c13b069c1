"""The agents this worker knows: the compacted topic `agents`, read whole at start and followed live.

In: registrations and tombstones. Out: `get`, `capable` look-ups and a call for each change. `catch_up` makes reading one's own
writes certain: a task sent after its agent was acknowledged finds it. It never writes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord, TopicPartition

from schemas.codec import Rejected, decode
from schemas.messages import AgentRegistration
from schemas.topics import full_name

log = structlog.get_logger(__name__)

LOAD_TIMEOUT_S = 60.0
CATCH_UP_TIMEOUT_S = 5.0
Listener = Callable[[str, AgentRegistration | None, ConsumerRecord], None]


class AgentTable:
    """Every registered agent by id."""

    def __init__(self, options: dict[str, Any], prefix: str) -> None:
        self._topic = full_name("agents", prefix)
        self._options = options
        self._agents: dict[str, AgentRegistration] = {}
        self._listeners: list[Listener] = []
        self._positions: dict[TopicPartition, int] = {}
        self._moved = asyncio.Event()
        self._consumer: AIOKafkaConsumer | None = None
        self._task: asyncio.Task[None] | None = None
        self._catching_up: asyncio.Task[None] | None = None
        self._loaded = False

    def get(self, agent_id: str) -> AgentRegistration | None:
        """The agent of that id, or None."""
        return self._agents.get(agent_id)

    def all(self) -> Iterable[AgentRegistration]:
        """Every agent, in no order."""
        return self._agents.values()

    def __len__(self) -> int:
        return len(self._agents)

    def on_change(self, listener: Listener) -> None:
        """Be told of each change after the table was loaded: agent id, registration or None, the record."""
        self._listeners.append(listener)

    async def start(self) -> None:
        """Read the topic to its present end, then follow it. Raises `KafkaError`, `TimeoutError`."""
        self._consumer = AIOKafkaConsumer(
            **self._options, enable_auto_commit=False, auto_offset_reset="earliest", fetch_max_wait_ms=200
        )
        await self._consumer.start()
        numbers = self._consumer.partitions_for_topic(self._topic)
        if not numbers:
            await self._consumer._client.add_topic(self._topic)
            numbers = self._consumer.partitions_for_topic(self._topic) or {0}
        tps = [TopicPartition(self._topic, number) for number in sorted(numbers)]
        self._consumer.assign(tps)
        begins = await self._consumer.beginning_offsets(tps)
        for tp in tps:
            self._consumer.seek(tp, begins[tp])
        self._positions = dict(begins)
        self._task = asyncio.create_task(self._follow(), name="agent-table")
        async with asyncio.timeout(LOAD_TIMEOUT_S):
            await self._reach_end()
        self._loaded = True

    async def stop(self) -> None:
        """Stop following."""
        for task in (self._task, self._catching_up):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if self._consumer is not None:
            await self._consumer.stop()

    async def catch_up(self) -> None:
        """Wait (a few seconds at most) until everything acknowledged before this call is in the table."""
        running = self._catching_up
        if running is not None and not running.done():
            await asyncio.shield(running)  # it may have begun before the registration was written: once more then
        if self._catching_up is None or self._catching_up.done():
            self._catching_up = asyncio.create_task(self._bounded_reach_end())
        await asyncio.shield(self._catching_up)

    async def _bounded_reach_end(self) -> None:
        try:
            async with asyncio.timeout(CATCH_UP_TIMEOUT_S):
                await self._reach_end()
        except (TimeoutError, KafkaError) as error:
            log.warning("could not read the agents topic to its end", error=repr(error))

    async def _reach_end(self) -> None:
        if self._consumer is None:
            raise RuntimeError("the table is not started")
        ends = await self._consumer.end_offsets(list(self._positions))
        while any(self._positions[tp] < end for tp, end in ends.items()):
            self._moved.clear()
            await self._moved.wait()

    async def _follow(self) -> None:
        consumer = self._consumer
        if consumer is None:
            return
        while True:
            try:
                batches = await consumer.getmany(timeout_ms=1000)
                for tp, records in batches.items():
                    for record in records:
                        self._apply(record)
                    self._positions[tp] = records[-1].offset + 1
                # A read beyond the last record (a compacted tail) moves the position without one.
                for tp in self._positions:
                    self._positions[tp] = max(self._positions[tp], await consumer.position(tp))
            except Exception as error:  # whatever it is, agents must go on being read
                log.warning("reading the agents topic failed; trying again", error=repr(error))
                await asyncio.sleep(1)
            self._moved.set()

    def _apply(self, record: ConsumerRecord) -> None:
        key = record.key.decode("utf-8", "replace") if record.key is not None else None
        if record.value is None:
            if key is not None and self._agents.pop(key, None) is not None:
                self._tell(key, None, record)
            return
        try:
            agent = decode(AgentRegistration, record.value, record.headers)
            if key is not None and key != agent.id:
                raise Rejected("validate", f"id: is {agent.id!r} but the record's key is {key!r}")
        except Rejected as rejected:
            log.warning("registration ignored", offset=record.offset, key=key, reason=rejected.reason)
            return
        self._agents[agent.id] = agent
        self._tell(agent.id, agent, record)

    def _tell(self, agent_id: str, agent: AgentRegistration | None, record: ConsumerRecord) -> None:
        if self._loaded:
            for listener in self._listeners:
                listener(agent_id, agent, record)
