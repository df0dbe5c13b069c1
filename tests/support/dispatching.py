"""One dispatch handler with everything real but the partition, the agents topic and the transport."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, cast

import orjson
import pytest
from prometheus_client import CollectorRegistry

from agents_io.errors import AgentError
from agents_io.protocols.transports import Transports
from agents_io.rules.targets import AllowList
from agents_io.transport import Answer, Call
from schemas.exact_json import loads
from schemas.messages import AgentRegistration
from streams.agents.agent_statuses import AgentStatuses
from streams.agents.table import AgentTable
from streams.dispatch.backlogs import Backlogs
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
from streams.settings import Settings
from streams.tracing.spans import Tracing
from tests.support.memory import held
from tests.support.partition_fakes import intake
from tests.support.wait import settle, until

PROTOCOLS = ("http", "gateway", "task:http", "task:function", "task:pattern")
AGENT = {"id": "a1", "endpoint": "http://h"}
ONE_AT_A_TIME = {"limits": {"maxConcurrency": 1}}
DEEP = b"[" * 300 + b"]" * 300
"""JSON nested too deep to be passed on."""


class FakePartition:
    """Keeps what was completed, in order."""

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.touched = 0
        self.ended: list[tuple[str, int, list[Output]]] = []
        self.after: list[Callable[[], None]] = []
        self.is_caught_up = True
        self.expired: list[tuple[str, int]] = []

    def caught_up(self, source: str) -> bool:
        """Whether the relocated records of earlier owners have come."""
        return self.is_caught_up

    def afterwards(self, told: Callable[[], None]) -> None:
        """Keep it: nothing is committed here but by `commit`."""
        self.after.append(told)

    def commit(self) -> None:
        """What was completed so far is committed."""
        told, self.after = self.after, []
        for call in told:
            call()

    def complete(self, source: str, offset: int, outputs: Sequence[Output]) -> None:
        """Keep it."""
        self.ended.append((source, offset, list(outputs)))

    def complete_expired(self, source: str, offset: int) -> None:
        """Keep it, and that its record was gone."""
        self.expired.append((source, offset))
        self.complete(source, offset, [])

    def touch(self) -> None:
        """The handler's state changed."""
        self.touched += 1

    def wake(self) -> None:
        """Nobody waits for room here."""


class FakeAgents:
    """A table that is `late` is known after `catch_up` only."""

    def __init__(self) -> None:
        self.known: dict[str, AgentRegistration] = {}
        self.late: dict[str, AgentRegistration] = {}
        self.lookups = 0
        self.gate = asyncio.Event()
        self.gate.set()

    def get(self, agent_id: str) -> AgentRegistration | None:
        """The agent of that id."""
        return self.known.get(agent_id)

    @property
    def version(self) -> object:
        """Differs when another agent is known."""
        return list(map(id, self.known.values()))

    def all(self) -> Iterable[AgentRegistration]:
        """All of them."""
        return self.known.values()

    async def catch_up(self) -> None:
        """What was late is known now."""
        self.lookups += 1
        await self.gate.wait()
        self.known |= self.late


