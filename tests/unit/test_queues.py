"""Agents that share a home and a worker: a hog leaves room, tasks put aside come back in order, once, and priorities hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from agents_io.errors import ServerError
from agents_io.transport import Answer, Call
from schemas.messages import AgentRegistration
from streams.dispatch import queues
from streams.rules.records import PARKS_HEADER, Output
from tests.support.dispatching import AGENT, Dispatching
from tests.support.homes import until

Make = Callable[..., Dispatching]
LIMITS = {"limits": {"maxRequests": 100_000, "windowMs": 60_000, "maxConcurrency": 4}}
LONG = {"metadata": {"timeout": 120_000, "cache": False}}
BUDGET = 100


class Stubborn:
    """A transport on which `hung` agents answer only when `gates` let them, one task a permit."""

    def __init__(self) -> None:
        self.gates: dict[str, asyncio.Semaphore] = {}
        self.tasks: list[str] = []

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """An answer, in time."""
        self.tasks.append(call.task_id)
        if agent.id in self.gates:
            await self.gates[agent.id].acquire()
        return Answer("ok", 0.9)


class Rig:
    """A handler, and its `parked` topic read back as a home would."""

    def __init__(self, one: Dispatching, transport: Stubborn) -> None:
        self.one = one
        self.transport = transport
        self.backlog: list[tuple[int, dict[str, Any]]] = []
        self.offset = 0
        self.read = 0
        self.taken_from_parked = 0

    def send(self, agent: str, count: int, **fields: Any) -> list[str]:
        """Tasks on the topic; they are taken when there is room."""
        ids = []
        for _ in range(count):
            task = {"id": f"{agent}-{self.offset}", "target": agent, "payload": self.offset, **LONG, **fields}
            self.backlog.append((self.offset, task))
            ids.append(task["id"])
            self.offset += 1
        return ids

    def turn(self) -> None:
        """Take what there is room for, of both topics."""
        while self.backlog and self.one.handler.room("tasks"):
            offset, task = self.backlog.pop(0)
            self.one.take(offset, **task)
        for _, _, outputs in self.one.home.ended[self.read :]:
            self.read += 1
            for output in outputs:
                if output.topic == "parked":
                    self.taken_from_parked += 1
                    headers = tuple(output.headers)
                    self.one.take(self.taken_from_parked, output.value or b"", source="parked", headers=headers)

    async def until(self, condition: Callable[[], Any], timeout_s: float = 10.0) -> None:
        """Turn until the condition holds."""

        def turned() -> bool:
            self.turn()
            return bool(condition())

        await until(turned, timeout_s)

    def outputs(self, topic: str) -> list[Output]:
        """What was written to a topic."""
        return [o for _, _, outputs in self.one.home.ended for o in outputs if o.topic == topic]

    def answered(self, agent: str) -> int:
        """Results of this agent's tasks."""
        return sum(f'"agentId":"{agent}"'.encode() in (o.value or b"") for o in self.outputs("results"))

    def holds(self, agent: str) -> int:
        """Tasks in the agent's lane, those being called included."""
        lane = self.one.handler._queues.callers[agent].lane
        return lane.waiting + lane.in_flight


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A rig with agents `hog`, which hangs, and `well`; a worker of a hundred tasks."""
    one = Dispatching(dispatch={"max_in_flight": BUDGET})
    transport = Stubborn()
    monkeypatch.setattr(one.transport, "call", transport.call)
    transport.gates["hog"] = asyncio.Semaphore(0)
    for agent in ("hog", "well"):
        one.register(**{**AGENT, "id": agent}, **LIMITS)
    yield Rig(one, transport)
    one.handler.close()


async def test_a_hog_leaves_most_of_the_worker_and_does_not_hold_its_neighbour_up(rig: Rig) -> None:
    """300 tasks before those of another agent: a fifth of the budget is the hog's, the rest goes aside, once each."""
    rig.send("well", 1)
    await rig.until(lambda: rig.answered("well") == 1)
    hogs = rig.send("hog", 300)
    rig.send("well", 50)
    await rig.until(lambda: rig.answered("well") == 51)
    assert rig.holds("hog") <= BUDGET // 5
    assert rig.answered("hog") == 0
    aside = rig.outputs("parked")
    assert len(aside) == 300 - rig.holds("hog")
    assert rig.one.handler.resting() == len(aside)
    rig.transport.gates["hog"]._value = 1_000_000  # it is well again
    rig.transport.gates["hog"].release()
    for _ in range(4):
        rig.transport.gates["hog"].release()
    await rig.until(lambda: rig.answered("hog") == 300)
    assert len(rig.outputs("parked")) == len(aside)
    assert [task for task in rig.transport.tasks if task.startswith("hog")] == hogs


async def test_alone_an_agents_backlog_stays_on_its_topic(rig: Rig) -> None:
    """Nobody waits behind it: nothing is put aside, and no deadline runs."""
    rig.send("hog", 300)
    with pytest.raises(TimeoutError):
        await rig.until(lambda: not rig.backlog, timeout_s=0.8)
    assert rig.outputs("parked") == []
    assert rig.holds("hog") <= BUDGET // 5
    assert len(rig.backlog) > 200
    assert rig.one.handler.room("parked")


async def test_neighbours_that_are_all_busy_do_not_push_each_other_aside(rig: Rig) -> None:
    """Two agents with a backlog each: both have enough to do, so the backlog stays on its topic."""
    rig.transport.gates["well"] = asyncio.Semaphore(0)
    for _ in range(100):
        rig.send("hog", 1)
        rig.send("well", 1)
    with pytest.raises(TimeoutError):
        await rig.until(lambda: not rig.backlog, timeout_s=0.8)
    assert rig.outputs("parked") == []
    assert rig.holds("well") > 4


async def test_the_more_urgent_task_takes_the_place_of_a_less_urgent_one(rig: Rig) -> None:
    """In a full lane the last of the lowest priority goes aside instead; the urgent one is called next."""
    rig.send("well", 1)
    rig.send("hog", 60)
    await rig.until(lambda: not rig.backlog)
    last = [task for task in rig.transport.tasks if task.startswith("hog")]
    [urgent] = rig.send("hog", 1, metadata={"timeout": 120_000, "priority": 5})
    before = rig.holds("hog")
    await rig.until(lambda: not rig.backlog)
    assert rig.holds("hog") >= before
    rig.transport.gates["hog"].release()
    await rig.until(lambda: len([t for t in rig.transport.tasks if t.startswith("hog")]) > len(last))
    assert rig.transport.tasks[-1] == urgent
    assert all(dict(o.headers)[PARKS_HEADER] == b"1" for o in rig.outputs("parked"))


async def test_a_task_put_aside_ends_at_its_deadline(rig: Rig) -> None:
    """It comes back for a last look and then ends as a timeout, without holding anybody up."""
    rig.send("well", 1)
    rig.send("hog", 40, metadata={"timeout": 1500, "retries": 0})
    rig.send("well", 5)
    await rig.until(lambda: rig.answered("well") == 6)
    assert rig.outputs("parked")
    await rig.until(lambda: rig.answered("hog") == 36)  # all but those the agent was called with
    assert rig.answered("well") == 6
    assert rig.one.handler.resting() == 0


async def test_lanes_that_rest_are_forgotten_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one of which something is known: a failure, a call in the window, or what is not committed yet."""
    monkeypatch.setattr(queues, "MAX_LANES", 4)
    monkeypatch.setattr(queues, "TIDY_S", 0.0)
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
