"""Tasks that wait until an agent can take them: in order, within the memory, until their deadline, and none is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError

from schemas.messages import AgentStanding
from streams.dispatch import backlogs, unassigned
from streams.rules.dispatch.delaying import TASK_BYTES
from tests.support.dispatching import Dispatching
from tests.support.wait import settle, until

pytestmark = pytest.mark.virtual_time

Make = Callable[..., Dispatching]
FLY: dict[str, Any] = {"target": None, "capabilities": ["fly"]}
ANY_NUMBER = {"max_requests": 100_000, "max_concurrency": 1}


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Makes handlers without agents, which wait for any; closes them."""
    made: list[Dispatching] = []

    def build(**fields: Any) -> Dispatching:
        dispatch = {"await_agent": "always"} | fields.pop("dispatch", {})
        made.append(Dispatching(dispatch=dispatch, limits=ANY_NUMBER, cache={"enabled": False}, **fields))
        made[-1].agents.known.clear()
        return made[-1]

    yield build
    for one in made:
        one.handler.close()
    await settle()


def appear(one: Dispatching, name: str = "bird", capabilities: tuple[str, ...] = ("fly",)) -> None:
    """An agent is registered."""
    one.handler.agent_available(one.register(id=name, endpoint="http://b", capabilities=list(capabilities)))


async def test_all_that_wait_go_to_the_agent_that_appears_in_their_order(make: Make) -> None:
    """More than one turn of the loop tries; each is answered once."""
    one = make()
    count = 3 * unassigned.BATCH + 1
    for offset in range(count):
        one.take(offset, **FLY)
    await settle(50)
    assert len(one.partition.ended) == 0
    appear(one)
    await until(lambda: len(one.partition.ended) == count, 20)
    assert one.transport.tasks == [f"t{offset}" for offset in range(count)]
    assert one.memory.used == 0


async def test_only_the_groups_that_the_agent_serves_are_tried(make: Make) -> None:
    """One that wants more, or another agent by name, waits on."""
    one = make()
    one.take(0, **FLY)
    one.take(1, target=None, capabilities=["fly", "sing"])
    one.take(2, target="bee")
    one.take(3, target="bird")
    await settle(50)
    appear(one)
    for offset in (0, 3):
        assert (await one.result(offset))["agentId"] == "bird"
    assert [one.handler.explain("tasks", offset)["reason"] for offset in (1, 2)] == ["no_agent"] * 2  # type: ignore[index]
    appear(one, "bee", ("sing", "fly"))
    for offset in (1, 2):
        assert (await one.result(offset))["agentId"] == "bee"


