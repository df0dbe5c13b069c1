"""Agents that share a partition and a worker's memory: a flood stays on its topic, in order, and harms no neighbour."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError

from agents_io.errors import RateLimited, ServerError
from agents_io.transport import Answer, Call
from schemas.messages import AgentRegistration
from streams.dispatch import agent_queues, backlogs
from streams.rules.dispatch import delaying
from streams.rules.dispatch.delaying import TASK_BYTES
from tests.support.dispatching import AGENT, Dispatching
from tests.support.wait import settle, until

pytestmark = pytest.mark.virtual_time

LIMITS = {"limits": {"maxRequests": 100_000, "windowMs": 60_000, "maxConcurrency": 4}}
BUDGET = 1000 * TASK_BYTES
BLOCKED_S = 30.0


class Gate:
    """Lets through as many as were released, in the order in which they came."""

    def __init__(self) -> None:
        self._left = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def acquire(self) -> None:
        """Wait for a place."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        self.release(0)
        await waiting

    def release(self, places: int) -> None:
        """So many more."""
        self._left += places
        while self._left and self._waiting:
            first = self._waiting.popleft()
            if not first.done():
                first.set_result(None)
                self._left -= 1


class Stubborn:
    """A transport on which agents with a gate answer only when it lets them, one task a permit."""

    def __init__(self) -> None:
        self.gates: dict[str, Gate] = {}
        self.tasks: list[str] = []
        self.on_call: Callable[[], None] = lambda: None

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """An answer, in time."""
        self.tasks.append(call.task_id)
        self.on_call()
        if agent.id in self.gates:
            await self.gates[agent.id].acquire()
        return Answer("ok", 0.9)


class Rig:
    """A handler with agents `hog`, which hangs until it is let go on, and `well`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **dispatch: Any) -> None:
        self.one = Dispatching(dispatch={"max_held_bytes": BUDGET} | dispatch, retry={"max_retries": 0})
        self.transport = Stubborn()
        monkeypatch.setattr(self.one.transport, "call", self.transport.call)
        self.transport.gates["hog"] = Gate()
        for agent in ("hog", "well"):
            self.one.register(**{**AGENT, "id": agent}, **LIMITS)
        self.offset = 0

    def send(self, agent: str, count: int, **fields: Any) -> list[str]:
        """Tasks on the topic, taken at once."""
        ids = []
        for _ in range(count):
            task = {"id": f"{agent}-{self.offset}", "target": agent, "payload": self.offset} | fields
            task["metadata"] = {"cache": False} | fields.get("metadata", {})
            self.one.take(self.offset, **task)
            ids.append(task["id"])
            self.offset += 1
        return ids

    def let_go(self, agent: str = "hog", calls: int = 1_000_000) -> None:
        """So many of its calls may be answered; all that are under way hear of it."""
        self.transport.gates[agent].release(calls)

    def called(self, agent: str) -> list[str]:
        """Ids of its tasks, in the order in which they were called."""
        return [task for task in self.transport.tasks if task.startswith(f"{agent}-")]

    def ends(self, topic: str = "results") -> int:
        """Records written to a topic."""
        return sum(output.topic == topic for _, _, outputs in self.one.partition.ended for output in outputs)

    def answered(self, agent: str) -> int:
        """Results of this agent's tasks."""
        wanted = f'"agentId":"{agent}"'.encode()
        return sum(
            output.topic == "results" and wanted in (output.value or b"")
            for _, _, outputs in self.one.partition.ended
            for output in outputs
        )


@pytest.fixture
async def make(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Rig]]:
    """Makes rigs and closes them."""
    made: list[Rig] = []

    def build(**dispatch: Any) -> Rig:
        made.append(Rig(monkeypatch, **dispatch))
        return made[-1]

    yield build
    for rig in made:
        rig.one.handler.close()
    await settle()


Make = Callable[..., Rig]


async def test_a_flood_fills_its_share_and_stays_on_its_topic(make: Make) -> None:
    """A fifth of the budget is the hog's; all of the well agent's tasks are answered meanwhile; nothing is written aside."""
    rig = make()
    hogs = rig.send("hog", 1500)
    assert rig.one.memory.used <= BUDGET / 5
    assert rig.one.resting == 1500 - rig.one.memory.held("hog") > 1000
    assert rig.one.handler.room("tasks")
    rig.send("well", 200)
    await until(lambda: rig.answered("well") == 200)
    assert rig.answered("hog") == 0
    rig.let_go()
    await until(lambda: rig.answered("hog") == 1500, BLOCKED_S)
    assert rig.called("hog") == hogs
    assert rig.ends("parked") == 0
    assert (rig.one.memory.used, rig.one.resting) == (0, 0)


