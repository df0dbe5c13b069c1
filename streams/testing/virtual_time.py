"""Dispatch in memory and in virtual time: a day of timeouts in a second.

    def test_a_slow_agent_is_given_up():
        with VirtualTime(agents=[FakeAgent(hang(), id="slow")]) as v:
            outcome = v.submit("slow", {}, timeout="10m", retries=2).outcome()
            assert (outcome.status, v.elapsed >= 30 * 60) == ("timeout", True)

The rules, queues, circuits, limits, retries and the cache are the worker's own, with its defaults; there is no broker and no
network. Time passes only while nothing else can happen. Agents are `FakeAgent`s of any protocol, called directly, and functions
marked with `@agent`. Tasks of type `agent` only; no plans, no statistics.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import deque
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

from aiokafka.structs import ConsumerRecord
from prometheus_client import CollectorRegistry

from agents_io.rules.targets import AllowList
from agents_io.transports import Transports
from schemas.exact_json import loads
from schemas.messages import AgentRegistration
from schemas.topics import INTAKE, full_name
from streams.agents.agent_statuses import AgentStatuses
from streams.agents.table import AgentTable
from streams.client.errors import failure_of
from streams.client.handle import still_waiting
from streams.client.requests import Request, task_request
from streams.client.result import TaskResult, read_result
from streams.client.times import Duration, Moment, seconds
from streams.dispatch.balancer import Balancer
from streams.dispatch.callers import CallerFactory
from streams.dispatch.context import DispatchContext
from streams.dispatch.handler import DispatchHandler
from streams.dispatch.held_memory import HeldMemory
from streams.engine.partition_processor import PartitionProcessor
from streams.metrics import DispatchMetrics
from streams.rules.dispatch.builtins import Builtins
from streams.rules.dispatch.records import DispatchRecorder
from streams.rules.records import Output
from streams.rules.schedules.records import ScheduleRecorder, read_due
from streams.rules.source_record import SourceRecord
from streams.settings import load
from streams.testing.direct_calls import DirectCall, DirectCalls
from streams.testing.virtual_loop import VirtualTimeLoop

T = TypeVar("T")

BEGIN_MS = 1_767_225_600_000
"""2026-01-01T00:00:00Z: when every virtual time begins."""
WAIT = "7d"
PROTOCOLS = ("http", "grpc", "gateway", "a2a", "openai", "mcp", "kafka")


class Submitted:
    """A task that was sent; `id` is its id."""

    def __init__(self, owner: VirtualTime, task_id: str) -> None:
        self.id = task_id
        self._owner = owner

    def outcome(self, wait: Duration = WAIT) -> TaskResult[Any]:
        """Let time pass until it has ended. Raises `WaitTimeout` after `wait` of virtual time."""
        return self._owner._outcome(self.id, wait)

    def result(self, wait: Duration = WAIT) -> TaskResult[Any]:
        """As `outcome`; raises `TaskFailed` for a task that failed."""
        found = self.outcome(wait)
        if not found.ok:
            raise failure_of(found)
        return found

    @property
    def done(self) -> bool:
        """Whether it has ended by now."""
        return self.id in self._owner._results


class VirtualTime:
    """`with VirtualTime(agents=[...]) as v:`, in a test that is not a coroutine.

    `settings`: dotted names and values, as in `Pipeline`. `seed`: of everything random, which makes a test the same each time.
    """

    def __init__(self, agents: Iterable[Any] = (), *, settings: Mapping[str, Any] | None = None, seed: int = 1) -> None:
        self._agents = list(agents)
        self.settings = load(dict(settings or {}), environ={}, directory=Path(__file__).parent)
        self._random = random.Random(seed)
        self._loop: VirtualTimeLoop | None = None
        self._begun = 0.0
        self._known = _Agents()
        self._transport = DirectCalls(lambda: self.elapsed)
        self._results: dict[str, TaskResult[Any]] = {}
        self._arrived = asyncio.Event()
        self._partition: _Partition | None = None
        self.events: list[dict[str, Any]] = []
        """All so far, in order."""

    @property
    def elapsed(self) -> float:
        """Virtual seconds since the beginning."""
        return 0.0 if self._loop is None else self._loop.time() - self._begun

    @property
    def calls(self) -> list[DirectCall]:
        """Every call of an agent so far: `agent_id`, `task_id`, `payload`, `at` (virtual seconds), `attempt`."""
        return self._transport.calls

    def run(self, target: str | None, payload: Any = None, *, wait: Duration = WAIT, **options: Any) -> TaskResult[Any]:
        """Submit a task and let time pass until it has ended. Takes what `submit` takes. Raises `TaskFailed`, `WaitTimeout`."""
        return self.submit(target, payload, **options).result(wait)

    def submit(
        self,
        target: str | None,
        payload: Any = None,
        *,
        timeout: Duration | None = None,
        deadline: Moment | None = None,
        expires_in: Duration | None = None,
        not_before: Moment | None = None,
        id: str | None = None,
        capabilities: Sequence[str] | None = None,
        **metadata: Any,
    ) -> Submitted:
        """Submit a task; no time passes. Arguments as of `Client.submit`. Raises `InvalidTask`."""
        request = task_request(
            id or uuid.UUID(int=self._random.getrandbits(128)).hex,
            target,
            payload,
            timeout=timeout,
            deadline=deadline,
            expires_in=expires_in,
            not_before=not_before,
            capabilities=capabilities,
            metadata=metadata,
        )
        self._do(self._send(request))
        return Submitted(self, request.id)

    def advance(self, duration: Duration) -> None:
        """Let so much time pass."""
        self._do(asyncio.sleep(seconds(duration, "duration")))

    def cancel(self, task_id: str) -> None:
        """Ask for a task to be cancelled, as a control does."""
        self._do(self._cancel(task_id))

    def add(self, *agents: Any) -> None:
        """Register agents, or register them anew."""
        self._do(self._register(agents))

    def remove(self, agent_id: str) -> None:
        """Unregister an agent."""
        self._do(self._unregister(agent_id))

    def __enter__(self) -> VirtualTime:
        self._loop = VirtualTimeLoop()
        self._begun = self._loop.time()
        try:
            self._do(self._open())
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop, self._loop = self._loop, None
        if loop is None:
            return
        try:
            loop.run_until_complete(self._close())
        finally:
            loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            work.close()
            raise RuntimeError("use it within `with VirtualTime(...) as v:`")
        try:
            return self._loop.run_until_complete(work)
        except BaseException:
            work.close()
            raise

    async def _open(self) -> None:
        self._partition = _Partition(self)
        await self._register(self._agents)

    async def _close(self) -> None:
        if self._partition is not None:
            self._partition.handler.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _register(self, agents: Iterable[Any]) -> None:
        for one in agents:
            agent = AgentRegistration.model_validate(self._transport.add(one))
            self._known.agents[agent.id] = agent
            self._running.handler.agent_changed(agent.id, agent)
            self._running.handler.agent_available(agent)

    async def _unregister(self, agent_id: str) -> None:
        if self._known.agents.pop(agent_id, None) is None:
            raise KeyError(f"agent {agent_id}: not registered")
        self._running.handler.agent_changed(agent_id, None)

    async def _cancel(self, task_id: str) -> None:
        self._running.cancelled.add(task_id)
        self._running.release(task_id)
        self._running.handler.cancel(task_id)

    async def _send(self, request: Request) -> None:
        self._running.take("tasks", request.key, request.value, ())
        await asyncio.sleep(0)

    def _outcome(self, task_id: str, wait: Duration) -> TaskResult[Any]:
        limit_s = seconds(wait, "wait")

        async def until() -> None:
            async with asyncio.timeout(limit_s):
                while task_id not in self._results:
                    self._arrived.clear()
                    await self._arrived.wait()

        try:
            self._do(until())
        except TimeoutError:
            raise still_waiting(task_id, limit_s) from None
        return self._results[task_id]

    @property
    def _running(self) -> _Partition:
        if self._partition is None:
            raise RuntimeError("use it within `with VirtualTime(...) as v:`")
        return self._partition

    def _written(self, output: Output) -> None:
        """A record that a worker would have written."""
        if output.topic == "results":
            result = read_result(output.value)
            self._results.setdefault(result.task_id, result)
            self._arrived.set()
        elif output.topic == "events":
            self.events.append(loads(output.value or b"null"))
        elif output.topic in INTAKE:
            self._running.take(output.topic, output.key, output.value, output.headers)
        elif output.topic == "scheduled":
            self._running.schedule(output)

    def _wall_ms(self) -> int:
        return BEGIN_MS + round(self.elapsed * 1000)


class _Agents:
    """The registered agents, as `AgentTable` shows them."""

    def __init__(self) -> None:
        self.agents: dict[str, AgentRegistration] = {}

    def get(self, agent_id: str) -> AgentRegistration | None:
        return self.agents.get(agent_id)

    @property
    def version(self) -> object:
        return list(map(id, self.agents.values()))

    def all(self) -> Iterable[AgentRegistration]:
        return self.agents.values()

    async def catch_up(self) -> None:
        """All that was written is known."""


class _Partition:
    """The one partition there is, and its handler. Records that are not finished stay in `log`, as on their topic."""

    number = 0

    def __init__(self, owner: VirtualTime) -> None:
        settings = owner.settings
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._prefix = settings.topic_prefix
        self._offset = 0
        self._log: dict[tuple[str, int], ConsumerRecord] = {}
        self._intake: deque[tuple[str, ConsumerRecord]] = deque()
        self._after: list[Any] = []
        self._scheduled: dict[str, tuple[asyncio.TimerHandle, Output]] = {}
        self._recorder = ScheduleRecorder(settings.app_id, self._prefix, "virtual-time")
        self.cancelled: set[str] = set()
        statuses, table = AgentStatuses(), cast("AgentTable", owner._known)
        transports = Transports(dict.fromkeys(PROTOCOLS, owner._transport))
        context = DispatchContext(
            settings=settings,
            agents=table,
            callers=CallerFactory(settings, transports, owner._random, lambda _agent, _confidence: None),
            memory=HeldMemory(settings.dispatch.max_held_bytes, settings.dispatch.max_in_flight),
            recorder=DispatchRecorder(settings.app_id, "dispatch", self._prefix, "virtual-time"),
            emit=owner._written,
            metrics=DispatchMetrics(CollectorRegistry()),
            wall_ms=owner._wall_ms,
            cancelled=lambda task_id, _submitted_ms: "cancelled" if task_id in self.cancelled else None,
            partition_count=lambda: 1,
            builtin=Builtins(allowed=AllowList(()), functions=(), patterns=False, limits={}).agent,
            cleared=lambda _agent_id: 0,
            balancer=Balancer(table, statuses, settings, owner._wall_ms),
            circuit_changed=lambda _agent_id, _caller: None,
            read_again=self._read_again,
        )
        self.handler = DispatchHandler(cast("PartitionProcessor", self), context, ())

    def take(self, source: str, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> None:
        """A record at the end of a topic; it is handed over as soon as there is room."""
        self._offset += 1
        topic, size = full_name(source, self._prefix), len(value or b"")
        record = ConsumerRecord(
            topic, 0, self._offset, self._owner._wall_ms(), 0, key, value, None, len(key or b""), size, tuple(headers)
        )
        self._log[source, self._offset] = record
        self._intake.append((source, record))
        self.wake()

    def schedule(self, output: Output) -> None:
        """A task whose time has not come, as the role `schedules` keeps it."""
        due = read_due(output.headers)
        left_s = (due.not_before_ms - self._owner._wall_ms()) / 1000
        timer = self._loop.call_later(max(0.0, left_s), self.release, due.task_id)
        self._scheduled.setdefault(due.task_id, (timer, output))

    def release(self, task_id: str) -> None:
        """Its time has come, or it was cancelled."""
        timer, output = self._scheduled.pop(task_id, (None, None))
        if timer is None or output is None:
            return
        timer.cancel()
        record = SourceRecord(
            "scheduled", 0, 0, output.key, output.value, tuple(output.headers), self._owner._wall_ms()
        )
        released, _ = self._recorder.released(record, 1, None, self._owner._wall_ms())
        self._owner._written(released)

    def wake(self) -> None:
        """There may be room."""
        self._loop.call_soon(self._pump)

    def caught_up(self, source: str) -> bool:
        """There was no owner before."""
        return True

    def touch(self) -> None:
        """Nothing is stored."""

    def afterwards(self, told: Any) -> None:
        """Called once what was completed is committed."""
        self._after.append(told)

    def complete(self, source: str, offset: int, outputs: Sequence[Output]) -> None:
        """The end of a record: what it led to is written a moment later, as after a commit."""
        self._log.pop((source.removeprefix(self._prefix), offset), None)
        self._loop.call_soon(self._commit, list(outputs))

    def _commit(self, outputs: list[Output]) -> None:
        told, self._after = self._after, []
        for call in told:
            call()
        for output in outputs:
            self._owner._written(output)
        self._pump()

    def _pump(self) -> None:
        while self._intake and self.handler.room(self._intake[0][0]):
            self.handler.process(*self._intake.popleft())

    async def _read_again(self, source: str, number: int, offsets: Sequence[int]) -> dict[int, ConsumerRecord]:
        await asyncio.sleep(0)
        return {offset: self._log[source, offset] for offset in offsets if (source, offset) in self._log}