async def test_they_are_tried_again_now_and_then(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent may become well without anybody saying so, for instance when a standing has run out."""
    monkeypatch.setattr(unassigned, "CHECK_S", 0.02)
    one = make()
    one.take(0, **FLY)
    await settle()
    one.register(id="bird", endpoint="http://b", capabilities=["fly"])
    assert (await one.result(0))["agentId"] == "bird"


async def test_what_memory_cannot_hold_waits_on_its_topic_in_its_order(make: Make) -> None:
    """A share of the memory, no more; then all are read back and called in the order in which they came."""
    one = make(dispatch={"max_held_bytes": 200 * TASK_BYTES})
    for offset in range(500):
        one.take(offset, **FLY)
    await settle(50)
    assert one.memory.used <= 200 * TASK_BYTES // 2
    assert one.resting > 300
    assert one.handler.room("tasks")
    assert one.handler.explain("tasks", 499) == {"reason": "no_agent", "waits": True}
    appear(one)
    await until(lambda: len(one.partition.ended) == 500, 30)
    assert one.transport.tasks == [f"t{offset}" for offset in range(500)]
    assert (one.memory.used, one.resting) == (0, 0)


async def test_a_flood_without_an_agent_leaves_an_agents_tasks_alone(make: Make) -> None:
    """They are called as if it were not there."""
    one = make(dispatch={"max_held_bytes": 200 * TASK_BYTES})
    one.register(id="well", endpoint="http://w")
    for offset in range(1000):
        one.take(offset, **FLY)
    for offset in range(1000, 1050):
        one.take(offset, target="well")
    await until(lambda: len(one.partition.ended) == 50)
    assert {agent.id for agent, _ in one.transport.calls} == {"well"}


async def test_each_expires_at_its_own_deadline(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory or on the topic; those without one wait on."""
    monkeypatch.setattr(unassigned, "CHECK_S", 0.05)
    one = make(dispatch={"max_held_bytes": 1})
    for offset in range(20):
        one.take(offset, metadata={"expiresIn": 40 + 200 * (offset % 2)}, **FLY)
    one.take(20, **FLY)
    for offset in range(20):
        result = await one.result(offset)
        assert (result["status"], result["error"]["code"]) == ("timeout", "expired")
    assert one.transport.calls == []
    appear(one)
    assert (await one.result(20))["status"] == "success"


async def test_a_deadline_in_memory_is_kept_without_waiting_for_the_next_check(make: Make) -> None:
    """The timer goes by the earliest of them."""
    one = make()
    one.take(0, **FLY)
    one.take(1, metadata={"expiresIn": 60}, **FLY)
    assert (await one.result(1))["error"]["code"] == "expired"
    one.take(2, metadata={"expiresIn": 60}, **FLY)
    assert (await one.result(2))["error"]["code"] == "expired"


async def test_cancelled_in_memory_and_on_the_topic(make: Make) -> None:
    """Each ends once, as cancelled; the others keep their turn."""
    one = make(dispatch={"max_held_bytes": 1})
    for offset in range(4):
        one.take(offset, **FLY)
    await settle()
    for task_id in ("t0", "t2"):
        one.cancel_requests[task_id] = "enough"
        one.handler.cancel(task_id)
    for offset in (0, 2):
        assert (await one.result(offset))["status"] == "cancelled"
    appear(one)
    for offset in (1, 3):
        assert (await one.result(offset))["status"] == "success"
    assert one.transport.tasks == ["t1", "t3"]


async def test_one_that_still_finds_nobody_stays_first(make: Make) -> None:
    """The agent was well for a moment only: nothing is lost, and nothing overtakes."""
    one = make()
    for offset in range(3):
        one.take(offset, **FLY)
    await settle()
    bird = one.register(id="bird", endpoint="http://b", capabilities=["fly"])
    away = {"agentId": "bird", "at": one.wall_ms(), "healthy": False, "reason": "checks"}
    one.agent_statuses.note(AgentStanding.model_validate(away))
    one.handler.agent_available(bird)
    await settle(50)
    assert one.transport.calls == []
    one.agent_statuses.note(AgentStanding.model_validate({"agentId": "bird", "at": one.wall_ms()}))
    one.handler.agent_available(bird)
    await until(lambda: len(one.partition.ended) == 3)
    assert one.transport.tasks == ["t0", "t1", "t2"]


async def test_reading_back_survives_a_broker_that_is_away(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a record that is gone meanwhile costs itself alone."""
    monkeypatch.setattr(backlogs, "RETRY_S", 0.02)
    one = make(dispatch={"max_held_bytes": 1})
    for offset in range(4):
        one.take(offset, **FLY)
    await settle()
    del one.log["tasks", 2]
    one.read_again_errors.extend([KafkaConnectionError("away")] * 3)
    appear(one)
    for offset in (0, 1, 3):
        assert (await one.result(offset))["status"] == "success"
    await until(lambda: ("tasks", 2, []) in one.partition.ended)
    assert one.resting == 0


async def test_nothing_happens_after_the_partition_is_closed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next owner begins anew with all of it."""
    monkeypatch.setattr(unassigned, "CHECK_S", 0.01)
    one = make(dispatch={"max_held_bytes": 1})
    for offset in range(3):
        one.take(offset, metadata={"expiresIn": 300}, **FLY)
    await settle()
    one.handler.close()
    appear(one)
    await asyncio.sleep(0.5)
    assert one.partition.ended == []
    assert one.transport.calls == []


async def test_tasks_of_agents_in_a_queue_are_not_read_back_by_those_that_wait_for_one(make: Make) -> None:
    """What an agent's queue has read back is that queue's business: it asks for more when it runs low."""
    one = make(dispatch={"max_held_bytes": 10 * TASK_BYTES})
    one.register(id="hog", endpoint="http://h")
    one.transport.gate.clear()
    for offset in range(100):
        one.take(offset, target="hog")
    await asyncio.sleep(0.1)
    read_by_the_queue = list(one.asked_again)
    one.take(100, target="unknown")  # one that waits for an agent, beside them
    await asyncio.sleep(2 * unassigned.CHECK_S)
    assert one.memory.used <= 10 * TASK_BYTES
    assert one.asked_again == read_by_the_queue
