"""Tasks of one ordering key: called one at a time and in order, whatever happens to them on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from agents_io.errors import ServerError
from schemas.partitioning import owner_partition
from streams.dispatch import ordering
from streams.rules.source_record import AGENT_HEADER, ORDER_HEADER
from tests.support.dispatching import AGENT
from tests.support.ordering import all_gone, back, handlers, moved, take
from tests.support.wait import settle, until

pytestmark = pytest.mark.virtual_time


@pytest.fixture
async def make() -> AsyncIterator[Any]:
    """Handlers that are closed at the end."""
    with handlers() as build:
        yield build


async def test_one_at_a_time_in_order_and_others_beside_it(make: Any) -> None:
    """Another key, and tasks without one, do not wait."""
    one = make()
    one.transport.gate.clear()
    for offset in range(3):
        take(one, offset)
    take(one, 3, "other")
    take(one, 4, None)
    await until(lambda: len(one.transport.calls) == 3)
    await settle()
    assert one.transport.tasks == ["tasks-0", "tasks-3", "tasks-4"]
    assert one.handler.explain("tasks", 1)["reason"] == "ordering"
    one.transport.gate.set()
    await all_gone(one)
    assert one.transport.tasks == ["tasks-0", "tasks-3", "tasks-4", "tasks-1", "tasks-2"]


async def test_a_key_orders_within_one_agent(make: Any) -> None:
    """Two agents have two conversations."""
    one = make()
    one.register(id="a2", endpoint="http://h")
    one.transport.gate.clear()
    take(one, 0)
    one.take(1, target="a2", metadata={"orderingKey": "k"})
    await until(lambda: len(one.transport.calls) == 2)


async def test_a_task_in_backoff_keeps_its_key(make: Any) -> None:
    """Until it has ended, well or not."""
    one = make(retry={"initial_delay": 10_000})
    one.transport.script.extend([ServerError("500")] * 2)
    take(one, 0, retries=1)
    take(one, 1)
    await asyncio.sleep(5)
    assert one.transport.tasks == ["tasks-0"]
    assert (await one.result(0))["status"] == "failure"
    await one.result(1)
    assert one.transport.tasks == ["tasks-0", "tasks-0", "tasks-1"]


async def test_a_later_task_of_higher_priority_does_not_overtake(make: Any) -> None:
    """Priority orders between keys."""
    one = make()
    one.transport.gate.clear()
    take(one, 0)
    take(one, 1, priority=-5)
    take(one, 2, priority=5)
    await settle()
    one.transport.gate.set()
    await all_gone(one)
    assert one.transport.tasks == ["tasks-0", "tasks-1", "tasks-2"]


@pytest.mark.parametrize("kept", [0, 8], ids=["on its topic", "in memory"])
async def test_one_that_waits_expires_and_is_cancelled_in_time(
    make: Any, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    """Neither waits for its turn, and those behind go on in order."""
    monkeypatch.setattr(ordering, "KEEP", kept or 1)
    monkeypatch.setattr(ordering, "MAX_IN_MEMORY", kept)
    one = make()
    one.transport.gate.clear()
    take(one, 0)
    take(one, 1, expiresIn=3000)
    take(one, 2)
    take(one, 3)
    one.cancel_requests["tasks-2"] = "unwanted"
    await settle()
    one.handler.cancel("tasks-2")
    assert (await one.result(2))["status"] == "cancelled"
    assert one.handler.explain("tasks", 3)["reason"] == "ordering"
    began = asyncio.get_running_loop().time()
    assert (await one.result(1))["error"]["code"] == "expired"
    assert asyncio.get_running_loop().time() - began < 3.6
    assert one.transport.tasks == ["tasks-0"]
    one.transport.gate.set()
    await all_gone(one)
    assert one.transport.tasks == ["tasks-0", "tasks-3"]


async def test_the_last_one_left_on_a_topic_that_ends_without_a_call_lets_another_topic_go_on(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read back when it has its turn, and cancelled meanwhile; the next task of its key lies on another topic."""
    monkeypatch.setattr(ordering, "MAX_IN_MEMORY", 0)
    one = make()
    one.may_read_again.clear()
    one.transport.gate.clear()
    take(one, 0)
    take(one, 1)
    take(one, 2, source="dispatch")
    await settle()
    one.transport.gate.set()
    await until(lambda: one.asked_again)
    [(source, offset)] = one.asked_again
    one.cancel_requests[f"{source}-{offset}"] = "unwanted"
    one.may_read_again.set()
    await all_gone(one)
    assert len(one.transport.tasks) == 2