class FakeTransport:
    """Answers `script` one by one, then for ever the last word; keeps every call. Closed gate: agents that do not answer."""

    def __init__(self) -> None:
        self.script: deque[Answer | BaseException] = deque()
        self.last: Answer | BaseException = Answer("ok", 0.9)
        self.calls: list[tuple[AgentRegistration, Call]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.cancelled = 0

    async def health(self, agent: AgentRegistration, timeout_s: float) -> bool:
        """Well."""
        return True

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """As scripted."""
        self.calls.append((agent, call))
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        outcome = self.script.popleft() if self.script else self.last
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def close(self) -> None:
        """Nothing to release."""

    @property
    def tasks(self) -> list[str]:
        """The ids of the tasks called, in order."""
        return [call.task_id for _, call in self.calls]


class Dispatching:
    """A handler and everything around it. `fields`: settings; retries wait 1 ms unless told otherwise.

    `partition`: a real one in place of the fake.
    """

    def __init__(
        self, number: int = 0, partitions: int = 1, kept: Iterable[bytes] = (), cleared_ms: int = 0,
        tracing: Tracing | None = None, allow: Sequence[str] = ("h", "*.wide"), patterns: bool = True,
        partition: PartitionProcessor | None = None, **fields: Any,
    ) -> None:  # fmt: skip
        """`allow`: hosts of http tasks; `patterns`: whether there is a control plane."""
        retry = {"initial_delay": 1, "jitter": False} | fields.pop("retry", {})
        self.settings = Settings.model_validate({"retry": retry, **fields})
        self.partition = FakePartition(number)
        self.agents = FakeAgents()
        self.transport = FakeTransport()
        self.emitted: list[Output] = []
        self.unsent: dict[bytes, list[Output]] = {}
        self.registry = CollectorRegistry()
        self.skew_ms = 0
        self._loop = asyncio.get_running_loop()
        self._wall_s = time.time() - self._loop.time()
        self.cancel_requests: dict[str, str] = {}
        self.partitions = partitions
        self.cleared_ms = cleared_ms
        self.transports = dict.fromkeys(PROTOCOLS, self.transport)
        self.builtins = Builtins(
            allowed=AllowList(allow),
            functions=("f", "g"),
            patterns=patterns,
            limits=dict.fromkeys(("http", "function", "pattern")),
        )
        self.templates: dict[str, Any] = {}
        self.agent_statuses = AgentStatuses()
        self.turned: list[str] = []
        self.worth: Callable[[float], float | None] = lambda confidence: None
        self.recorder = DispatchRecorder(app_id="app", processor="dispatch", prefix="t.", group="app-dispatch")
        self.log: dict[tuple[str, int], Any] = {}
        self.read_again_errors: deque[BaseException] = deque()
        self.asked_again: list[tuple[str, int]] = []
        self.may_read_again = asyncio.Event()
        self.may_read_again.set()
        self.memory = HeldMemory(self.settings.dispatch.max_held_bytes, self.settings.dispatch.max_in_flight)
        context = DispatchContext(
            settings=self.settings,
            agents=cast("AgentTable", self.agents),
            callers=CallerFactory(
                settings=self.settings,
                transport=Transports(self.transports),
                rng=random.Random(1),
                worth=lambda _, confidence: self.worth(confidence),
            ),
            memory=self.memory,
            recorder=self.recorder,
            emit=self.emitted.append,
            withdraw=lambda key: self.unsent.pop(key, []),
            metrics=DispatchMetrics(self.registry),
            wall_ms=self.wall_ms,
            cancelled=lambda task_id, submitted_ms: self.cancel_requests.get(task_id),
            partition_count=lambda: self.partitions,
            builtin=self.builtins.agent,
            cleared=lambda agent_id: self.cleared_ms,
            balancer=Balancer(
                agents=self.agents, agent_statuses=self.agent_statuses, settings=self.settings, wall_ms=self.wall_ms
            ),
            circuit_changed=lambda agent_id, caller: self.turned.append(agent_id),
            read_again=self.read_again,
            templates=self.templates,
            tracing=tracing,
        )
        self.handler = DispatchHandler(partition or cast("PartitionProcessor", self.partition), context, kept)
        self.register(**AGENT)

    @property
    def resting(self) -> int:
        """How many tasks wait on their topic."""
        return sum(map(len, held(self.handler, Backlogs)))

    def wall_ms(self) -> int:
        """The wall clock, as far ahead as the test wants."""
        return int((self._wall_s + self._loop.time()) * 1000) + self.skew_ms

    def register(self, **fields: Any) -> AgentRegistration:
        """Make an agent known."""
        agent = AgentRegistration.model_validate(fields)
        self.agents.known[agent.id] = agent
        return agent

    def take(
        self,
        offset: int,
        task: dict[str, Any] | bytes | None = None,
        *,
        source: str = "tasks",
        headers: tuple[tuple[str, Any], ...] = (),
        **fields: Any,
    ) -> None:
        """Hand over a record: the bytes given, or a plain task `t<offset>` for `a1` with these fields changed."""
        if not isinstance(task, bytes):
            task = orjson.dumps({"id": f"t{offset}", "type": "agent", "target": "a1", "payload": {}} | fields)
        record = intake(
            offset, task, source=source, number=self.partition.number, headers=headers, timestamp_ms=self.wall_ms()
        )
        self.process(source, record)

    def process(self, source: str, record: Any) -> None:
        """Hand over a record, which stays on its topic."""
        self.log[source, record.offset] = record
        self.handler.process(source, record)

    async def read_again(self, source: str, number: int, offsets: Sequence[int]) -> dict[int, Any]:
        """Records that were handed over before, unless they were deleted from `log`; once they may be read."""
        self.asked_again += [(source, offset) for offset in offsets]
        await asyncio.sleep(0)
        await self.may_read_again.wait()
        if self.read_again_errors:
            raise self.read_again_errors.popleft()
        return {offset: self.log[source, offset] for offset in offsets if (source, offset) in self.log}

    async def end(self, offset: int) -> dict[str, Any]:
        """Wait for the end of a record: its values by topic, an event as `events`. It must have exactly one."""
        await until(lambda: any(o == offset for _, o, _ in self.partition.ended))
        await asyncio.sleep(0)
        [outputs] = [outputs for _, o, outputs in self.partition.ended if o == offset]
        found = {o.topic: o.value if o.topic.startswith("dlq.") else loads(o.value or b"null") for o in outputs}
        assert len(found) == len(outputs)
        return found

    async def result(self, offset: int) -> dict[str, Any]:
        """Wait for a task's result."""
        return cast("dict[str, Any]", (await self.end(offset))["results"])

    def events(self) -> list[dict[str, Any]]:
        """What went out at once, outside commits."""
        return [loads(output.value or b"") for output in self.emitted]

    def kinds(self) -> list[str]:
        """The types of these events."""
        return [event["type"] for event in self.events()]

    def count(self, name: str, **labels: str) -> float:
        """A metric's value."""
        return self.registry.get_sample_value(name, labels) or 0.0


def failing(error: type[AgentError], message: str = "why") -> AgentError:
    """An error as a transport raises it."""
    return error(message)


Make = Callable[..., Dispatching]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Makes handlers, with the arguments of `Dispatching`, and closes them."""
    made: list[Dispatching] = []

    def build(*arguments: Any, **fields: Any) -> Dispatching:
        made.append(Dispatching(*arguments, **fields))
        return made[-1]

    yield build
    for one in made:
        one.handler.close()
    await settle()