async def test_tasks_of_an_agent_without_a_turn_wait_on_their_topic(make: Make) -> None:
    """However much memory is free: what cannot begin soon is read again when it can. All are answered, in order."""
    rig = make(max_held_bytes=100_000 * TASK_BYTES)
    rig.one.register(**{**AGENT, "id": "slow"}, limits={"maxRequests": 300, "windowMs": 8000, "maxConcurrency": 4})
    sent = rig.send("slow", 300)
    await until(lambda: rig.answered("slow") == 300)
    sent += rig.send("slow", 300)
    assert rig.one.memory.held("slow") == delaying.MAX_CLOSED
    assert rig.one.resting == 300 - delaying.MAX_CLOSED
    await until(lambda: rig.answered("slow") == 600, BLOCKED_S)
    assert rig.called("slow") == sent
    assert (rig.one.memory.used, rig.one.resting) == (0, 0)


async def test_memory_stays_bounded_while_a_flood_is_worked_off(make: Make) -> None:
    """Tasks are read back as their agent can be called with them, not all that would fit, and never beyond the budget."""
    rig = make(max_held_bytes=100 * TASK_BYTES)
    most_held, most_bytes = 0, 0

    def measure() -> None:
        nonlocal most_held, most_bytes
        most_held = max(most_held, rig.one.memory.held("hog"))
        most_bytes = max(most_bytes, rig.one.memory.used)

    rig.transport.on_call = measure
    hogs = rig.send("hog", 600)
    await asyncio.sleep(3 * agent_queues.CHECK_S)
    measure()
    rig.let_go()
    await until(lambda: rig.answered("hog") == 600, BLOCKED_S)
    assert rig.called("hog") == hogs
    assert most_held <= 2 * delaying.LOW
    assert most_bytes <= 100 * TASK_BYTES


async def test_new_tasks_come_after_those_on_the_topic(make: Make) -> None:
    """Also when there is room in memory again: the order of the topic is the order of the calls."""
    rig = make(max_held_bytes=1)
    hogs = rig.send("hog", 10)
    await until(lambda: len(rig.called("hog")) == 1)
    rig.let_go(calls=3)
    await until(lambda: rig.answered("hog") == 3)
    hogs += rig.send("hog", 10)
    rig.let_go()
    await until(lambda: rig.answered("hog") == 20)
    assert rig.called("hog") == hogs


async def test_the_more_urgent_comes_first_from_the_topic_too(make: Make) -> None:
    """By priority, then by arrival; one that memory holds already is not taken back."""
    rig = make(max_held_bytes=1)
    [first, *low] = rig.send("hog", 4)
    high = rig.send("hog", 2, metadata={"priority": 5})
    middle = rig.send("hog", 2, metadata={"priority": 1})
    rig.let_go()
    await until(lambda: rig.answered("hog") == 8)
    assert rig.called("hog") == [first, *high, *middle, *low]


async def test_deadlines_on_the_topic_are_kept(make: Make) -> None:
    """It ends as expired without being called; the rest waits on; nobody else is held up."""
    rig = make(max_held_bytes=1)
    [first] = rig.send("hog", 1)
    rig.send("hog", 20, metadata={"expiresIn": 50})
    [last] = rig.send("hog", 1)
    await until(lambda: rig.ends() == 20)
    rig.send("well", 5)
    await until(lambda: rig.answered("well") == 5)
    rig.let_go()
    await until(lambda: rig.ends() == 27)
    assert rig.called("hog") == [first, last]