async def test_a_cancelled_call_gives_its_turn_to_the_next(make: Any) -> None:
    """Cut off at the agent."""
    one = make()
    one.transport.gate.clear()
    take(one, 0)
    take(one, 1)
    await until(lambda: one.transport.tasks == ["tasks-0"])
    one.cancel_requests["tasks-0"] = "unwanted"
    one.handler.cancel("tasks-0")
    await until(lambda: one.transport.tasks == ["tasks-0", "tasks-1"])


async def test_a_cached_answer_waits_for_its_turn(make: Any) -> None:
    """The same question as one that was answered, behind a task that is still called."""
    one = make()
    one.take(0, payload="asked")
    await one.result(0)
    one.transport.gate.clear()
    take(one, 1)
    one.take(2, payload="asked", metadata={"orderingKey": "k"})
    await settle()
    assert len(one.partition.ended) == 1
    one.transport.gate.set()
    assert (await one.result(2))["cached"]
    assert [offset for _, offset, _ in one.partition.ended] == [0, 1, 2]


async def test_a_duplicate_does_not_hold_its_key(make: Any) -> None:
    """It ends when its turn comes, without a call."""
    one = make()
    take(one, 0)
    one.take(1, id="tasks-0", payload={}, metadata={"orderingKey": "k"})
    take(one, 2)
    await all_gone(one)
    assert one.transport.tasks == ["tasks-0", "tasks-2"]
    assert {output.topic for _, offset, outputs in one.partition.ended for output in outputs if offset == 1} == {
        "events"
    }


async def test_one_that_is_refused_gives_its_turn_to_the_next(make: Any) -> None:
    """The head is set aside by its agent's queue, and its record is gone when it is read again."""
    one = make(dispatch={"max_held_bytes": 10_000})
    one.transport.gate.clear()
    for offset in range(20):
        take(one, offset, None)
    take(one, 20)
    take(one, 21)
    await until(lambda: one.handler.explain("tasks", 20)["reason"] == "concurrency")
    del one.log["tasks", 20]
    one.transport.gate.set()
    await one.result(21)
    await all_gone(one)


async def test_a_new_owner_waits_for_what_was_relocated(make: Any) -> None:
    """A relocated task is older than those that lie on `tasks`; tasks without a key do not wait."""
    old = make()
    old.transport.gate.clear()
    for offset in range(3):
        take(old, offset)
    old.handler.unblock("tasks", [0, 1])
    outputs = [moved(old, 0), moved(old, 1)]
    assert dict(outputs[1].headers)[ORDER_HEADER] == b"tasks/1"
    new = make()
    new.partition.is_caught_up = False
    take(new, 2)
    take(new, 3, None)
    back(new, outputs[1], 11)  # relocated again, the older one lies behind the younger one
    await asyncio.sleep(1)
    assert new.transport.tasks == ["tasks-3"]
    back(new, outputs[0], 12)
    new.partition.is_caught_up = True
    await all_gone(new)
    assert new.transport.tasks == ["tasks-3", "tasks-0", "tasks-1", "tasks-2"]


async def test_none_is_relocated_before_the_earlier_ones_of_its_key(make: Any) -> None:
    """The first one's agent is still looked up; another key's tasks are relocated meanwhile."""
    one = make()
    one.transport.gate.clear()
    del one.agents.known["a1"]
    one.agents.gate.clear()
    take(one, 0)
    take(one, 1)
    one.handler.unblock("tasks", [0, 1])
    await settle()
    assert one.partition.ended == []
    one.register(**AGENT)
    one.agents.gate.set()
    await until(lambda: len(one.partition.ended) == 2)
    assert [offset for _, offset, _ in one.partition.ended] == [0, 1]
    moved(one, 0), moved(one, 1)