async def test_a_record_that_is_gone_from_its_topic_ends_without_a_result(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its retention is shorter than the wait: nothing can be answered any more. It blocks neither commit nor others."""
    rig = make(max_held_bytes=1)
    ids = rig.send("hog", 4)
    await until(lambda: rig.called("hog") == ids[:1])
    del rig.one.log["tasks", 2]
    rig.let_go()
    await until(lambda: rig.answered("hog") == 3)
    assert rig.called("hog") == [ids[0], ids[1], ids[3]]
    assert ("tasks", 2, []) in rig.one.partition.ended
    assert rig.one.partition.expired == [("tasks", 2)]
    assert rig.one.resting == 0


@pytest.mark.parametrize("error", [KafkaConnectionError("away"), TimeoutError("slow"), OSError("refused")], ids=repr)
async def test_reading_back_is_tried_until_the_broker_answers(
    make: Make, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """A task is neither lost nor stuck; others go on meanwhile."""
    monkeypatch.setattr(backlogs, "RETRY_S", 0.02)
    rig = make(max_held_bytes=1)
    ids = rig.send("hog", 3)
    rig.one.read_again_errors.extend([error] * 4)
    rig.let_go()
    rig.send("well", 1)
    await until(lambda: rig.answered("well") == 1)
    await until(lambda: rig.answered("hog") == 3)
    assert rig.called("hog") == ids


async def test_the_partition_takes_nothing_in_with_too_many_on_the_topic(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Places take memory too, if little. Relocated records always have room: their ends wait for them."""
    monkeypatch.setattr(backlogs, "MAX_WAITING", 5)
    rig = make(max_held_bytes=1)
    rig.send("hog", 6)
    assert not rig.one.handler.room("tasks")
    assert not rig.one.handler.room("dispatch")
    assert rig.one.handler.room("parked")
    rig.let_go()
    await until(lambda: rig.answered("hog") == 6)
    assert rig.one.handler.room("tasks")


@pytest.mark.parametrize(("count", "size"), [(17, 1_000_000), (16_000, 10)], ids=["17 big", "16,000 small"])
@pytest.mark.parametrize("source", ["tasks", "parked"])
async def test_waiting_tasks_of_one_agent_never_delay_anothers(
    make: Make, monkeypatch: pytest.MonkeyPatch, count: int, size: int, source: str
) -> None:
    """It asked to be left alone for five minutes: its tasks wait, in memory or on their topic; the neighbour is called."""
    rig = make(max_held_bytes=64 * 1024 * 1024)
    one = rig.one

    async def call(agent: AgentRegistration, call: Call) -> Answer:
        rig.transport.tasks.append(call.task_id)
        if agent.id == "hog":
            raise RateLimited("later", retry_after_s=300.0)
        return Answer("ok", 0.9)

    monkeypatch.setattr(one.transport, "call", call)
    rig.send("hog", 1)
    await until(lambda: "task:retrying" in one.kinds())
    payload = "x" * size
    for offset in range(10, 10 + count):
        one.take(offset, source=source, id=f"hog-{offset}", target="hog", payload=payload)
        assert one.handler.room(source)
    for offset in range(5):
        one.take(100_000 + offset, source=source, id=f"well-{offset}", target="well", payload=offset)
    await until(lambda: rig.answered("well") == 5)
    assert len(rig.called("hog")) == 1
    assert rig.answered("hog") == 0, "waiting is no failure"


async def test_an_agents_tasks_outlast_its_outage(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call fails for a while; no task is lost by that, whether memory held it or its topic did."""
    rig = make(max_held_bytes=30 * TASK_BYTES)
    breaker = {"failureThreshold": 5, "resetTimeout": 30, "monitoringPeriod": 60_000}
    rig.one.register(**{**AGENT, "id": "well"}, **LIMITS, breaker=breaker)
    failing = 20

    async def call(agent: AgentRegistration, call: Call) -> Answer:
        nonlocal failing
        rig.transport.tasks.append(call.task_id)
        await asyncio.sleep(0)
        failing -= 1
        if failing >= 0:
            raise ServerError("503")
        return Answer("ok", 0.9)

    monkeypatch.setattr(rig.one.transport, "call", call)
    rig.send("well", 200)
    await until(lambda: rig.answered("well") == 200, BLOCKED_S)
    results = [o.value or b"" for _, _, outputs in rig.one.partition.ended for o in outputs if o.topic == "results"]
    failures = sum(b'"status":"failure"' in value for value in results)
    assert failures <= 5 + 4, "those that opened the circuit, and those under way then"
    assert rig.one.memory.used == 0


async def test_agents_that_rest_are_forgotten_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one of which something is known: a failure, a call in the window, or what is not committed yet."""
    monkeypatch.setattr(agent_queues, "MAX_AGENTS", 4)
    monkeypatch.setattr(agent_queues, "TIDY_S", 0.0)
    one = Dispatching(retry={"max_retries": 0})
    short = {"limits": {"maxRequests": 10, "windowMs": 1, "maxConcurrency": 1}}
    names = ["ill", "limited", "well-1", "well-2"]
    for name in [*names, "late", "newest"]:
        one.register(id=name, endpoint="http://h", **(LIMITS if name == "limited" else short))
    one.transport.script.append(ServerError("500"))
    for offset, name in enumerate(names):
        one.take(offset, target=name, payload=offset)
        await one.result(offset)
    await asyncio.sleep(0.2)
    one.take(4, target="late", payload=4)
    assert set(one.handler.callers) == {*names, "late"}, "what they know is not committed yet"
    await one.result(4)
    one.handler.changes()
    one.take(5, target="newest", payload=5)
    assert set(one.handler.callers) - {"late"} == {"ill", "limited", "newest"}
    await one.result(5)
    one.handler.close()