@pytest.mark.parametrize("topic", ["dispatch", "tasks"])
async def test_behind_one_that_stays_on_its_topic_only_its_own_topic_waits(make: Any, topic: str) -> None:
    """The first one is left on its topic by its agent's queue: of that topic it must be relocated before those behind it."""
    one = make(dispatch={"max_held_bytes": 10_000})
    one.transport.gate.clear()
    for offset in range(20):
        take(one, offset, None)
    take(one, 20, source=topic)
    take(one, 21)
    await until(lambda: one.handler.explain(topic, 20)["reason"] == "concurrency")
    one.handler.unblock("tasks", [21])
    await settle()
    assert [(source, offset) for source, offset, _ in one.partition.ended] == [("tasks", 21)] * (topic == "dispatch")
    one.handler.unblock(topic, [20])
    await until(lambda: len(one.partition.ended) == 2)
    assert moved(one, 20, topic).headers
    assert moved(one, 21).headers
    order = [(source, offset) for source, offset, _ in one.partition.ended]
    assert topic == "dispatch" or order == [("tasks", 20), ("tasks", 21)]


async def test_a_relocated_task_keeps_its_turn_here_too(make: Any) -> None:
    """Its record comes back while it is called; more than a few that wait stay on `parked` from then on."""
    one = make()
    one.transport.gate.clear()
    for offset in range(30):
        take(one, offset)
    await settle()
    one.handler.unblock("tasks", list(range(30)))
    await until(lambda: len(one.partition.ended) == 30)
    for offset in range(30):
        back(one, moved(one, offset), 100 + offset)
    await settle()
    assert one.resting >= 30 - 1 - ordering.KEEP, "one is called"
    one.transport.gate.set()
    await all_gone(one)
    assert one.transport.tasks == [f"tasks-{offset}" for offset in range(30)]


async def test_an_answer_that_waits_for_its_records_relocation_keeps_the_turn(make: Any) -> None:
    """Its result is written when the record has come back; that of the next one must not be written before."""
    one = make()
    one.transport.gate.clear()
    take(one, 0)
    take(one, 1)
    await until(lambda: one.transport.tasks == ["tasks-0"])
    one.handler.unblock("tasks", [0])
    one.transport.gate.set()
    await asyncio.sleep(1)
    assert one.transport.tasks == ["tasks-0"]
    back(one, moved(one, 0), 7)
    await all_gone(one)
    assert [(source, offset) for source, offset, _ in one.partition.ended] == [
        ("tasks", 0),
        ("parked", 7),
        ("tasks", 1),
    ]


async def test_tasks_of_a_key_that_name_no_agent_go_to_one_agent(make: Any) -> None:
    """From the partition of the key, in their order; that its circuit is open sends them nowhere else."""
    key = next(f"k{n}" for n in range(99) if owner_partition(f"k{n}", 4) == 1)
    one = make(1, 4)
    for name in ("s1", "s2", "s3"):
        one.register(id=name, endpoint="http://h", capabilities=["sum"])
    for offset in range(6):
        one.take(offset, target=None, capabilities=["sum"], metadata={"orderingKey": key})
    await until(lambda: len(one.partition.ended) == 6)
    sent = [outputs[0] for _, _, outputs in one.partition.ended]
    assert {output.topic for output in sent} == {"dispatch"}
    [agent] = {dict(output.headers)[AGENT_HEADER] for output in sent}
    assert [orjson.loads(output.value or b"")["id"] for output in sent] == [f"t{offset}" for offset in range(6)]
    for name in ("s1", "s2", "s3"):
        if name.encode() != agent:
            del one.agents.known[name]
    one.take(6, target=None, capabilities=["sum"], metadata={"orderingKey": key})
    await until(lambda: len(one.partition.ended) == 7)
    assert dict(one.partition.ended[6][2][0].headers)[AGENT_HEADER] == agent


async def test_a_chosen_agent_whose_circuit_is_open_is_waited_for(make: Any) -> None:
    """A task without a key would go to the other agent."""
    one = make(breaker={"failure_threshold": 1, "reset_timeout": 60_000})
    for name in ("s1", "s2"):
        one.register(id=name, endpoint="http://h", capabilities=["sum"])
    one.transport.script.append(ServerError("500"))
    one.take(0, target="s1", metadata={"retries": 0})
    await one.result(0)
    for offset, key in ((1, {"orderingKey": "k"}), (2, {})):
        one.take(
            offset, source="dispatch", target=None, capabilities=["sum"], metadata=key, payload=offset,
            headers=((AGENT_HEADER, b"s1"),),
        )  # fmt: skip
    assert (await one.result(2))["agentId"] == "s2"
    assert one.handler.explain("dispatch", 1)["reason"] == "circuit_open"
